"""Contact sheet: a recording of each class and the images generated from it."""

from collections.abc import Sequence
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


SheetRow = tuple[str, Audio, Sequence[Image.Image]]
"""Name of a recording, its waveform with the sampling rate in Hz, and the images generated from it.
"""


def sheet_rows(
    pipeline: AudioToImagePipeline,
    translator: Translator,
    dataset: AudioDataset,
    *,
    config: GenerationConfig,
) -> list[SheetRow]:
    """Generate images from the first recording of each class, in alphabetical order.

    The translator maps from the pipeline's CLAP into the decoder's CLIP. The first image of each
    recording is the one that `evaluate_images` measures.

    Raises:
        UserError: If the recordings have no labels, or are a table's rows without files.
    """
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
        num_candidates=IMAGES_PER_ROW,
        generator=[torch.Generator().manual_seed(config.seed + place) for place in places],
        num_inference_steps=config.num_inference_steps,
        batch_size=config.batch_size,
    )
    generated = batched(cast(list[Image.Image], output.images), IMAGES_PER_ROW)
    return list(zip(labels, map(load_audio, files), generated, strict=True))


def write_contact_sheet(path: str | Path, rows: Sequence[SheetRow]) -> None:
    """Write recordings' spectrograms beside their images as a PNG of 128 colors.

    The rows fill column by column. Images are at most 96 pixels wide; spectrograms are twice as
    wide.
    """
    side = min(rows[0][2][0].width, _LARGEST_SIDE)
    deep = -(-len(rows) // _COLUMNS)
    width = _WORDS_WIDTH + (2 + IMAGES_PER_ROW) * (side + _GAP) + _GAP
    height = side + _GAP
    sheet = Image.new("RGB", (_COLUMNS * width, deep * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for at, (name, audio, images) in enumerate(rows):
        left, top = at // deep * width + _GAP, at % deep * height + _GAP
        draw.text((left, top + side // 2), printable(name), "black", font, anchor="lm")
        left += _WORDS_WIDTH
        sheet.paste(draw_spectrogram(*audio, width=2 * side, height=side), (left, top))
        left += 2 * side + _GAP
        for image in images:
            shown = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(shown, (left, top))
            left += side + _GAP
    write_image(path, sheet.quantize(_COLORS, dither=Image.Dither.NONE))
