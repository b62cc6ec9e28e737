"""Models and targets of the verb `paint`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.cli.checks import require
from clip2clap.cli.options.generation import PainterOptions
from clip2clap.core.presets import resolve

if TYPE_CHECKING:
    import torch

    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.inference.painting.paint import Target
    from clip2clap.translator.base import Translator

_PART_WEIGHT = 0.3
_SMALLEST_DEFAULT = 64
_USUAL_DEFAULT = 256


@dataclass
class Painter:
    """Models that paint."""

    canvas: "Canvas"
    """Autoencoder whose latent is optimized."""

    clip: "ClipEncoder"
    """CLIP of the targets."""

    clap: "ClapEncoder | None"
    """CLAP, if there are audio targets."""

    translator: "Translator | None"
    """Translator from the CLAP to the CLIP, if there are audio targets."""

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height that the autoencoder was trained on, in pixels."""
        side = self.canvas.autoencoder.config["sample_size"]
        # In published VQModels this is the size of the latent.
        side = side if side >= _SMALLEST_DEFAULT else _USUAL_DEFAULT
        return side, side

    def text_target(self, text: str, weight: float) -> "Target":
        """Return the target of a text."""
        from clip2clap.inference.painting.paint import Target

        return Target(self.clip.encode_text([text])[0], weight, text)

    def image_target(self, path: str, weight: float) -> "Target":
        """Return the target of an image."""
        from clip2clap.inference.painting.paint import Target

        return Target(self.clip.encode_image([path])[0], weight, path)

    def audio_targets(self, source: str, weight: float, parts: int) -> "list[Target]":
        """Return the targets of an audio file: the whole, and its parts with less weight.

        Raises:
            UserError: If it cannot be read, or is silent.
        """
        from clip2clap.inference.painting.paint import Target, split_waveform
        from clip2clap.media.audio import is_silent, load_audio, require_audible

        assert self.clap is not None
        assert self.translator is not None
        waveform, sampling_rate = load_audio(source)
        require_audible(waveform, source)
        pieces = {source: waveform}
        if parts > 1:
            cut = enumerate(split_waveform(waveform, parts), 1)
            pieces |= {f"{source} ({number}/{parts})": piece for number, piece in cut}
        audible = {name: piece for name, piece in pieces.items() if not is_silent(piece)}
        embeds = self.clap.encode_audio([(piece, sampling_rate) for piece in audible.values()])
        translated = self.translator(embeds.to(self.clip.device)).detach().float().cpu()
        weights = [weight, *[weight * _PART_WEIGHT] * (len(audible) - 1)]
        return [
            Target(embed, each, name)
            for embed, each, name in zip(translated, weights, audible, strict=True)
        ]


def load_painter(models: PainterOptions, *, has_audio: bool, device: "torch.device") -> Painter:
    """Load the models of painting; from a decoder only the parts that are not named separately.

    Raises:
        UserError: If a part is neither named nor in the decoder, cannot be found, or does not fit
            another.
    """
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.translator.auto import AutoTranslator

    names = _part_names(models, has_audio=has_audio)
    painter = Painter(
        canvas=Canvas.from_pretrained(names["autoencoder"], device=device),
        clip=ClipEncoder.from_pretrained(names["clip"], device=device),
        clap=None,
        translator=None,
    )
    if has_audio:
        clap = ClapEncoder.from_pretrained(names["clap"], device=device, modalities=["audio"])
        translator = AutoTranslator.from_pretrained(names["translator"]).to(device)
        translator.check_source(clap.space("audio"))
        translator.check_target(painter.clip.space("image"))
        painter.clap, painter.translator = clap, translator
    return painter


def _part_names(models: PainterOptions, *, has_audio: bool) -> dict[str, str]:
    """Return the name or folder of each part that is needed."""
    from clip2clap.inference.loading.files import fetch_folder, read_index

    parts = ["clip", *(["clap", "translator"] if has_audio else [])]
    names: dict[str, Any] = {part: getattr(models, part) for part in ("autoencoder", *parts)}
    if None in names.values():
        wanted = [part for part in parts if names[part] is None]
        decoder = resolve(models.decoder, "decoder")
        folder: Path = fetch_folder(decoder, wanted, kind="decoder")
        index = read_index(folder, expected="AudioToImagePipeline.save_pretrained")
        names["autoencoder"] = names["autoencoder"] or decoder
        for part in wanted:
            saved = (index.get(part) or [None])[0] is not None
            names[part] = str(folder / part) if saved else index.get(f"{part}_id")
            require(
                names[part] is not None, part, f"{models.decoder} has none of its own. Name one."
            )
    return names
