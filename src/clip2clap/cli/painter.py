"""Models and targets of the verb `paint`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.cli.checks import check_image, parse_weighted, require
from clip2clap.cli.inputs import load_audible, load_named_image
from clip2clap.cli.options.generation import Paint
from clip2clap.cli.spoken import load_speech_encoder, parse_speech
from clip2clap.core.presets import resolve

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.painting.paint import Target


class _TargetEncoder:
    """Encoder of targets into the space that its subclass encodes into."""

    allow_private: bool

    def load_image(self, source: str) -> Any:
        """Load an image from a file or URL."""
        return load_named_image(source, allow_private=self.allow_private)

    def targets(
        self, weighted: Mapping[str, Sequence[tuple[str, float]]], parts: int
    ) -> "list[Target]":
        """Return targets from texts, images, audio and speech with their weights, by kind.

        An audio or speech file has so many parts beside the whole, with less weight; silent ones
        are left out.

        Raises:
            UserError: If a file cannot be read, or is silent.
        """
        from clip2clap.inference.painting.paint import Target
        from clip2clap.inference.painting.targets import audio_targets

        found = []
        for text, weight in weighted.get("text", ()):
            found.append(Target(self._encode_text(text), weight, text))
        for path, weight in weighted.get("image", ()):
            found.append(Target(self._encode_image(self.load_image(path)), weight, path))
        encoders = {"audio": self._encode_audio, "speech": self._encode_speech}
        for kind, encode in encoders.items():
            for source, weight in weighted.get(kind, ()):
                waveform, rate = load_audible(source)
                found += audio_targets(
                    waveform, rate, encode, name=source, weight=weight, parts=parts
                )
        return found

    def _encode_text(self, text: str) -> "Tensor":
        raise NotImplementedError

    def _encode_image(self, image: Any) -> "Tensor":
        raise NotImplementedError

    def _encode_audio(self, audio: "Sequence[tuple[np.ndarray, int]]") -> "Tensor":
        raise NotImplementedError

    def _encode_speech(self, audio: "Sequence[tuple[np.ndarray, int]]") -> "Tensor":
        raise NotImplementedError


@dataclass
class TargetEncoder(_TargetEncoder):
    """Encoder of targets into a CLIP's space.

    CLAP, translator and speech encoder are None without such targets.
    """

    clip: "ClipEncoder"
    clap: Any = None
    translator: Any = None
    speech: Any = None
    allow_private: bool = False

    def _encode_text(self, text: str) -> "Tensor":
        return self.clip.encode_text([text])[0]

    def _encode_image(self, image: Any) -> "Tensor":
        return self.clip.encode_image([image])[0]

    def _encode_speech(self, audio: "Sequence[tuple[np.ndarray, int]]") -> "Tensor":
        return self.speech.encode_audio(audio)

    def _encode_audio(self, audio: "Sequence[tuple[np.ndarray, int]]") -> "Tensor":
        embeds = self.clap.encode_audio(audio)
        return self.translator(embeds.to(self.clip.device)).detach().float().cpu()


@dataclass
class AudioTargetEncoder(_TargetEncoder):
    """Encoder of targets into a CLAP's space; images are translated by an image-to-audio pipeline.

    The CLAP is that of the pipeline's generator.
    """

    clap: "ClapEncoder"
    pipeline: Any
    allow_private: bool = False

    def _encode_text(self, text: str) -> "Tensor":
        return self.pipeline.encode_text([text])[0]

    def _encode_image(self, image: Any) -> "Tensor":
        return self.pipeline.translate(self.pipeline.encode_image([image]))[0]

    def _encode_audio(self, audio: "Sequence[tuple[np.ndarray, int]]") -> "Tensor":
        return self.clap.encode_audio(audio)


@dataclass
class Painter(TargetEncoder):
    """Models that paint."""

    canvas: Any = None


def parse_targets(options: Any) -> dict[str, list[tuple[str, float]]]:
    """Return the targets of `--target-...` and `--speech` with their weights, by kind.

    Raises:
        UserError: If a weight is no number, or a file does not exist.
    """
    examples = {
        "text": "TEXT:WEIGHT such as 'a red dog:0.5'",
        "image": "FILE:WEIGHT such as dog.jpg:0.5",
        "audio": "FILE:WEIGHT such as dog.wav:0.5",
    }
    further = {
        modality: parse_weighted(getattr(options, f"target_{modality}"), f"target_{modality}", each)
        for modality, each in examples.items()
    }
    for modality in ("image", "audio"):
        for file, _ in further[modality]:
            check_image(file, f"target_{modality}")
    return {**further, "speech": parse_speech(options)}


def load_painter(options: Paint, *, has_audio: bool, device: Any) -> Painter:
    """Load the models of painting; from a decoder only the parts that are not named separately.

    Raises:
        UserError: If a part is neither named nor in the decoder, cannot be found, or does not fit
            another.
    """
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.translator.auto import AutoTranslator

    names = _part_names(options, has_audio=has_audio)
    canvas = Canvas.from_pretrained(names["autoencoder"], device=device)
    clip = ClipEncoder.from_pretrained(names["clip"], device=device)
    painter = Painter(clip, allow_private=options.allow_private, canvas=canvas)
    if options.speech:
        painter.speech = load_speech_encoder(options, device, clip.space("image"))
    if has_audio:
        clap = ClapEncoder.from_pretrained(names["clap"], device=device, modalities=["audio"])
        translator = AutoTranslator.from_pretrained(names["translator"]).to(device)
        translator.check_source(clap.space("audio"))
        translator.check_target(painter.clip.space("image"))
        painter.clap, painter.translator = clap, translator
    return painter


def _part_names(options: Paint, *, has_audio: bool) -> dict[str, str]:
    """Return the name or folder of each part that is needed."""
    from clip2clap.inference.loading.files import fetch_folder, read_index

    parts = ["clip", *(["clap", "translator"] if has_audio else [])]
    names: dict[str, Any] = {part: getattr(options, part) for part in ("autoencoder", *parts)}
    if None in names.values():
        wanted = [part for part in parts if names[part] is None]
        decoder = resolve(options.decoder, "decoder")
        folder: Path = fetch_folder(decoder, wanted, kind="decoder")
        index = read_index(folder, expected="AudioToImagePipeline.save_pretrained")
        names["autoencoder"] = names["autoencoder"] or decoder
        for part in wanted:
            saved = (index.get(part) or [None])[0] is not None
            names[part] = str(folder / part) if saved else index.get(f"{part}_id")
            require(
                names[part] is not None, part, f"{options.decoder} has none of its own. Name one."
            )
    return names
