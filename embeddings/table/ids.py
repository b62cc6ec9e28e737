"""Set of row ids that needs eight bytes for each."""

from collections.abc import Sequence

import numpy as np

from clip2clap.embeddings.table.format import TableError


class IdSet:
    """Set of ids stored as sorted runs of 64-bit hashes, no two runs of similar length.

    Two of 5 million ids collide with a probability of one in a million.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, ids: Sequence[str]) -> None:
        """Add ids; a `TableError`, and none is added, if one is in the set already or repeated."""
        if not ids:
            return
        hashes = np.sort(hash_ids(ids))
        if self._find(hashes).any() or (hashes[1:] == hashes[:-1]).any():
            seen = {i for i, known in zip(ids, self.known(ids), strict=True) if known}
            example = next(i for i in ids if i in seen or seen.add(i))
            raise TableError(
                f"The id {example!r} is in the table already. Leave out every id that is `in` the "
                "writer, and give every row an id of its own."
            )
        self._runs.append(hashes)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")

    def known(self, ids: Sequence[str]) -> np.ndarray:
        """Return which ids are in the set, shape (n,), bool."""
        return self._find(hash_ids(ids))

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        found = np.zeros(len(hashes), bool)
        for run in self._runs:
            found |= run[run.searchsorted(hashes).clip(max=len(run) - 1)] == hashes
        return found


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """Return a 64-bit hash of every id, shape (n,); stable within the process only."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))
