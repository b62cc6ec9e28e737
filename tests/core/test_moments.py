import numpy as np

from clip2clap.core.moments import Moments


def test_moments_of_blocks_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 7), np.float32) + 100
    full, diagonal = Moments(7, covariance=True), Moments(7)
    for block in np.array_split(rows, 8):
        full.update(block)
        diagonal.update(block)
    wide = rows.astype(np.float64)
    assert full.count == 1000
    np.testing.assert_allclose(full.mean, wide.mean(0))
    np.testing.assert_allclose(full.covariance, np.cov(wide.T, ddof=0), rtol=1e-6)
    for moments in (full, diagonal):
        np.testing.assert_allclose(moments.variance, wide.var(0), rtol=1e-6)
