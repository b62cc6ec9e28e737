import torch

from clip2clap.core.math import unit_norm


def test_zero_vectors_have_no_direction_and_stay_zero() -> None:
    units = unit_norm(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert units.tolist() == [[0, 0], [0, 1]]
