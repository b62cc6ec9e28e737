"""Models that all users share, and the limits and folders of a server."""

from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from clip2clap.web.folders import Folders
from clip2clap.web.limits import Limits
from clip2clap.web.metrics import Metrics
from clip2clap.web.runs import Workers

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.embeddings.encoders.speech import SpeechEncoder
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.search.caption import FileCaptioner
    from clip2clap.search.index import Index
    from clip2clap.search.keywords import KeywordExtractor
    from clip2clap.web.comparing import Contest

_EXAMPLES = {"A cat": "chelsea.png", "A rocket": "rocket.jpg"}


@dataclass(frozen=True)
class Models:
    """Pipelines and encoders, loaded once: threads share them."""

    image_to_audio: "ImageToAudioPipeline"
    audio_to_image: "AudioToImagePipeline"
    clip: "ClipEncoder"
    """CLIP that names images."""
    clap: "ClapEncoder"
    """CLAP that names audio."""
    canvas: "Canvas"
    """Autoencoder that images are painted with."""
    captioner: "FileCaptioner | None" = None
    """Captioner of images, audio or both."""
    speech: "SpeechEncoder | None" = None
    """Encoder of speech into the space of `clip`."""
    index: "Index | None" = None
    """Index to search in."""
    names: dict[str, str] = field(default_factory=dict)
    """Names of models that are not the demo's, by the option of the command line that sets them."""

    def options(self, *names: str) -> dict[str, str]:
        """Return those of some options that are not at their default."""
        return {name: self.names[name] for name in names if name in self.names}


class Service:
    """Everything that the pages of a server share; `close` ends all runs and removes all files."""

    def __init__(self, models: Models, limits: Limits, contest: "Contest | None" = None):
        self.models, self.limits, self.contest = models, limits, contest
        self.metrics = Metrics()
        self.folders, self.workers = Folders(limits), Workers(limits.workers, self.metrics.observe)
        self.metrics.watch("runs_running", lambda: self.workers.running)
        self.metrics.watch("stored_bytes", self.folders.size)
        self._extractors: dict[str, KeywordExtractor] = {}
        self._lock = Lock()

    def extractor(self, vocabulary: str) -> "KeywordExtractor":
        """Return the extractor of a label set's keywords, which is loaded once."""
        from clip2clap.search.keywords import KeywordExtractor

        with self._lock:
            if vocabulary not in self._extractors:
                models = self.models
                self._extractors[vocabulary] = KeywordExtractor(
                    vocabulary, clip=models.clip, clap=models.clap
                )
            return self._extractors[vocabulary]

    def close(self) -> None:
        """Cancel all runs, and remove all files."""
        self.workers.close()
        self.folders.close()

    @cached_property
    def examples(self) -> dict[str, Path]:
        """Images to begin with, by what they show: copies of those that scikit-image has."""
        folder = self.folders.root / "examples"
        folder.mkdir()
        found = {}
        for title, name in _EXAMPLES.items():
            found[title] = folder / name
            found[title].write_bytes((resources.files("skimage.data") / name).read_bytes())
        return found
