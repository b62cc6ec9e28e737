"""Painting towards vectors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.painting.canvas import Canvas
from clip2clap.inference.painting.cutouts import cut_out
from clip2clap.inference.painting.paint import (
    Painting,
    PaintingOptions,
    Target,
    paint,
    split_waveform,
    total_variation,
)

SIZE = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def autoencoder_kl() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),  # pyright: ignore[reportArgumentType]
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        scaling_factor=0.5,
    ).eval()


def movq() -> VQModel:
    """Kandinsky's autoencoder in all but size."""
    torch.manual_seed(0)
    model = VQModel(
        block_out_channels=(32, 32),  # the groups of a spatial norm are 32
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=32,
        norm_type="spatial",
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    ).eval()
    torch.nn.init.normal_(model.quantize.embedding.weight, std=0.7)
    return model


class LinearSurface:
    """A decoder that is a matrix: latents of a few numbers to 2 x 2 pixels."""

    def __init__(self, columns: int):
        self.matrix = torch.randn(12, columns, generator=seeded(1), dtype=torch.float64)

    def pixels(self, latent: Tensor) -> Tensor:
        return (self.matrix @ latent.flatten()).view(1, 3, 2, 2)

    def distance(self, latent: Tensor) -> Tensor:
        return latent.square().mean()


class LinearEncoder:
    """An encoder that is the pixels' direction."""

    def encode_pixels(self, pixel_values: Tensor, *, size: int | None = None) -> Tensor:
        return F.normalize(pixel_values.flatten(1), dim=-1)


def random_target(dim: int, seed: int, weight: float = 1.0) -> Target:
    return Target(F.normalize(torch.randn(dim, generator=seeded(seed)), dim=0), weight)


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> ClipEncoder:
    return ClipEncoder.from_pretrained(clip_folder)


@pytest.fixture(scope="module", params=[autoencoder_kl, movq])
def canvas(request: pytest.FixtureRequest) -> Canvas:
    return Canvas(request.param())


def options(**changed: Any) -> PaintingOptions:
    plain = PaintingOptions(iterations=25, cutouts=2, step_size=0.2, total_variation=0.0)
    return replace(plain, **changed)


def painted(canvas: Canvas, clip: ClipEncoder, target: Target, seed: int = 0, **changed: Any):
    return paint(
        canvas,
        clip,
        [target],
        latent=canvas.noise(SIZE, SIZE, seeded(seed)),
        options=options(**changed),
        generator=seeded(seed),
    )


def test_the_loss_falls_and_each_image_is_nearest_to_its_own_target(canvas, clip):
    # Opposites: what brings an image near to any vector at all must not pass.
    targets = [random_target(12, 5), Target(-random_target(12, 5).embed)]
    first = canvas.noise(SIZE, SIZE, seeded())
    for target, other in (targets, targets[::-1]):
        start = Painting(
            canvas, clip, [target], latent=first, options=options(), generator=seeded()
        ).evaluate()
        own, control = painted(canvas, clip, target), painted(canvas, clip, other)
        assert own.loss < start.loss - 0.05
        seen = clip.encode_pixels(canvas.pixels(control.latent))[0] @ target.embed
        assert own.similarities[0] > seen.item() + 0.1


@pytest.mark.parametrize("columns", [3, 7, 12])
def test_a_linear_decoder_reaches_the_closed_form_optimum(columns):
    """The cosine's maximum over a subspace is the length of the target's projection onto it."""
    surface = LinearSurface(columns)
    embed = F.normalize(torch.randn(12, generator=seeded(2), dtype=torch.float64), dim=0)
    basis, _ = torch.linalg.qr(surface.matrix)
    result = paint(
        surface,
        LinearEncoder(),
        [Target(embed)],
        latent=0.1 * torch.randn(1, columns, 1, 1, generator=seeded(3), dtype=torch.float64),
        options=PaintingOptions(
            iterations=800, step_size=0.05, cutouts=1, augment=False, total_variation=0.0
        ),
        generator=seeded(),
    )
    assert result.similarities[0] == pytest.approx((basis.T @ embed).norm().item(), abs=1e-4)


def test_the_same_seed_gives_the_same_image_and_another_seed_another(canvas, clip):
    target = random_target(12, 5)
    images = [painted(canvas, clip, target, seed=seed, iterations=5) for seed in (0, 0, 1)]
    assert torch.equal(images[0].latent, images[1].latent)
    assert not torch.equal(images[0].latent, images[2].latent)


def test_a_negative_weight_turns_away(canvas, clip):
    wanted, unwanted = random_target(12, 5), random_target(12, 7)
    sights = []
    for weight in (0.0, -2.0):
        result = paint(
            canvas,
            clip,
            [wanted, Target(unwanted.embed, weight)],
            latent=canvas.noise(SIZE, SIZE, seeded()),
            options=options(),
            generator=seeded(),
        )
        sights.append(result.similarities[1])
    assert sights[1] < sights[0] - 0.05


def test_the_best_so_far_survives_an_interruption_and_painting_goes_on_from_it(canvas, clip):
    target = random_target(12, 5)
    kept: list[Painting] = []

    def interrupt(painting: Painting, _: float) -> None:
        kept[:] = [painting]
        if painting.iteration == 15:
            raise KeyboardInterrupt

    latent = canvas.noise(SIZE, SIZE, seeded())
    with pytest.raises(KeyboardInterrupt):
        paint(
            canvas,
            clip,
            [target],
            latent=latent,
            options=options(),
            generator=seeded(),
            on_step=interrupt,
        )
    best = kept[0].best
    assert best is not None
    # It was looked at last after 10 iterations.
    assert best.loss == painted(canvas, clip, target, iterations=10).loss
    more = paint(canvas, clip, [target], latent=best.latent, options=options(), generator=seeded(1))
    assert more.loss <= best.loss


def test_the_best_is_kept_when_painting_gets_worse(canvas, clip):
    target = random_target(12, 5)
    start = painted(canvas, clip, target)
    spoiled = paint(
        canvas,
        clip,
        [target],
        latent=start.latent,
        options=options(step_size=50.0, iterations=10),
        generator=seeded(),
    )
    assert spoiled.loss <= start.loss + 1e-6


def test_total_variation_smooths_and_the_codebook_s_weight_keeps_the_latent_near(canvas, clip):
    target = random_target(12, 5)
    plain = painted(canvas, clip, target)
    smooth = painted(canvas, clip, target, total_variation=20.0)
    near = painted(canvas, clip, target, codebook=5.0)
    variation = [total_variation(canvas.pixels(p.latent)).item() for p in (smooth, plain)]
    assert variation[0] < 0.8 * variation[1]
    assert canvas.distance(near.latent) < 0.8 * canvas.distance(plain.latent)


def test_noise_for_a_codebook_lies_in_it_and_decodes_as_the_model_itself_does():
    model = movq()
    canvas = Canvas(model)
    latent = canvas.noise(SIZE, 2 * SIZE, seeded())
    assert canvas.distance(latent).item() == pytest.approx(0, abs=1e-10)
    codebook = model.quantize.embedding.weight
    with torch.no_grad():
        # Latents are in units of the codebook's standard deviation.
        whole: Any = model.decode(latent * codebook.std())
        expected = (whole.sample / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(canvas.pixels(latent), expected, atol=1e-5)


def test_an_image_to_start_from_is_what_the_autoencoder_makes_of_it():
    model = autoencoder_kl()
    canvas = Canvas(model)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    latent = canvas.encode(Image.fromarray(noise), SIZE, SIZE)
    values = torch.tensor(noise).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        encoded: Any = model.encode(values)
        whole: Any = model.decode(encoded.latent_dist.mode())
        expected = whole.sample
        assert torch.allclose(canvas.pixels(latent), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("part", ["", "vae", "movq"])
def test_a_canvas_is_found_in_a_folder_and_in_a_pipeline_s(tmp_path: Path, part: str):
    model = movq()
    model.save_pretrained(tmp_path / part)
    loaded = Canvas.from_pretrained(tmp_path)
    latent = loaded.noise(SIZE, SIZE, seeded())
    assert torch.equal(loaded.pixels(latent), Canvas(model).pixels(latent))


def test_an_autoencoder_of_something_else_than_images_is_refused(tmp_path, audioldm_folder):
    with pytest.raises(UserError, match="RGB images"):
        Canvas.from_pretrained(audioldm_folder)
    with pytest.raises(UserError, match="no image autoencoder"):
        Canvas.from_pretrained(tmp_path)


def test_the_first_cut_out_is_the_whole_image_and_the_others_lie_within_it():
    image = torch.rand(1, 3, 32, 32, generator=seeded())
    cut = cut_out(image, 6, 32, generator=seeded(), augment=False)
    assert torch.allclose(cut[0], image[0], atol=1e-5)
    rows = torch.linspace(0, 1, 64).view(1, 1, 64, 1).expand(1, 3, 64, 48)
    for part in cut_out(rows, 8, 16, generator=seeded(), augment=False):
        heights = part[0, :, 0]
        assert (heights.diff() > 0).all()
        assert heights.min() >= 0
        assert heights.max() <= 1
        assert part.std(dim=2).max() < 1e-5


def test_cut_outs_differ_in_place_and_augmentation_changes_all_but_the_first():
    image = F.interpolate(torch.rand(1, 3, 5, 5, generator=seeded()), 32, mode="bilinear")
    plain = cut_out(image, 5, 32, generator=seeded(), augment=False)
    changed = cut_out(image, 5, 32, generator=seeded(), augment=True)
    assert torch.allclose(plain[0], changed[0], atol=1e-6)
    for index in range(1, 5):
        assert not torch.allclose(plain[index], plain[0], atol=0.02)
        assert not torch.allclose(plain[index], changed[index], atol=0.02)


def test_cut_outs_made_together_equal_those_made_alone():
    """The batch is one resampling: no cut-out depends on its neighbors."""
    image = torch.rand(1, 3, 32, 32, generator=seeded())
    together = cut_out(image, 4, 16, generator=seeded(), augment=False)
    shifted = image.clone()
    shifted[..., :4, :4] = 0
    again = cut_out(shifted, 4, 16, generator=seeded(), augment=False)
    untouched = [
        index for index in range(4) if torch.allclose(together[index], again[index], atol=1e-6)
    ]
    assert untouched  # some cut-out does not hold the corner
    assert 0 not in untouched


def test_audio_is_broken_into_parts_that_are_the_whole():
    audio = np.arange(11, dtype=np.float32)
    parts = split_waveform(audio, 3)
    assert [len(part) for part in parts] == [4, 4, 3]
    assert np.array_equal(np.concatenate(parts), audio)
    with pytest.raises(UserError, match="3 parts"):
        split_waveform(audio[:2], 3)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([], "at least one target"),
        ([random_target(12, 0, weight=-1.0)], "above 0"),
        ([random_target(12, 0, weight=float("nan")), random_target(12, 1)], "weight"),
        ([Target(torch.zeros(12), name="silence")], "silence"),
        ([Target(torch.full((12,), float("nan")))], "unit vector"),
        ([Target(torch.ones(1, 12))], "unit vector"),
    ],
)
def test_targets_that_lead_nowhere_are_refused(clip, targets, says):
    canvas = Canvas(autoencoder_kl())
    with pytest.raises(UserError, match=says):
        Painting(
            canvas,
            clip,
            targets,
            latent=canvas.noise(SIZE, SIZE, seeded()),
            options=options(),
            generator=seeded(),
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"step_size": 0.0},
        {"step_size": float("inf")},
        {"cutouts": 0},
        {"cut_size": 0},
        {"total_variation": -1.0},
        {"codebook": float("nan")},
    ],
)
def test_options_without_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(UserError, match="Expected"):
        PaintingOptions(**wrong)
