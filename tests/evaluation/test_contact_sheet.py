"""Contact sheets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.evaluation.datasets import (
    read_audio_dataset,
)
from clip2clap.evaluation.report.contact_sheet import SheetRow, sheet_rows, write_contact_sheet
from clip2clap.inference.audio_to_image import AudioToImagePipeline

from .builders import (
    CONFIG,
    RATE,
    measure,
)


def test_a_contact_sheet_shows_the_first_recording_of_each_kind(
    pipeline: AudioToImagePipeline, folder: Path
) -> None:
    dataset = read_audio_dataset(folder / "sounds", folder / "real")
    assert pipeline.translator is not None
    rows = sheet_rows(pipeline, pipeline.translator, dataset, config=CONFIG)
    assert [(row.name, len(row.images)) for row in rows] == [("dog", 3), ("sea wave", 3)]
    (one,) = measure(pipeline, folder).translators
    assert np.asarray(rows[1].images[0]) == pytest.approx(
        np.asarray(Image.open(one.files[3])), abs=1
    )
    with pytest.raises(UserError, match="subfolder per class"):
        sheet_rows(pipeline, pipeline.translator, read_audio_dataset(folder / "sounds" / "dog"))


def test_rows_of_a_contact_sheet_stand_one_below_the_other(tmp_path: Path) -> None:
    tone = np.sin(np.arange(RATE) / 3).astype(np.float32), RATE
    plain = [Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue")]
    rows = [SheetRow(str(at), tone, plain[at:] + plain[:at]) for at in range(3)]
    write_contact_sheet(tmp_path / "sheet.png", rows, side=40, columns=1)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    seen = np.asarray(sheet).astype(int)
    place = np.argwhere(np.abs(seen - (255, 0, 0)).sum(2) < 30)
    # Red is first in the first row, third in the second, second in the third.
    tops = sorted({int(top) // 46 for top, _ in place})
    lefts = [int(place[place[:, 0] // 46 == top][:, 1].min()) for top in tops]
    assert tops == [0, 1, 2]
    assert [lefts[1] - lefts[0], lefts[2] - lefts[0]] == [2 * 46, 46]
    for wrong in ([], [rows[0], SheetRow("x", tone, plain[:2])]):
        with pytest.raises(UserError, match="equal numbers of images"):
            write_contact_sheet(tmp_path / "sheet.png", wrong)
