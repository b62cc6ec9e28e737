"""One picture that shows what each kind of recording became."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.evaluation.datasets.audio import AudioDataset
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.media.audio import load_audio
from clip2clap.media.spectrogram import draw_spectrogram
from clip2clap.translator.base import Translator

PICTURES = 3
"""How many pictures of a recording are shown."""

_COLUMNS = 2
_GAP = 6
_WORDS_WIDTH = 78
_FONT_SIZE = 13
_LARGEST_SIDE = 96
# Enough to tell things apart, and few enough bytes to be sent around.
_COLOURS = 128


@dataclass(frozen=True)
class SheetRow:
    """A recording and its pictures."""

    name: str
    """What sounds."""

    sound: tuple[np.ndarray, int]
    """The recording: samples of shape (samples,) and their rate in Hz."""

    pictures: Sequence[Image.Image]
    """What was made of it."""


def sheet_rows(
    pipeline: AudioToImagePipeline,
    translator: Translator,
    audio_items: AudioDataset,
    *,
    pictures: int = PICTURES,
    seed: int = 0,
    num_inference_steps: int | None = None,
    batch_size: int = 8,
) -> list[SheetRow]:
    """Make pictures of the first recording of each kind.

    Args:
        pipeline: Makes them, and hears the recordings.
        translator: From the pipeline's CLAP into the decoder's CLIP.
        audio_items: Recordings with labels.
        pictures: How many of each; the first is the one that `evaluate_images` measures.
        seed: The recording at place i of all takes gets the noise of seed + i.
        num_inference_steps: Denoising steps; the pipeline's default if None.
        batch_size: Pictures made at a time.

    Returns:
        A row for each kind, in alphabetical order.

    Raises:
        UserError: If the recordings have no labels, or are vectors of a table without files.
    """
    chosen = {}
    for place, audio_item in enumerate(audio_items.audio_items):
        if audio_item.label is not None and audio_item.recording is not None:
            chosen.setdefault(audio_item.label, (place, audio_item.recording))
    if not chosen:
        raise UserError(
            "A contact sheet shows a recording of each kind: give a folder of recordings with a "
            "folder for each class in it."
        )
    order = [chosen[label] for label in sorted(chosen)]
    heard = pipeline.encode_audio([file for _, file in order])
    with torch.no_grad():
        vectors = translator(heard.to(translator.device)).float().cpu()
    made = pipeline(
        image_embeds=vectors,
        num_images_per_prompt=pictures,
        generator=[torch.Generator().manual_seed(seed + place) for place, _ in order],
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
    )
    images: list[Any] = list(made.images)
    return [
        SheetRow(label, load_audio(file), images[at * pictures : (at + 1) * pictures])
        for at, (label, (_, file)) in enumerate(zip(sorted(chosen), order, strict=True))
    ]


def write_contact_sheet(
    path: str | Path, rows: Sequence[SheetRow], *, side: int | None = None, columns: int = _COLUMNS
) -> None:
    """Lay recordings' spectrograms out beside their pictures, in a PNG of few colours.

    Args:
        path: The PNG to write; its folder must exist. A file of that name is replaced.
        rows: What to show, column by column; each with as many pictures.
        side: Of a picture, in pixels; by default its own width, or 96 if that is less.
            Spectrograms are twice as wide.
        columns: Of rows, side by side.

    Raises:
        UserError: If there are no rows, or they hold unlike numbers of pictures.
    """
    numbers = {len(row.pictures) for row in rows}
    if len(numbers) != 1 or numbers == {0}:
        raise UserError(
            f"Expected rows with as many pictures each, got {sorted(numbers) or 'no rows'}."
        )
    (number,) = numbers
    side = side or min(rows[0].pictures[0].width, _LARGEST_SIDE)
    deep = -(-len(rows) // columns)
    width = _WORDS_WIDTH + (2 + number) * (side + _GAP) + _GAP
    height = side + _GAP
    sheet = Image.new("RGB", (columns * width, deep * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for at, row in enumerate(rows):
        left, top = at // deep * width + _GAP, at % deep * height + _GAP
        draw.text((left, top + side // 2), row.name, "black", font, anchor="lm")
        left += _WORDS_WIDTH
        sheet.paste(draw_spectrogram(*row.sound, width=2 * side, height=side), (left, top))
        left += 2 * side + _GAP
        for picture in row.pictures:
            shown = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(shown, (left, top))
            left += side + _GAP
    with replacing(Path(path)) as partial:
        sheet.quantize(_COLOURS, dither=Image.Dither.NONE).save(partial, "PNG", optimize=True)
