import torch

from clip2clap.core.math import Moments, unit_norm


def test_zero_vectors_have_no_direction_and_stay_zero() -> None:
    units = unit_norm(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert units.tolist() == [[0, 0], [0, 1]]


def test_moments_of_blocks_are_those_of_all_rows() -> None:
    rows = torch.randn(1000, 7, generator=torch.Generator().manual_seed(0)) + 100
    full, diagonal = Moments(7, covariance=True), Moments(7)
    for block in rows.split(130):
        full.update(block)
        diagonal.update(block)
    wide = rows.double()
    assert full.count == 1000
    torch.testing.assert_close(full.mean, wide.mean(0))
    torch.testing.assert_close(full.covariance, wide.T.cov(correction=0))
    for moments in (full, diagonal):
        torch.testing.assert_close(moments.variance, wide.var(0, correction=0))
