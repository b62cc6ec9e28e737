"""Comparisons of two translators: audio of one image by each, from the same seed."""

import hashlib
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.core.errors import UserError
from clip2clap.web.making import AudioOrder
from clip2clap.web.runs import Run
from clip2clap.web.votes import Choice, Vote, Votes

if TYPE_CHECKING:
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline

_SIDES = ("left", "right")


@dataclass(frozen=True)
class Contestant:
    """One of the two translators, in a pipeline."""

    translator: str | None
    """Name of the translator on the command line; None for the generator's own."""
    pipeline: "ImageToAudioPipeline" = field(repr=False)
    fingerprint: str
    """Fingerprint of the translator's weights."""

    @property
    def name(self) -> str:
        """Name for users."""
        return self.translator or "the generator's own"

    @classmethod
    def of(cls, name: str | None, pipeline: "ImageToAudioPipeline") -> "Contestant":
        """Return a pipeline's translator by its name."""
        from clip2clap.embeddings.fingerprint import fingerprint_tensors

        translator: Any = pipeline.translator
        return cls(name, pipeline, fingerprint_tensors(translator.state_dict().values()))


@dataclass
class Comparison:
    """Audio of two translators, on sides that were drawn by chance."""

    folder: Path
    """Folder of `left.wav` and `right.wav`, whose names tell nothing."""
    order: AudioOrder
    sides: tuple[Contestant, Contestant]
    """Translator of the audio on the left, and on the right."""
    image: str
    """Hash of the image's pixels."""
    is_blind: bool
    choice: Choice | None = None

    @property
    def files(self) -> list[Path]:
        """Audio on the left and on the right."""
        return [self.folder / f"{side}.wav" for side in _SIDES]


class Contest:
    """Contest of two translators, of which users compare the audio, and its votes.

    Args:
        first: Translator that the server generates with.
        second: Translator to compare it with.
        votes: Votes.
    """

    def __init__(self, first: Contestant, second: Contestant, votes: Votes):
        self.pair, self.votes = (first, second), votes
        self._comparisons: dict[str, Comparison] = {}

    def compare(self, folder: Path, order: AudioOrder, run: Run, *, is_blind: bool) -> Comparison:
        """Generate audio of an image with each translator into a folder.

        Raises:
            UserError: If the image cannot be read, or an argument is invalid.
            InterruptedCallError: If the run is cancelled.
        """
        from clip2clap.media.images import load_image
        from clip2clap.media.writing import write_audio

        run.advance(0.0, "Reading the image")
        image = load_image(order.name if order.content is None else order.content)
        first, second = self.pair
        sides = (first, second) if random.SystemRandom().random() < 0.5 else (second, first)
        digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:16]
        comparison = Comparison(folder, order, sides, digest, is_blind)
        run.begin_batch(1, len(sides))
        for contestant, path in zip(sides, comparison.files, strict=True):
            output = contestant.pipeline(
                image,
                audio_length_in_s=order.seconds,
                num_inference_steps=order.steps,
                num_candidates=order.candidates,
                generator=[order.seed],
                callback_on_step_end=run.count_step,
            )
            write_audio(path, output.audios[0], output.sampling_rate)
        kept = self._comparisons
        self._comparisons = {name: each for name, each in kept.items() if each.folder.exists()}
        self._comparisons[folder.name] = comparison
        return comparison

    def find(self, token: object) -> Comparison:
        """Return a comparison by the name of its folder.

        Raises:
            UserError: If it is kept no longer.
        """
        found = self._comparisons.get(str(token))
        if found is None or not found.folder.exists():
            raise UserError("There is no comparison yet, or it is kept no longer. Make one.")
        return found

    def vote(self, comparison: Comparison, choice: Choice) -> None:
        """Cast the one vote of a comparison.

        Raises:
            UserError: If it was cast, or cannot be written.
        """
        if comparison.choice is not None:
            raise UserError("You have voted on these two. Make another comparison.")
        (left, right), order = comparison.sides, comparison.order
        self.votes.add(
            Vote(
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                image=comparison.image,
                seed=str(order.seed),
                seconds=f"{order.seconds:g}",
                left=left.name,
                left_fingerprint=left.fingerprint,
                right=right.name,
                right_fingerprint=right.fingerprint,
                vote=choice,
                blind="yes" if comparison.is_blind else "no",
            )
        )
        comparison.choice = choice
