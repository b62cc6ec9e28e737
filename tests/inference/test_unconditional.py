"""Unconditional diffusion of pixels, and checkpoints of OpenAI's layout."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.inference.loading.guided_diffusion import load_guided_diffusion
from clip2clap.inference.painting.paint import Target
from clip2clap.inference.similarity_guidance import GuidanceOptions, SimilarityGuidance
from clip2clap.inference.unconditional import UnconditionalDiffusion

CHANNELS = (32, 64, 128)
TIME = 4 * CHANNELS[0]


def resnet(name: str, width: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.in_layers.0", (width,)
    yield f"{name}.in_layers.2", (out, width, 3, 3)
    yield f"{name}.emb_layers.1", (2 * out, TIME)
    yield f"{name}.out_layers.0", (out,)
    yield f"{name}.out_layers.3", (out, out, 3, 3)
    if width != out:
        yield f"{name}.skip_connection", (out, width, 1, 1)


def attention(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.norm", (width,)
    yield f"{name}.qkv", (3 * width, width, 1)
    yield f"{name}.proj_out", (width, width, 1)


def layout() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the modules of the published layout with one residual block a level, tiny."""
    yield "time_embed.0", (TIME, CHANNELS[0])
    yield "time_embed.2", (TIME, TIME)
    yield "input_blocks.0.0", (CHANNELS[0], 3, 3, 3)
    width, skips, at = CHANNELS[0], [CHANNELS[0]], 1
    for level, out in enumerate(CHANNELS):
        yield from resnet(f"input_blocks.{at}.0", width, out)
        if level:
            yield from attention(f"input_blocks.{at}.1", out)
        width, at = out, at + 1
        skips.append(width)
        if level < len(CHANNELS) - 1:
            yield from resnet(f"input_blocks.{at}.0", width, width)
            skips, at = [*skips, width], at + 1
    yield from resnet("middle_block.0", width, width)
    yield from attention("middle_block.1", width)
    yield from resnet("middle_block.2", width, width)
    at = 0
    for level in (2, 1, 0):
        for place in range(2):
            yield from resnet(f"output_blocks.{at}.0", width + skips.pop(), CHANNELS[level])
            width = CHANNELS[level]
            if level:
                yield from attention(f"output_blocks.{at}.1", width)
            if level and place:
                yield from resnet(f"output_blocks.{at}.2", width, width)
            at += 1
    yield "out.0", (width,)
    yield "out.2", (6, width, 3, 3)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in layout():
        made[f"{name}.weight"] = 0.08 * torch.randn(shape, generator=generator)
        made[f"{name}.bias"] = 0.08 * torch.randn(shape[:1], generator=generator)
    return made


@pytest.fixture
def file(weights, tmp_path) -> Path:
    torch.save(weights, tmp_path / "uncond.pt")
    return tmp_path / "uncond.pt"


class Reference:
    """Forward pass of guided diffusion's `UNetModel`, written from its paper and its code."""

    def __init__(self, weights: dict[str, Tensor]):
        self.weights = weights

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def norm(self, name: str, values: Tensor) -> Tensor:
        return F.group_norm(values, 32, *self.of(name))

    def block(self, name: str, values: Tensor, time: Tensor, scale: Any = None) -> Tensor:
        hidden = F.silu(self.norm(f"{name}.in_layers.0", values))
        if scale is not None:
            hidden, values = scale(hidden), scale(values)
        hidden = F.conv2d(hidden, *self.of(f"{name}.in_layers.2"), padding=1)
        added = F.linear(F.silu(time), *self.of(f"{name}.emb_layers.1"))[..., None, None]
        gain, shift = added.chunk(2, dim=1)
        hidden = F.silu(self.norm(f"{name}.out_layers.0", hidden) * (1 + gain) + shift)
        hidden = F.conv2d(hidden, *self.of(f"{name}.out_layers.3"), padding=1)
        if f"{name}.skip_connection.weight" in self.weights:
            values = F.conv2d(values, *self.of(f"{name}.skip_connection"))
        return values + hidden

    def attend(self, name: str, values: Tensor) -> Tensor:
        if f"{name}.qkv.weight" not in self.weights:
            return values
        flat = values.flatten(2)
        joint = F.conv1d(self.norm(f"{name}.norm", flat), *self.of(f"{name}.qkv"))
        # Heads are outermost: queries, keys and values of the first, then those of the next.
        heads = joint.unflatten(1, (-1, 3, 64)).transpose(-1, -2)
        query, key, value = heads.unbind(2)
        found = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2).flatten(1, 2)
        return values + F.conv1d(found, *self.of(f"{name}.proj_out")).view_as(values)

    def __call__(self, values: Tensor, timesteps: Tensor) -> Tensor:
        rates = torch.exp(-np.log(10_000) * torch.arange(16) / 16)
        angles = timesteps[:, None].float() * rates
        time = torch.cat([angles.cos(), angles.sin()], dim=1)
        time = F.silu(F.linear(time, *self.of("time_embed.0")))
        time = F.linear(time, *self.of("time_embed.2"))
        values = F.conv2d(values, *self.of("input_blocks.0.0"), padding=1)
        skips = [values]
        for at in range(1, 6):
            scale = (lambda x: F.avg_pool2d(x, 2)) if at % 2 == 0 else None
            values = self.block(f"input_blocks.{at}.0", values, time, scale)
            values = self.attend(f"input_blocks.{at}.1", values)
            skips.append(values)
        values = self.block("middle_block.0", values, time)
        values = self.attend("middle_block.1", values)
        values = self.block("middle_block.2", values, time)
        for at in range(6):
            joined = torch.cat([values, skips.pop()], dim=1)
            values = self.block(f"output_blocks.{at}.0", joined, time)
            values = self.attend(f"output_blocks.{at}.1", values)
            if at in (1, 3):
                double = lambda x: F.interpolate(x, scale_factor=2)  # noqa: E731
                values = self.block(f"output_blocks.{at}.2", values, time, double)
        return F.conv2d(F.silu(self.norm("out.0", values)), *self.of("out.2"), padding=1)


@torch.no_grad()
def test_a_converted_model_predicts_as_the_published_architecture_does(weights, file, tmp_path):
    values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([3, 700])
    expected = Reference(weights)(values, timesteps)
    assert expected.std() > 0.01
    save_file(weights, tmp_path / "uncond.safetensors")
    for path in (file, tmp_path / "uncond.safetensors"):
        model = load_guided_diffusion(path)
        assert model.config["sample_size"] == 32
        assert torch.allclose(model(values, timesteps).sample, expected, atol=1e-5)


def test_damaged_and_other_checkpoints_are_refused(weights, file, tmp_path):
    others = {
        "input_blocks.3.1.qkv.bias": "missing",
        "middle_block.2.in_layers.2.weight": "missing",
    }
    for name in others:
        torch.save({key: value for key, value in weights.items() if key != name}, file)
        with pytest.raises(CheckpointError):
            load_guided_diffusion(file)
    torch.save({**weights, "more.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"more\.weight"):
        load_guided_diffusion(file)
    torch.save({**weights, "label_emb.weight": torch.zeros(10, TIME)}, file)
    with pytest.raises(CheckpointError, match="class-conditional"):
        load_guided_diffusion(file)
    torch.save({"conv.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="layout"):
        load_guided_diffusion(file)
    torch.save([1], file)
    with pytest.raises(CheckpointError, match="no weights by name"):
        load_guided_diffusion(file)
    file.write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_guided_diffusion(file)
    with pytest.raises(ModelNotFoundError):
        load_guided_diffusion(tmp_path / "nowhere.pt")


class Redness:
    """Encoder of an image's mean color."""

    def encode_pixels(self, pixel_values: Tensor, *, size: int | None = None) -> Tensor:
        means = pixel_values.mean(dim=(2, 3)) + 1e-3
        return torch.nn.functional.normalize(means, dim=1)


def test_guidance_steers_it_and_strength_0_does_not(file):
    model = UnconditionalDiffusion.from_pretrained(file)
    target = Target(torch.tensor([1.0, 0.0, 0.0]))
    options: Any = {"num_inference_steps": 4, "height": 16, "width": 16}

    def make(strength: float | None) -> np.ndarray:
        guidance = None
        if strength is not None:
            own = GuidanceOptions(strength=strength, iterations=1, cutouts=1)
            guidance = SimilarityGuidance(Redness(), [target], own)
        return np.asarray(model([3], guidance=guidance, **options)[0]).astype(float)

    def redness(image: np.ndarray) -> float:
        means = image.mean(axis=(0, 1))
        return means[0] / np.linalg.norm(means)

    plain = make(None)
    assert np.array_equal(plain, make(0))
    assert redness(make(4)) > redness(make(1)) > redness(plain)


def test_an_image_is_started_from(file):
    model = UnconditionalDiffusion.from_pretrained(file)
    start = Image.new("RGB", (16, 16), (200, 30, 30))
    options: Any = {"num_inference_steps": 10, "height": 16, "width": 16, "image": start}
    (kept,) = model([0], strength=0, **options)
    assert np.abs(np.asarray(kept).astype(int) - np.asarray(start)).max() <= 1
    with pytest.raises(UserError, match="a multiple of 4 pixels"):
        model([0], height=18)
    with pytest.raises(UserError, match="strength"):
        model([0], strength=2)


def test_the_verb_guides_it_by_words_and_strength_0_is_its_plain_sampler(run, file, tmp_path):
    quick = ("--steps", 2, "--gradient-steps", 1, "--cutouts", 1, "--cut-size", 64, "--seed", 3)
    own = ("--unconditional", file, "--clip", "demo", "--device", "cpu", *quick)
    for strength in (0, 2):
        out = tmp_path / f"{strength}.png"
        status, _, said = run(
            "guide", "--target-text", "fire", *own, "--guidance-strength", strength, "-o", out
        )
        assert status == 0, said
    entry = json.loads((tmp_path / "2.json").read_text())
    (similarity,) = entry["similarities"]
    assert similarity["target"] == "fire"
    model = UnconditionalDiffusion.from_pretrained(file)
    plain = model([torch.Generator().manual_seed(3)], num_inference_steps=2)[0]
    found = [np.asarray(Image.open(tmp_path / f"{strength}.png")) for strength in (0, 2)]
    assert np.array_equal(found[0], np.asarray(plain))
    assert not np.array_equal(found[1], found[0])
    status, _, said = run("guide", "--target-text", "fire", *own, "-o", tmp_path / "a.wav")
    assert status == 2
    assert "--unconditional" in said
