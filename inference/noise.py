"""Where the noise of each sound or picture comes from, so that a seed means one of them."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def spread_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int, num_candidates: int
) -> list[torch.Generator]:
    """Give every sound or picture a generator of its own; so that batches don't matter."""
    if isinstance(generator, Sequence):
        items = list(generator)
    else:
        items = [_seeded_by(generator) for _ in range(count)]
    spread = []
    for item in items:
        copy = _copy(item)
        spread += [item, *(_seeded_by(copy) for _ in range(num_candidates - 1))]
    return spread


def second_generators(generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Give every sound another generator, for its vector, that doesn't move its own for noise."""
    # One seed further than `spread_generators`, so that no candidate's noise comes from it.
    return [_seeded_by(_copy(own), further=1) for own in generators]


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw each item's noise from its own generator, in float32 whatever the models' dtype.

    Args:
        shape: Of one item's noise.
        generators: One for each item; each draws once.

    Returns:
        Shape (n, *shape), float32, on the CPU.
    """
    return torch.cat(
        [torch.randn((1, *shape), generator=own, device=own.device).cpu() for own in generators]
    )


def step_options(
    scheduler: Any, eta: float, generators: Sequence[torch.Generator]
) -> dict[str, Any]:
    """Give a scheduler the options that its `step` has; they differ between schedulers."""
    accepted = inspect.signature(scheduler.step).parameters
    options = {"eta": eta, "generator": list(generators)}
    return {name: value for name, value in options.items() if name in accepted}


def _copy(generator: torch.Generator) -> torch.Generator:
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy


def _seeded_by(generator: torch.Generator | None, further: int = 0) -> torch.Generator:
    device = torch.device("cpu") if generator is None else generator.device
    seed = torch.randint(2**63 - 1, (1,), generator=generator, device=device)
    return torch.Generator(device).manual_seed(int(seed) + further)
