"""Images chosen by speech, and images named by the nearest spoken name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError, expect, is_number, one_line
from clip2clap.core.files import as_path, visible_files
from clip2clap.core.labels import check_labels
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.media.audio import SUFFIXES, load_audio, require_audible
from clip2clap.media.synthesis import VOICES, find_synthesizer, speak

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.embeddings.encoders.speech import SpeechEncoder

_NUMBERED = re.compile(r"(.+?)[ _-]*\d+")


class SpokenLabels(ZeroShotClassifier):
    """Classifier of images by spoken names: the nearest utterance of each name counts.

    SAliCLIP's image classification, of ObjectNet's names. It takes the place of a
    `ZeroShotClassifier`.

    Args:
        speech: Speech encoder.
        clip: CLIP of the images, whose space the speech encoder's is.
        utterances: Audio of each name, one or several, as `load_audio` reads it.
        temperature: Divisor of the cosine similarities in the softmax; by default the CLIP's own.

    Attributes:
        unreadable: Reason by utterance that cannot be read, or is silent, and is left out; a name
            without any other is left out, too.

    Raises:
        SpaceMismatchError: If the speech encoder is another CLIP's.
        UserError: If there are no names, or none has an utterance that can be read.

    Examples:
        >>> from clip2clap import ClipEncoder
        >>> from clip2clap.embeddings.encoders.speech import SpeechEncoder
        >>> clip = ClipEncoder.from_pretrained("demo")
        >>> speech = SpeechEncoder.from_pretrained("demo")
        >>> labels = SpokenLabels(speech, clip, {"dog": ["dog.wav"], "sea": ["sea.wav"]})
        >>> labels.nearest(clip.encode_image(["dog.jpg"]), k=1)
        [[('...', 0...)]]
    """

    def __init__(
        self,
        speech: "SpeechEncoder",
        clip: "ClipEncoder",
        utterances: Mapping[str, Sequence[Any]],
        *,
        temperature: float | None = None,
    ):
        speech.check_clip(clip.space(clip.modalities[0]))
        if temperature is not None:
            positive = is_number(temperature) and temperature > 0
            expect(positive, "temperature", "above 0", temperature)
        check_labels(list(utterances))
        self.encoder = clip
        silent = [name for name, own in utterances.items() if not own]
        if silent:
            raise UserError(f"The name {silent[0]!r} has no utterance.", param="spoken_labels")
        found, self.unreadable = _load_utterances(utterances)
        self.labels = list(found)
        self.label_embeds = speech.encode_audio([each for own in found.values() for each in own])
        """Embeddings of the utterances, shape (utterances, d), float32, unit norm."""
        counts = torch.tensor([len(own) for own in found.values()])
        self._owners = torch.arange(len(counts)).repeat_interleave(counts)
        self._scale = clip.logit_scale if temperature is None else 1 / temperature
        self._speech = speech

    def fits(self, embeds: Tensor) -> list[float | None]:
        """Return the probability that the nearest name is right, None without calibration."""
        found = self._speech.fit_probability(self._similarities(embeds).amax(dim=1))
        return [None] * len(embeds) if found is None else found.tolist()

    def _similarities(self, embeds: Tensor) -> Tensor:
        found = super()._similarities(embeds)  # (n, utterances)
        nearest = torch.full((len(found), len(self.labels)), -torch.inf)
        return nearest.scatter_reduce(1, self._owners.expand_as(found), found, "amax")


def _load_utterances(
    utterances: Mapping[str, Sequence[Any]],
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return the utterances of each name that can be read, and the reasons of the others."""
    found: dict[str, list[Any]] = {}
    unreadable: dict[str, str] = {}
    for name, own in utterances.items():
        for number, each in enumerate(own, start=1):
            try:
                found.setdefault(name, []).append(load_utterance(each))
            except (UserError, OSError) as error:
                source = str(each) if isinstance(each, str | Path) else f"{name}, {number}"
                unreadable[source] = one_line(error, limit=None)
    found = {name: own for name, own in found.items() if own}
    if not found:
        raise UserError(
            f"No spoken name can be read: {next(iter(unreadable.values()), 'there is none.')}",
            param="spoken_labels",
        )
    return found, unreadable


def load_utterance(source: Any) -> Any:
    """Load speech as a waveform with its sampling rate.

    Raises:
        UserError: If it cannot be read, or is silent.
    """
    audio = load_audio(source)
    require_audible(audio[0], str(source) if isinstance(source, str | Path) else "the speech")
    return audio


def rank_images(speech_embeds: Tensor, image_embeds: Tensor, *, scale: float) -> Tensor:
    """Return the probability that each image is meant by speech.

    Args:
        speech_embeds: Shape (n, d), unit norm.
        image_embeds: Shape (m, d), unit norm.
        scale: Factor of the similarities in the softmax, as `ClipEncoder.logit_scale`.

    Returns:
        Shape (n, m), rows sum to 1.
    """
    return (scale * speech_embeds @ image_embeds.T).softmax(dim=-1)


def read_spoken_labels(folder: str | Path) -> dict[str, list[Path]]:
    """Read a folder of spoken names.

    Args:
        folder: Folder with one subfolder per name, or with files such as `dog.wav`, or `dog_1.wav`
            and `dog_2.wav`. Underscores stand for spaces.

    Raises:
        UserError: If it is no folder, or has no audio.
    """
    path = as_path(folder)
    if not path.is_dir():
        raise UserError(
            f"{folder} is neither a folder of spoken names nor objectnet.", param="spoken_labels"
        )
    found: dict[str, list[Path]] = {}
    for each in sorted(path.iterdir()):
        if each.is_dir() and not each.name.startswith("."):
            files = visible_files(each, SUFFIXES)
            if files:
                found[each.name.replace("_", " ")] = files
    for file in visible_files(path, SUFFIXES):
        numbered = _NUMBERED.fullmatch(file.stem)
        name = numbered[1] if numbered else file.stem
        found.setdefault(name.replace("_", " ").strip(), []).append(file)
    if not found:
        raise UserError(
            f"{folder} has no spoken names: expected a subfolder with audio per name, or files "
            "such as dog_1.wav.",
            param="spoken_labels",
        )
    return found


def speak_labels(names: Sequence[str]) -> dict[str, list[Any]]:
    """Return names spoken by the voices of the synthesizer that is installed.

    Raises:
        MissingExtraError: If there is none.
    """
    synthesizer = find_synthesizer()
    voices = VOICES[synthesizer]
    return {
        name: [speak(name, voice=voice, synthesizer=synthesizer) for voice in voices]
        for name in names
    }
