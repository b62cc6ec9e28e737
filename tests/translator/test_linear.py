import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.cross_decomposition import PLSSVD
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.translator.linear import LinearFitter, fit_procrustes, fit_ridge


def pairs(n: int = 60, d_source: int = 8, d_target: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(n, d_source, generator=generator)
    noise = torch.randn(n, d_target, generator=generator)
    return source, source[:, :1] + 0.5 * noise + 1


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def rotation(dim: int) -> Tensor:
    return torch.from_numpy(ortho_group.rvs(dim, random_state=np.random.default_rng(0))).float()


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 10.0])
def test_ridge_matches_sklearn(alpha: float, centre: bool):
    source, target = pairs()
    fitted = fit_ridge(source, target, alpha=alpha, center=centre)
    theirs = Ridge(alpha=alpha, fit_intercept=centre).fit(
        unit(source).double().numpy(), unit(target).double().numpy()
    )
    weight = torch.from_numpy(theirs.coef_).float()
    torch.testing.assert_close(fitted.linear.weight.data, weight, rtol=1e-4, atol=1e-6)
    if centre:
        shift = torch.from_numpy(theirs.intercept_).float()
        torch.testing.assert_close(fitted.linear.bias.data, shift, rtol=1e-4, atol=1e-6)
    else:
        assert fitted.linear.bias is None
    predicted = torch.from_numpy(theirs.predict(unit(source).numpy())).float()
    torch.testing.assert_close(fitted(source), unit(predicted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("centre", [True, False])
def test_scaled_ridge_matches_sklearns_on_standardised_dimensions(centre: bool):
    source, target = pairs()
    # One dimension all but flat, one quite flat.
    source = unit(source * torch.tensor([5.0, 1, 1, 1, 1, 1, 0.01, 0]))
    scaler = StandardScaler(with_mean=centre)
    x = source.double().numpy()
    y = unit(target).double().numpy()
    scaled = scaler.fit_transform(x) if centre else x / np.sqrt((x**2).mean(0) + (x == 0).all(0))
    theirs = Ridge(alpha=3, fit_intercept=centre).fit(scaled, y)
    predicted = torch.from_numpy(theirs.predict(scaled)).float()
    fitted = fit_ridge(source, target, alpha=3, center=centre, scale=True)
    torch.testing.assert_close(fitted(source), unit(predicted), rtol=1e-4, atol=1e-5)
    plain = fit_ridge(source, target, alpha=3, center=centre)(source)
    assert not torch.allclose(plain, fitted(source), atol=1e-3)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_procrustes_matches_scipy(centre: bool, scale: bool):
    source, target = pairs(d_target=8)
    sides, means, scales = [], [], []
    for side in (source, target):
        values = unit(side).double().numpy()
        means.append(values.mean(0) if centre else 0 * values.mean(0))
        values = values - means[-1]
        scales.append(np.sqrt((values**2).mean(0)) if scale else np.ones(8))
        sides.append(values / scales[-1])
    known, _ = orthogonal_procrustes(*sides)
    expected = torch.from_numpy(sides[0] @ known * scales[1] + means[1]).float()
    fitted = fit_procrustes(source, target, center=centre, scale=scale)
    torch.testing.assert_close(fitted(source), unit(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("method", ["ridge", "procrustes"])
def test_a_table_in_pieces_gives_the_fit_of_all_at_once(method: str, scale: bool, tmp_path):
    source, target = (unit(side) for side in pairs())
    spaces = {
        "clip_text": EmbeddingSpace("clip", "some/clip", "text", 8, True, "c11p"),
        "clap_text": EmbeddingSpace("clap", "some/clap", "text", 6, True, "c1a9"),
    }
    with TableWriter(tmp_path, spaces, dtype="float32", rows_per_shard=13) as writer:
        columns = {"clip_text": source, "clap_text": target}
        writer.append([str(row) for row in range(60)], {}, columns)
    fitter = LinearFitter()
    pieces = list(EmbeddingTable.open(tmp_path).chunks(*spaces, rows=17))
    assert [len(x) for x, _ in pieces] == [17, 17, 17, 9]
    for x, y in pieces:
        fitter.update(x, y)
    assert fitter.rows == 60
    whole = getattr(LinearFitter().update(source, target), method)(scale=scale)
    in_pieces = getattr(fitter, method)(scale=scale)
    torch.testing.assert_close(in_pieces.state_dict(), whole.state_dict(), rtol=1e-6, atol=1e-7)
    # And the sums tell: pieces of other pairs give another fit.
    other = getattr(fitter.update(source, target.flip(0)), method)(scale=scale)
    assert not torch.allclose(other(source), whole(source), atol=1e-2)


def test_noise_gives_the_fit_of_many_noisy_copies():
    source, target = pairs()
    x, y = unit(source).double().numpy(), unit(target).double().numpy()
    copies = 4_000
    noise = 0.3 * np.random.default_rng(0).standard_normal((copies * len(x), 8))
    noisy = np.tile(x, (copies, 1)) + noise
    weight, *_ = np.linalg.lstsq(noisy, np.tile(y, (copies, 1)), rcond=None)
    fitter = LinearFitter().update(source, target)
    for scale in (False, True):
        fitted = fitter.ridge(alpha=0, noise=0.3, center=False, scale=scale).linear.weight.detach()
        np.testing.assert_allclose(fitted.T, weight, atol=0.005)
    plain = fitter.ridge(alpha=0, center=False).linear.weight.detach()
    assert np.abs(plain.T.numpy() - weight).max() > 0.05


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_map_of_low_rank_predicts_as_well_as_one_can(rank: int):
    source, target = pairs()
    x = unit(source) - unit(source).mean(0)
    y = unit(target) - unit(target).mean(0)
    fitted = LinearFitter().update(source, target).ridge(alpha=0, rank=rank)
    weight = fitted.linear.weight.detach()
    assert np.linalg.matrix_rank(weight.numpy(), tol=1e-5) == rank
    # Of all predictions of that rank, those nearest to the unrestricted ones are nearest to y.
    free = x @ torch.linalg.lstsq(x, y).solution
    left, sizes, right = torch.linalg.svd(free, full_matrices=False)
    best = left[:, :rank] * sizes[:rank] @ right[:rank]
    torch.testing.assert_close(x @ weight.T, best, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("d_target", [8, 6])
def test_truncated_procrustes_swaps_the_leading_pls_scores(d_target: int):
    source, target = pairs(d_target=d_target)
    x, y = (unit(side) - unit(side).mean(0) for side in (source, target))
    # PLSSVD's scores are of the same axes, found by another library.
    reference = PLSSVD(n_components=3, scale=False).fit(x.double().numpy(), y.double().numpy())
    axes = [torch.from_numpy(axis).float() for axis in (reference.x_weights_, reference.y_weights_)]
    expected = unit(x @ axes[0] @ axes[1].T + unit(target).mean(0))
    fitted = fit_procrustes(source, target, rank=3)
    torch.testing.assert_close(fitted(source), expected, rtol=0, atol=1e-5)
    assert (fitted.provenance.recipe or {})["rank"] == 3


def test_truncation_drops_what_the_sides_do_not_share():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(600, 3, generator=generator)
    axes = rotation(40)
    sides = [
        shared @ axes[start : start + 3] + 0.7 * torch.randn(600, 40, generator=generator) @ axes
        for start in (0, 20)
    ]
    train, test = [side[:300] for side in sides], [side[300:] for side in sides]

    def similarity(rank: int | None) -> float:
        fitted = fit_procrustes(*train, rank=rank)
        return (fitted(test[0]) * unit(test[1])).sum(1).mean().item()

    assert similarity(3) > similarity(None) + 0.1
    assert similarity(3) > similarity(1) + 0.1


def test_pieces_that_do_not_fit_are_refused():
    source, target = pairs()
    with pytest.raises(UserError, match="no pairs"):
        LinearFitter().ridge()
    fitter = LinearFitter().update(source, target)
    with pytest.raises(UserError, match="8 and 6 values, as the 60 before, got 7 and 6"):
        fitter.update(source[:, :7], target)
    with pytest.raises(UserError, match=r"1 of 60 target rows .*row 63"):
        fitter.update(source, target.index_fill(0, torch.tensor(3), 0))


@pytest.mark.parametrize("fit", [fit_ridge, fit_procrustes])
def test_summing_in_pieces_changes_nothing(fit):
    source, target = pairs()
    whole = fit(source, target)
    fitter = LinearFitter(chunk_rows=7).update(source, target)
    pieces = fitter.ridge() if fit is fit_ridge else fitter.procrustes()
    torch.testing.assert_close(pieces(source), whole(source))


@pytest.mark.parametrize("centre", [True, False])
def test_procrustes_recovers_a_known_rotation(centre: bool):
    source, _ = pairs()
    known = rotation(8)
    fitted = fit_procrustes(source, source @ known, center=centre)
    torch.testing.assert_close(fitted.linear.weight.data.T, known, rtol=0, atol=1e-5)
    torch.testing.assert_close(fitted(source), unit(source @ known), rtol=0, atol=1e-5)


def test_centred_procrustes_recovers_a_rotation_after_the_means_were_moved():
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(50, 1, generator=generator) * 6.28
    circle = torch.cat([angle.cos(), angle.sin()], dim=1)
    # Two small circles on the sphere, at other places and turned: the modality gap in miniature.
    source = unit(torch.cat([0.5 * circle, torch.ones(50, 1)], dim=1))
    target = unit(torch.cat([-torch.ones(50, 1), 0.5 * circle], dim=1))
    with_centring = fit_procrustes(source, target, center=True)
    torch.testing.assert_close(with_centring(source), target, rtol=0, atol=1e-5)


def test_procrustes_into_a_larger_space_keeps_all_angles():
    source, _ = pairs()
    known = rotation(12)[:8]
    fitted = fit_procrustes(source, source @ known, center=False)
    weight = fitted.linear.weight.data
    torch.testing.assert_close(weight.T @ weight, torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(fitted(source), unit(source @ known), rtol=0, atol=1e-5)


def test_procrustes_into_a_smaller_space_is_a_rotation_cut_short():
    source, target = pairs()
    weight = fit_procrustes(source, target, center=False).linear.weight.data
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), rtol=0, atol=1e-5)
    # No other such map has a larger inner product with the pairs.
    fitted = (unit(source) @ weight.T * unit(target)).sum()
    for seed in range(20):
        noise = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        other, _ = torch.linalg.qr(weight.T + 0.3 * noise)
        other = other * (other * weight.T).sum(0).sign()
        assert (unit(source) @ other * unit(target)).sum() < fitted


def test_the_length_of_the_vectors_does_not_count():
    source, target = pairs()
    lengths = torch.linspace(0.1, 50, 60)[:, None]
    for fit in (fit_ridge, fit_procrustes):
        torch.testing.assert_close(
            fit(source * lengths, target / lengths)(source), fit(source, target)(source)
        )


def test_half_precision_tables_are_summed_in_full_precision():
    source, target = (unit(side).half() for side in pairs(n=3000))
    exact = fit_ridge(source.float(), target.float())
    torch.testing.assert_close(fit_ridge(source, target)(source), exact(source))


def test_how_it_was_fitted_is_recorded():
    source, target = pairs()
    assert fit_ridge(source, target, alpha=2, center=False).config["recipe"] == {
        "method": "ridge",
        "alpha": 2.0,
        "noise": 0.0,
        "center": False,
        "scale": False,
    }
    assert fit_procrustes(source, target, scale=True).config["recipe"] == {
        "method": "procrustes",
        "center": True,
        "scale": True,
    }


@pytest.mark.parametrize("fit", [fit_ridge, fit_procrustes])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x[:-1], y), "59 source and 60 target rows"),
        (lambda x, y: (x[:0], y[:0]), "0 source"),
        (lambda x, y: (x[0], y), r"source to be a floating tensor"),
        (lambda x, y: (x, y.long()), r"target to be a floating tensor.*int64"),
        (lambda x, y: (x.index_fill(0, torch.tensor(3), 0), y), r"1 of 60 source rows .*row 3"),
        (lambda x, y: (x, y / 0), r"60 of 60 target rows"),
    ],
)
def test_bad_pairs_are_refused(fit, spoil, message: str):
    with pytest.raises(UserError, match=message):
        fit(*spoil(*pairs()))


def test_too_few_pairs_for_least_squares_are_refused_and_a_penalty_helps():
    source, target = pairs(n=5)
    with pytest.raises(UserError, match="larger alpha"):
        fit_ridge(source, target, alpha=0)
    assert fit_ridge(source, target, alpha=0.1)(source).isfinite().all()


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_an_impossible_penalty_is_refused(alpha: float):
    with pytest.raises(UserError, match="alpha"):
        fit_ridge(*pairs(), alpha=alpha)


def test_noise_and_ranks_that_make_no_sense_are_refused():
    fitter = LinearFitter().update(*pairs())
    with pytest.raises(UserError, match="noise to be 0 or a positive number, got -1"):
        fitter.ridge(noise=-1)
    with pytest.raises(UserError, match="rank to be a positive whole number, got 0"):
        fitter.ridge(rank=0)
