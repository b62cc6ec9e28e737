"""Options of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clip2clap.core.actors import RayConfig
from clip2clap.core.errors import UserError, expect, is_integer, is_number
from clip2clap.media.writing import AudioFileOptions

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class BatchOptions:
    """Options of `generate_audio` beside those of the pipeline's call.

    Examples:
        >>> BatchOptions(num_variations=4, keep_candidates=True).seed
        0
    """

    seed: int = 0
    """Seed of the first job; job i has this plus i, unless it has its own."""

    num_variations: int = 1
    """Audio files per job, the most similar first, named NAME-1, NAME-2 and so on."""

    keep_candidates: bool = False
    """Whether to write the candidates that ranking dropped, into the subfolder `candidates`."""

    labels: tuple[str, ...] = ()
    """Labels, of which those nearest to each condition are noted; none are noted if empty."""

    min_similarity: float | None = None
    """Skip a job whose condition is less similar to every label."""

    describe: "Callable[[Image], str] | None" = None
    """Returns a prompt that describes an image, which audio is made of in place of the image."""

    description: Mapping[str, Any] | None = None
    """What decides the descriptions, such as the captioner: they are settings of the jobs."""

    spectrogram: bool = False
    """Whether to write an image of the spectrogram of each audio file."""

    manifest: bool = True
    """Whether to write `manifest.jsonl` and `index.html`, and to skip jobs that were done before.
    Without it several runs may write to the folder at once."""

    overwrite: bool = False
    """Whether to do again what was done, and to replace files of other origin."""

    allow_private: bool = False
    """Whether to download images from this machine and its network."""

    batch_size: int | None = None
    """Candidates generated at once; by default as many as free memory allows, up to 8 on a CPU and
    32 on a GPU. Halved where memory is lacking."""

    ray: RayConfig | None = None
    """Cluster whose actors generate, each with a copy of the pipeline, while this process reads and
    writes; None to generate in this process."""

    ray_device: str = "cpu"
    """Device of the actors: `"cpu"`, or `"cuda"` for a GPU each."""

    file: AudioFileOptions = field(default_factory=AudioFileOptions)
    """Format, sampling rate, channels and level of the files."""

    @property
    def format(self) -> str:
        """Suffix of the audio files, without the dot."""
        return self.file.format or "wav"

    def __post_init__(self) -> None:
        holds = is_integer(self.seed) and self.seed >= 0
        expect(holds, "seed", "an integer from 0", self.seed)
        for name in ("num_variations", "batch_size"):
            value = getattr(self, name)
            holds = (name == "batch_size" and value is None) or (is_integer(value) and value > 0)
            expect(holds, name, "a positive integer", value)
        least = self.min_similarity
        holds = least is None or (is_number(least) and -1 <= least <= 1)
        expect(holds, "min_similarity", "from -1 to 1", least)
        if least is not None and self.describe is not None:
            raise UserError(
                "Similarity is that of translated images, and these are described.",
                param="min_similarity",
            )
        if least is not None and not self.labels:
            raise UserError(
                "Similarity is that to the nearest of labels=..., and there are none.",
                param="min_similarity",
            )
