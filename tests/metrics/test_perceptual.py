"""LPIPS with random weights of its network in torch's cache."""

import pytest
import torch
from torchvision.models import alexnet

from clip2clap.core.errors import MissingExtraError, ModelNotFoundError
from clip2clap.metrics.perceptual import load_perceptual_distance


def test_it_is_the_distance_of_lpips_and_has_a_gradient(tmp_path, monkeypatch):
    lpips = pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), folder / "alexnet-owt-7be5be79.pth")
    distance = load_perceptual_distance("alex")
    images, others = torch.rand(2, 2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    images = images.requires_grad_()
    expected = lpips.LPIPS(net="alex", verbose=False)(2 * images - 1, 2 * others - 1)
    found = distance(images, others)
    assert torch.allclose(found, expected.flatten(), atol=1e-6)
    assert distance(others, others).abs().max() < 1e-6
    (slope,) = torch.autograd.grad(found.sum(), images)
    assert slope.abs().max() > 0
    assert distance(images[..., :16, :16], others[..., :16, :16]).isfinite().all()


def test_without_the_package_or_its_weights_it_says_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _unreachable)
    with pytest.raises(ModelNotFoundError, match="cannot be downloaded"):
        load_perceptual_distance("alex")
    monkeypatch.setitem(__import__("sys").modules, "lpips", None)
    with pytest.raises(MissingExtraError, match=r"clip2clap\[perceptual\]"):
        load_perceptual_distance("alex")


def _unreachable(*_, **__):
    raise OSError("no network")
