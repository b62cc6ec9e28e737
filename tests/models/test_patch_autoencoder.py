"""Pictures as the principal components of their patches."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.inference.painting.canvas import Canvas
from clip2clap.models.patch_autoencoder import PatchAutoencoder


@pytest.fixture(scope="module")
def pictures():
    """Smooth noise with colours: neighbouring pixels are alike, as in photographs."""
    noise = torch.randn(1100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, size=16, mode="bilinear")
    return ((smooth * 0.4 + 0.1) * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)


def there_and_back(model, pictures):
    pixels = pictures / 127.5 - 1
    return pixels, model.decode(model.encode(pixels).latent_dist.mode()).sample


def test_it_loses_no_more_than_scikit_learns_principal_components(pictures):
    model = PatchAutoencoder.from_images(pictures, latent_channels=6, patch_size=4)
    pixels, made = there_and_back(model, pictures)
    patches = F.unfold(pixels, 4, stride=4).transpose(1, 2).flatten(0, 1).numpy()
    reference = PCA(6).fit(patches)
    error = ((reference.inverse_transform(reference.transform(patches)) - patches) ** 2).mean()
    assert F.mse_loss(made, pixels).item() == pytest.approx(error, rel=0.01)
    assert error > 1e-4


def test_all_components_give_the_image_back(pictures):
    model = PatchAutoencoder.from_images(pictures, latent_channels=48, patch_size=4)
    pixels, made = there_and_back(model, pictures)
    torch.testing.assert_close(made, pixels, atol=1e-4, rtol=0)


def test_latents_are_of_unit_scale_and_those_that_show_most_are_largest(pictures):
    model = PatchAutoencoder.from_images(pictures, latent_channels=6, patch_size=4)
    latents = model.encode(pictures / 127.5 - 1).latent_dist.mode()
    assert latents.shape == (len(pictures), 6, 4, 4)
    assert latents.square().mean().sqrt().item() == pytest.approx(1, abs=0.05)
    deviations = latents.std(dim=(0, 2, 3))
    assert (deviations.diff() < 1e-3).all()


def test_it_comes_back_from_its_folder(pictures, tmp_path):
    model = PatchAutoencoder.from_images(pictures, latent_channels=6, patch_size=4)
    model.save_pretrained(tmp_path)
    _, made = there_and_back(model, pictures[:4])
    _, again = there_and_back(PatchAutoencoder.from_pretrained(tmp_path), pictures[:4])
    assert torch.equal(made, again)


def test_it_can_be_painted_on(pictures, tmp_path):
    PatchAutoencoder.from_images(pictures, latent_channels=6, patch_size=4).save_pretrained(
        tmp_path / "vae"
    )
    canvas = Canvas.from_pretrained(tmp_path)
    assert canvas.multiple == 4
    latent = canvas.noise(16, 24, torch.Generator().manual_seed(0))
    assert latent.shape == (1, 6, 4, 6)
    assert canvas.pixels(latent).shape == (1, 3, 16, 24)


def test_numbers_of_any_range_are_taken_as_they_are(pictures):
    bytes_ = PatchAutoencoder.from_images(pictures, latent_channels=6, patch_size=4)
    floats = PatchAutoencoder.from_images(
        (pictures / 127.5 - 1) * 2 - 5, latent_channels=6, patch_size=4
    )
    pixels = pictures[:4] / 127.5 - 1
    made = floats.decode(floats.encode(pixels * 2 - 5).latent_dist.mode()).sample
    expected = bytes_.decode(bytes_.encode(pixels).latent_dist.mode()).sample * 2 - 5
    torch.testing.assert_close(made, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (torch.zeros(2, 3, 16, 16, dtype=torch.int64), "uint8 or floating point"),
        (torch.zeros(3, 16, 16), "uint8"),
        (torch.zeros(0, 3, 16, 16, dtype=torch.uint8), "uint8"),
        (torch.zeros(2, 3, 16, 18, dtype=torch.uint8), "multiples of 4"),
    ],
)
def test_other_pixels_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        PatchAutoencoder.from_images(wrong, latent_channels=6, patch_size=4)


def test_a_patch_has_no_more_components_than_values():
    with pytest.raises(UserError, match="from 1 to 48"):
        PatchAutoencoder(latent_channels=49, patch_size=4)
