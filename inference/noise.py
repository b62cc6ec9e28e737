"""Random generators of each item and candidate, so that a seed gives the same output in any batch.

Noise is drawn item by item. A list of generators is used as it is, one per item. A single one is
the first item's, as in diffusers: it gives what a list of it gives. Each further item has its own,
seeded by a 64-bit integer that is drawn from a copy of the first's, in order. With torch's global
generator every item's seed is drawn from that. Candidate 0 is the output of a single candidate;
each further candidate has a generator seeded by an integer drawn from a copy of the item's, which
is not advanced by it.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def spread_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int, num_candidates: int
) -> list[torch.Generator]:
    """Return one generator per candidate, an item's candidates side by side."""
    if isinstance(generator, Sequence):
        items = list(generator)
    elif generator is None:
        items = [_seeded_by(None) for _ in range(count)]
    else:
        copy = generator.clone_state()
        # Other seeds than those of the first item's candidates.
        items = [generator, *(_seeded_by(copy, further=-1) for _ in range(count - 1))]
    spread = []
    for item in items:
        copy = item.clone_state()
        spread += [item, *(_seeded_by(copy) for _ in range(num_candidates - 1))]
    return spread


def second_generators(generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Return another generator per candidate, for its embedding, without advancing its own."""
    # One seed further than `spread_generators`, so that no candidate's noise comes from it.
    return [_seeded_by(own.clone_state(), further=1) for own in generators]


def step_generators(generators: Sequence[torch.Generator], step: int) -> list[torch.Generator]:
    """Return a generator on the CPU per candidate and step, without advancing its own."""
    # Further than `second_generators`.
    drawn = [_seeded_by(own.clone_state(), further=2 + step) for own in generators]
    return [torch.Generator().manual_seed(own.initial_seed()) for own in drawn]


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw each item's noise from its own generator, shape (n, *shape), float32, on the CPU."""
    draw = functools.partial(torch.randn, (1, *shape), dtype=torch.float32)
    return torch.cat([draw(generator=own, device=own.device).cpu() for own in generators])


def _seeded_by(generator: torch.Generator | None, further: int = 0) -> torch.Generator:
    device = torch.device("cpu") if generator is None else generator.device
    seed = torch.randint(2**63 - 1, (1,), generator=generator, device=device)
    return torch.Generator(device).manual_seed(int(seed) + further)
