"""Contact sheet: a recording of each class and the images generated from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image, ImageDraw, ImageFont

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import UserError, printable
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.classifiers import Audio
from clip2clap.evaluation.datasets import AudioDataset
from clip2clap.evaluation.encoding import translate
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.media.audio import load_audio
from clip2clap.media.images import write_image
from clip2clap.media.spectrogram import draw_spectrogram
from clip2clap.translator.base import Translator

IMAGES_PER_ROW = 3
"""Images per recording."""

_COLUMNS = 2
_GAP = 6
_WORDS_WIDTH = 78
_FONT_SIZE = 13
_LARGEST_SIDE = 96
# Large enough to recognize objects, in a small file.
_COLORS = 128


@dataclass(frozen=True)
class SheetRow:
    """Recording, as waveform and sampling rate in Hz, and the images generated from it."""

    name: str
    audio: Audio
    images: Sequence[Image.Image]


def sheet_rows(
    pipeline: AudioToImagePipeline,
    translator: Translator,
    dataset: AudioDataset,
    *,
    num_images: int = IMAGES_PER_ROW,
    config: GenerationConfig | None = None,
) -> list[SheetRow]:
    """Generate images from the first recording of each class, in alphabetical order.

    The translator maps from the pipeline's CLAP into the decoder's CLIP. The first image of each
    recording is the one that `evaluate_images` measures.

    Raises:
        UserError: If the recordings have no labels, or are a table's rows without files.
    """
    config = config or GenerationConfig()
    chosen: dict[str, tuple[int, Path]] = {}
    for place, item in enumerate(dataset.items):
        if item.label is not None and item.path is not None:
            chosen.setdefault(item.label, (place, item.path))
    if not chosen:
        raise UserError(
            "A contact sheet shows a recording of each class. Expected a folder of recordings "
            "with one subfolder per class.",
            param="recordings",
        )
    labels = sorted(chosen)
    places, files = zip(*(chosen[label] for label in labels), strict=True)
    output = pipeline(
        image_embeds=translate(translator, pipeline.encode_audio(list(files))),
        num_candidates=num_images,
        generator=[torch.Generator().manual_seed(config.seed + place) for place in places],
        num_inference_steps=config.num_inference_steps,
        batch_size=config.batch_size,
    )
    generated = batched(cast(list[Image.Image], output.images), num_images)
    return [
        SheetRow(label, load_audio(file), images)
        for label, file, images in zip(labels, files, generated, strict=True)
    ]


def write_contact_sheet(
    path: str | Path, rows: Sequence[SheetRow], *, side: int | None = None, columns: int = _COLUMNS
) -> None:
    """Write recordings' spectrograms beside their images as a PNG of 128 colors.

    The rows fill column by column. An image's width `side` is by default its own, at most 96
    pixels; spectrograms are twice as wide.

    Raises:
        UserError: If there are no rows, or their numbers of images differ.
    """
    numbers = {len(row.images) for row in rows}
    if len(numbers) != 1 or numbers == {0}:
        raise UserError(
            f"Expected rows with equal numbers of images, got {sorted(numbers) or 'no rows'}."
        )
    (number,) = numbers
    side = side or min(rows[0].images[0].width, _LARGEST_SIDE)
    deep = -(-len(rows) // columns)
    width = _WORDS_WIDTH + (2 + number) * (side + _GAP) + _GAP
    height = side + _GAP
    sheet = Image.new("RGB", (columns * width, deep * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for at, row in enumerate(rows):
        left, top = at // deep * width + _GAP, at % deep * height + _GAP
        draw.text((left, top + side // 2), printable(row.name), "black", font, anchor="lm")
        left += _WORDS_WIDTH
        sheet.paste(draw_spectrogram(*row.audio, width=2 * side, height=side), (left, top))
        left += 2 * side + _GAP
        for image in row.images:
            shown = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(shown, (left, top))
            left += side + _GAP
    write_image(path, sheet.quantize(_COLORS, dither=Image.Dither.NONE))
