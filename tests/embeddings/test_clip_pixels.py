"""Pictures that are tensors, embedded with a gradient."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder


def smooth_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture of soft patches, as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def as_pixels(image: Image.Image) -> Tensor:
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def demo() -> ClipEncoder:
    return ClipEncoder.from_pretrained("demo", modalities=["image"])


@pytest.mark.parametrize("shape", [(64, 64), (90, 61), (40, 77), (20, 33)])
def test_pixels_embed_as_the_image_itself_does(clip_folder: Path, shape: tuple[int, int]):
    clip = ClipEncoder.from_pretrained(clip_folder)
    image, other = smooth_image(*shape), smooth_image(*shape, seed=1)
    expected = clip.encode_image([image, other])
    got = clip.encode_pixels(as_pixels(image))
    assert (got @ expected[0]).item() > 0.9999
    assert (got @ expected[1]).item() < 0.999  # the control: another picture is told apart


def test_pixels_follow_another_processor_s_options(clip_folder: Path, tmp_path: Path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    options: dict[str, Any] = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    options |= {"resample": 2, "image_mean": [0.2, 0.3, 0.4], "rescale_factor": 1 / 127.5}
    CLIPImageProcessorPil(**options).save_pretrained(tmp_path)
    clip = ClipEncoder.from_pretrained(tmp_path)
    image = smooth_image(70, 50)
    assert (clip.encode_pixels(as_pixels(image)) @ clip.encode_image([image])[0]).item() > 0.9999


def test_the_demo_clip_takes_pixels_of_any_size(demo: ClipEncoder):
    image = smooth_image(80, 80)
    pixels = as_pixels(image)
    assert demo.takes_any_size
    expected = demo.encode_image([image, smooth_image(80, 80, seed=1)])
    own, other = (demo.encode_pixels(pixels) @ expected.T)[0].tolist()
    assert own > 0.95 > 0.8 > other
    at_own_size = demo.encode_pixels(pixels, size=demo.image_size)
    assert torch.allclose(at_own_size, demo.encode_pixels(pixels), atol=1e-5)
    assert not torch.allclose(demo.encode_pixels(pixels, size=64), at_own_size, atol=1e-2)


def test_the_gradient_is_the_slope_of_the_similarity(clip_folder: Path):
    clip = ClipEncoder.from_pretrained(clip_folder)
    target = clip.encode_image([smooth_image(48, 48, seed=1)])[0]
    pixels = as_pixels(smooth_image(48, 48)).requires_grad_()
    (slope,) = torch.autograd.grad((clip.encode_pixels(pixels) @ target).sum(), pixels)
    with torch.no_grad():
        step = 1e-3 * slope / slope.norm()
        rise = (
            (clip.encode_pixels(pixels + step) - clip.encode_pixels(pixels - step)) @ target
        ).sum() / 2
    assert rise.item() == pytest.approx(1e-3 * slope.norm().item(), rel=0.05)


@pytest.mark.parametrize(
    ("pixels", "size", "says"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), None, "floating point"),
        (torch.zeros(3, 8, 8), None, r"\(n, 3, h, w\)"),
        (torch.zeros(1, 1, 8, 8), None, r"\(n, 3, h, w\)"),
        (torch.zeros(1, 3, 32, 32), 48, "32 x 32"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(
    clip_folder: Path, pixels: Tensor, size: int | None, says: str
):
    with pytest.raises(UserError, match=says):
        ClipEncoder.from_pretrained(clip_folder).encode_pixels(pixels, size=size)
