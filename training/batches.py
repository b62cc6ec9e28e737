"""Training batches: the same pairs in the same order for every model of one seed."""

import hashlib
from collections.abc import Iterator
from typing import Literal, Self

import torch
from torch import Tensor

from clip2clap.core.math import unit_norm
from clip2clap.core.moments import Moments
from clip2clap.training.config import TrainingConfig
from clip2clap.training.losses import distinct_targets
from clip2clap.training.pairs import Pairs
from clip2clap.training.splits import TrainingData


class Batches:
    """Shuffled batches of unit vectors of the training rows, epoch by epoch.

    Pairs of at most `max_held_bytes` as float32 are kept on the device and shuffled as a whole.
    Larger tables are shuffled in two steps: windows of blocks of neighboring rows are drawn, and
    the rows of each window shuffled, so that the disk is read in long runs and memory does not grow
    with the table. The last batch of an epoch may be smaller.
    """

    def __init__(
        self,
        pairs: Pairs,
        rows: Tensor,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        max_held_bytes: int = 2**29,
        block_rows: int = 1_024,
        window_blocks: int = 32,
    ):
        self.pairs, self.rows = pairs, rows
        self.block_rows, self.window_blocks = block_rows, window_blocks
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.steps = -(-len(rows) // batch_size)
        width = pairs.source.shape[1] + pairs.target.shape[1]
        fits = 4 * width * len(rows) <= max_held_bytes
        self._held = self._hold() if fits else None

    @classmethod
    def of(cls, data: TrainingData, config: TrainingConfig, device: torch.device) -> Self:
        """Return the training batches of resolved settings."""
        assert config.batch_size is not None
        size, seed = config.batch_size, config.seed
        return cls(data.pairs, data.split.train, batch_size=size, seed=seed, device=device)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches: source and target, shapes (n, d), unit norm, float32."""
        generator = generator_for("order", self.seed, number)
        if self._held is None:
            yield from self._from_windows(generator)
            return
        source, target = self._held
        order = torch.randperm(len(self.rows), generator=generator).to(self.device)
        for places in order.split(self.batch_size):
            yield source[places], target[places]

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the mean unit vector of either side, shape (d,), float32, on the CPU."""
        moments = [Moments(side.shape[1]) for side in (self.pairs.source, self.pairs.target)]
        for sides in self.in_order():
            for own, side in zip(moments, sides, strict=True):
                own.update(side.cpu())
        source, target = (torch.from_numpy(own.mean).float() for own in moments)
        return source, target

    def target_moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the covariance of the target's unit vectors, in float32."""
        moments = Moments(self.pairs.target.shape[1], covariance=True)
        for _, target in self.in_order():
            moments.update(target.cpu())
        mean, covariance = map(torch.from_numpy, (moments.mean, moments.covariance))
        return mean.float(), covariance.float()

    def bank(self) -> Tensor:
        """Return all distinct targets, shape (m, d), unit norm, float16."""
        return distinct_targets(torch.cat([target.half() for _, target in self.in_order()]))

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in order, in chunks: source and target, shapes (n, d), unit norm."""
        if self._held is not None:
            yield self._held
            return
        for rows in self.rows.split(self.block_rows * self.window_blocks):
            yield self._read(rows)

    def _hold(self) -> tuple[Tensor, Tensor]:
        # In chunks: whole copies in other formats would need memory beside those that are kept.
        source, target = (
            torch.empty(len(self.rows), side.shape[1], dtype=torch.float32, device=self.device)
            for side in (self.pairs.source, self.pairs.target)
        )
        for start in range(0, len(self.rows), self.block_rows):
            part = slice(start, start + self.block_rows)
            source[part], target[part] = self._read(self.rows[part])
        return source, target

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        source, target = self.pairs.source[rows], self.pairs.target[rows]
        return unit_norm(source.to(self.device)), unit_norm(target.to(self.device))

    def _from_windows(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        blocks = torch.randperm(-(-len(self.rows) // self.block_rows), generator=generator)
        windows = blocks.split(self.window_blocks)
        rest: tuple[Tensor, ...] | None = None
        for index, window in enumerate(windows):
            window = window.sort().values
            places = (window[:, None] * self.block_rows + torch.arange(self.block_rows)).flatten()
            sides = self._read(self.rows[places[places < len(self.rows)]])
            order = torch.randperm(len(sides[0]), generator=generator).to(self.device)
            # The rest of the last window comes first, so that only the last batch is partial.
            at = 0
            if rest is not None:
                at = self.batch_size - len(rest[0])
                source, target = (
                    torch.cat([old, side[order[:at]]])
                    for old, side in zip(rest, sides, strict=True)
                )
                yield source, target
            end = len(order)
            if index < len(windows) - 1:
                end -= (end - at) % self.batch_size
            for part in order[at:end].split(self.batch_size):
                if len(part):
                    yield sides[0][part], sides[1][part]
            rest = tuple(side[order[end:]] for side in sides) if end < len(order) else None


def generator_for(what: Literal["order", "noise"], seed: int, epoch: int) -> torch.Generator:
    """Return a generator that depends on these alone, so that a run can resume at any epoch."""
    digest = hashlib.blake2b(f"{what} {seed} {epoch}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))
