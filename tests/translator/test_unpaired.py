"""Unpaired linear alignment: clouds of the same shape, drawn apart."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clip2clap.core.errors import UserError
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.unpaired import fit_unpaired

QUICK = {"clusters": 10, "runs": 6, "neighbors": 20, "iterations": 20}


def cloud(rows: int, seed: int, shape: int = 0) -> Tensor:
    """Draw rows from a mixture of ten Gaussians in 6 dimensions, which `shape` determines."""
    random = torch.Generator().manual_seed(shape)
    centers = torch.randn(10, 6, generator=random) * (0.3 + torch.rand(10, 1, generator=random))
    weights = 0.3 + torch.rand(10, generator=random)
    random = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(weights, rows, replacement=True, generator=random)
    return centers[chosen] + 0.12 * torch.randn(rows, 6, generator=random)


def rotation(seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))).Q


@pytest.mark.parametrize("seed", [0, 1])
def test_a_known_rotation_is_recovered_from_two_separate_draws(seed: int):
    known = rotation(seed)
    fitted = fit_unpaired(cloud(1000, 1), cloud(900, 2) @ known, seed=seed, **QUICK)
    unseen = cloud(300, 3)
    similarity = cosine_similarity(fitted(unseen), unseen @ known).mean().item()
    assert similarity > 0.95
    assert (fitted.provenance.recipe or {})["consistency"] > 0.9


def test_into_a_larger_space_the_rotation_is_found_too():
    known = torch.cat([rotation(0), torch.zeros(6, 3)], dim=1)
    known = known @ torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(4))).Q
    fitted = fit_unpaired(cloud(1000, 1), cloud(1000, 2) @ known, **QUICK)
    unseen = cloud(300, 3)
    assert cosine_similarity(fitted(unseen), unseen @ known).mean().item() > 0.95


def test_a_cloud_of_another_shape_gives_no_alignment_and_says_so():
    known = rotation(0)
    fitted = fit_unpaired(cloud(1000, 1), cloud(1000, 2, shape=1) @ known, **QUICK)
    unseen = cloud(300, 3)
    similarity = cosine_similarity(fitted(unseen), unseen @ known).mean().item()
    assert similarity < 0.6
    right = fit_unpaired(cloud(1000, 1), cloud(1000, 2) @ known, **QUICK)
    consistency = [(each.provenance.recipe or {})["consistency"] for each in (fitted, right)]
    assert consistency[0] < consistency[1] - 0.1


def test_the_seed_determines_the_translator():
    sides = cloud(400, 1), cloud(400, 2) @ rotation(0)
    options = {**QUICK, "runs": 2, "iterations": 3}
    first, again, other = (fit_unpaired(*sides, **options, seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_it_is_saved_and_loaded_as_any_translator(tmp_path: Path):
    fitted = fit_unpaired(cloud(100, 1), cloud(100, 2), **{**QUICK, "runs": 1, "iterations": 1})
    fitted.save_pretrained(tmp_path)
    loaded = AutoTranslator.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(cloud(5, 3)), fitted(cloud(5, 3)), rtol=0, atol=0)
    assert loaded.provenance.recipe == fitted.provenance.recipe


def test_bad_input_is_refused():
    rows = cloud(200, 1)
    with pytest.raises(UserError, match="at least 100 target rows"):
        fit_unpaired(rows, rows[:99])
    with pytest.raises(UserError, match="1 of 200 source rows are zero"):
        fit_unpaired(rows.index_fill(0, torch.tensor(7), 0), rows)
    with pytest.raises(UserError, match="Expected target to be a floating tensor"):
        fit_unpaired(rows, rows.long())
    with pytest.raises(UserError, match="clusters"):
        fit_unpaired(rows, rows, clusters=0)
