"""Models and targets of the verb `paint`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.cli.checks import require
from clip2clap.cli.inputs import load_audible, load_named_image
from clip2clap.cli.options.generation import Paint
from clip2clap.core.presets import resolve

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.inference.painting.paint import Target

_PART_WEIGHT = 0.3
_SMALLEST_DEFAULT = 64
_USUAL_DEFAULT = 256


@dataclass
class Painter:
    """Models that paint; CLAP and translator are None without audio targets."""

    canvas: "Canvas"
    clip: "ClipEncoder"
    clap: Any = None
    translator: Any = None
    allow_private: bool = False

    @property
    def default_side(self) -> int:
        """Width and height that the autoencoder was trained on, in pixels."""
        side = self.canvas.autoencoder.config["sample_size"]
        # In published VQModels this is the size of the latent.
        return side if side >= _SMALLEST_DEFAULT else _USUAL_DEFAULT

    def load_image(self, source: str) -> Any:
        """Load an image from a file or URL."""
        return load_named_image(source, allow_private=self.allow_private)

    def targets(
        self, weighted: Mapping[str, Sequence[tuple[str, float]]], parts: int
    ) -> "list[Target]":
        """Return targets from texts, images and audio with their weights, by modality.

        An audio file has so many parts beside the whole, with less weight; silent ones are left
        out.

        Raises:
            UserError: If a file cannot be read, or is silent.
        """
        from clip2clap.inference.painting.paint import Target, split_waveform
        from clip2clap.media.audio import is_silent

        found = []
        for text, weight in weighted.get("text", ()):
            found.append(Target(self.clip.encode_text([text])[0], weight, text))
        for path, weight in weighted.get("image", ()):
            embed = self.clip.encode_image([self.load_image(path)])[0]
            found.append(Target(embed, weight, path))
        for source, weight in weighted.get("audio", ()):
            waveform, sampling_rate = load_audible(source)
            pieces = {source: waveform}
            if parts > 1:
                cut = enumerate(split_waveform(waveform, parts), 1)
                pieces |= {f"{source} ({number}/{parts})": piece for number, piece in cut}
            audible = {name: piece for name, piece in pieces.items() if not is_silent(piece)}
            embeds = self.clap.encode_audio([(piece, sampling_rate) for piece in audible.values()])
            translated = self.translator(embeds.to(self.clip.device)).detach().float().cpu()
            for name, embed in zip(audible, translated, strict=True):
                of_whole = weight if name == source else weight * _PART_WEIGHT
                found.append(Target(embed, of_whole, name))
        return found


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
    painter = Painter(canvas, clip, allow_private=options.allow_private)
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
