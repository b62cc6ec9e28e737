"""Contact sheets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.evaluation.datasets import (
    read_audio_dataset,
)
from clip2clap.evaluation.report.contact_sheet import sheet_rows, write_contact_sheet
from clip2clap.inference.audio_to_image import AudioToImagePipeline

from .builders import (
    CONFIG,
    RATE,
    measure,
)


def test_a_contact_sheet_shows_the_first_audio_file_of_each_class(
    pipeline: AudioToImagePipeline, folder: Path
) -> None:
    dataset = read_audio_dataset(folder / "sounds", folder / "real")
    assert pipeline.translator is not None
    rows = sheet_rows(pipeline, pipeline.translator, dataset, config=CONFIG)
    assert [(name, len(images)) for name, _, images in rows] == [("dog", 3), ("sea wave", 3)]
    (one,) = measure(pipeline, folder).translators
    assert np.asarray(rows[1][2][0]) == pytest.approx(np.asarray(Image.open(one.files[3])), abs=1)
    dogs = read_audio_dataset(folder / "sounds" / "dog")
    with pytest.raises(UserError, match="subfolder per class"):
        sheet_rows(pipeline, pipeline.translator, dogs, config=CONFIG)


def test_rows_of_a_contact_sheet_fill_its_columns(tmp_path: Path) -> None:
    tone = np.sin(np.arange(RATE) / 3).astype(np.float32), RATE
    plain = [Image.new("RGB", (40, 40), color) for color in ("red", "lime", "blue")]
    rows = [(str(at), tone, plain[at:] + plain[:at]) for at in range(3)]
    write_contact_sheet(tmp_path / "sheet.png", rows)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    step, first = 46, 6 + 78 + 80 + 6
    column = first + 3 * step
    # Red is first in the first row, third in the one below it, second in that of the next column.
    for left, top in ((first, 0), (first + 2 * step, 1), (column + first + step, 0)):
        red, green, blue = np.asarray(sheet)[top * step + 26, left + 20].tolist()
        assert red > 200 > 60 > max(green, blue)
