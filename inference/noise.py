"""Where the noise of each sound comes from, so that a seed means one sound."""

from collections.abc import Sequence

import torch


def spread_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int, num_candidates: int
) -> list[torch.Generator]:
    """Give every sound a generator of its own; so that batches don't matter."""
    if isinstance(generator, Sequence):
        items = list(generator)
    else:
        items = [_seeded_by(generator) for _ in range(count)]
    spread = []
    for item in items:
        fork = torch.Generator(item.device)
        fork.set_state(item.get_state())
        spread += [item, *(_seeded_by(fork) for _ in range(num_candidates - 1))]
    return spread


def _seeded_by(generator: torch.Generator | None) -> torch.Generator:
    device = torch.device("cpu") if generator is None else generator.device
    seed = torch.randint(2**63 - 1, (1,), generator=generator, device=device)
    return torch.Generator(device).manual_seed(int(seed))
