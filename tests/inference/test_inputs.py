"""Single items and lists of them, as the field passes images and audio."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.inference.inputs import as_list, check_number, is_count, read_audio, read_images

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
SAMPLES = np.linspace(-0.5, 0.5, 800, dtype=np.float32)


@pytest.mark.parametrize(
    "item",
    [
        "a.jpg",
        Path("a.jpg"),
        b"bytes",
        io.BytesIO(b"bytes"),
        Image.fromarray(PIXELS),
        PIXELS,
        torch.from_numpy(PIXELS),
        {"bytes": b"bytes", "path": None},
        (SAMPLES, 8000),
        (8000, SAMPLES),
        (torch.from_numpy(SAMPLES), 8000.0),
        7,
    ],
    ids=lambda item: type(item).__name__,
)
def test_a_single_item_is_a_list_of_one(item):
    (found,) = as_list(item) or []
    assert found is item


def test_a_batch_of_images_is_their_list():
    batch = torch.from_numpy(np.stack([PIXELS, 255 - PIXELS]))
    for images in (batch, batch.numpy(), batch.permute(0, 3, 1, 2), list(batch), tuple(batch)):
        loaded = read_images(as_list(images) or [])
        assert [np.asarray(image).tolist() for image in loaded] == batch.tolist()


def test_of_several_the_wrong_one_is_numbered():
    with pytest.raises(UserError, match="Image 2 of 2: Expected floats"):
        read_images([PIXELS, PIXELS.astype(np.float32)])
    with pytest.raises(UserError, match="Audio 2 of 2: Expected"):
        read_audio([(SAMPLES, 8000), ("x", "y")], 0.0, None)


def test_numbers_of_numpy_are_numbers():
    assert all(map(is_count, (3, np.int64(3), np.uint8(3))))
    assert not any(map(is_count, (True, np.bool_(True), 3.0, np.float64(3), 0, "3", None)))
    for number in (0.5, np.float32(0.5), np.float64(0.5), np.int16(1)):
        check_number(number, "eta", 1.0)
    for number in (True, float("nan"), np.float32(2), "0.5", None):
        with pytest.raises(UserError, match="eta"):
            check_number(number, "eta", 1.0)
