"""What pipelines make in an evaluation, kept in files so that a run that was stopped goes on."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.evaluation.encoding import parts
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio_writer import write_audio
from clip2clap.media.image_writer import write_image

_MADE_FILE = "made.json"


class MadeFiles:
    """A folder of what was made from vectors, a file each.

    Args:
        folder: The folder; files in it that were made otherwise are replaced.
        names: What each is made of.
        suffix: What the files' names end in.
        settings: All that decides what comes out, beside the vectors.
        vectors: What each is made from, shape (n, d).
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        suffix: str,
        settings: dict[str, Any],
        vectors: Tensor,
    ):
        self.folder = folder
        digest = hashlib.blake2b(vectors.numpy().tobytes(), digest_size=8).hexdigest()
        self.settings = {**settings, "vectors": digest}
        plain = [name.replace("/", "-") for name in names]
        self.files = [folder / f"{at:05d}-{name}{suffix}" for at, name in enumerate(plain)]
        self.seconds: dict[str, float] = self._read()

    @property
    def seconds_each(self) -> float:
        """The mean time one took to make."""
        return sum(self.seconds.values()) / len(self.seconds)

    def make_missing(
        self,
        make: Callable[[list[int]], Sequence[Any]],
        write: Callable[[Path, Any], None],
        *,
        batch_size: int,
        advance: Callable[[float], None],
    ) -> None:
        """Make what isn't there yet.

        Args:
            make: Makes those at some places.
            write: Writes one to a file.
            batch_size: How many to make at a time.
            advance: Called with the share that is done.

        Raises:
            UserError: If the folder can't be written to.
        """
        missing = [
            at
            for at, file in enumerate(self.files)
            if file.name not in self.seconds or not file.is_file()
        ]
        for batch in parts(missing, batch_size):
            start = time.perf_counter()
            made = make(batch)
            seconds = (time.perf_counter() - start) / len(batch)
            try:
                self._write(batch, made, write, seconds)
            except OSError as error:
                raise UserError(
                    f"{self.folder} can't be written to: {error.strerror or error}. Give another "
                    "folder."
                ) from error
            advance((batch[-1] + 1) / len(self.files))

    def _read(self) -> dict[str, float]:
        try:
            made = json.loads((self.folder / _MADE_FILE).read_text(encoding="utf-8"))
            return made["seconds"] if made["settings"] == self.settings else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write(
        self,
        batch: Sequence[int],
        made: Sequence[Any],
        write: Callable[[Path, Any], None],
        seconds: float,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for at, one in zip(batch, made, strict=True):
            write(self.files[at], one)
            self.seconds[self.files[at].name] = seconds
        kept = {"settings": self.settings, "seconds": self.seconds}
        with replacing(self.folder / _MADE_FILE) as partial:
            partial.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def make_sounds(
    pipeline: ImageToAudioPipeline,
    vectors: Tensor,
    folder: Path,
    names: Sequence[str],
    *,
    seed: int,
    num_inference_steps: int | None,
    audio_length_in_s: float | None,
    batch_size: int,
    advance: Callable[[float], None],
) -> MadeFiles:
    """Make sounds of CLAP vectors, and keep them as WAV files.

    One sound is made of a vector, whatever the pipeline's default: a choice among candidates by the
    CLAP that measures would flatter what is measured.

    Args:
        pipeline: Makes them.
        vectors: Shape (n, d), on the CPU.
        folder: Where they go.
        names: What each is made of.
        seed: The sound at place i gets the noise of seed + i.
        num_inference_steps: Denoising steps; the pipeline's default if None.
        audio_length_in_s: Their length; the pipeline's default if None.
        batch_size: Sounds made at a time.
        advance: Called with the share that is done.
    """
    settings = {
        "pipeline": str(pipeline.config.get("_name_or_path")),
        "seed": seed,
        "steps": num_inference_steps or pipeline.config["default_num_inference_steps"],
        "seconds": audio_length_in_s or pipeline.default_audio_length_in_s,
    }

    def make(batch: list[int]) -> list[tuple[np.ndarray, int]]:
        made = pipeline(
            prompt_embeds=vectors[batch],
            generator=_generators(seed, batch),
            num_inference_steps=settings["steps"],
            audio_length_in_s=settings["seconds"],
            num_candidates=1,
            batch_size=batch_size,
        )
        return [(sound, made.sampling_rate) for sound in np.asarray(made.audios)]

    made = MadeFiles(folder, names, ".wav", settings, vectors)
    made.make_missing(
        make,
        lambda path, sound: write_audio(path, *sound),
        batch_size=batch_size,
        advance=advance,
    )
    return made


def make_pictures(
    pipeline: AudioToImagePipeline,
    vectors: Tensor,
    folder: Path,
    names: Sequence[str],
    *,
    seed: int,
    num_inference_steps: int | None,
    batch_size: int,
    advance: Callable[[float], None],
) -> MadeFiles:
    """Make pictures of CLIP vectors, and keep them as PNG files; arguments as in `make_sounds`."""
    settings = {
        "pipeline": str(pipeline.config.get("_name_or_path")),
        "seed": seed,
        "steps": num_inference_steps or pipeline.config["default_num_inference_steps"],
    }

    def make(batch: list[int]) -> list[Any]:
        made = pipeline(
            image_embeds=vectors[batch],
            generator=_generators(seed, batch),
            num_inference_steps=settings["steps"],
            batch_size=batch_size,
        )
        return list(made.images)

    made = MadeFiles(folder, names, ".png", settings, vectors)
    made.make_missing(make, write_image, batch_size=batch_size, advance=advance)
    return made


def _generators(seed: int, places: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + at) for at in places]
