"""Set of row ids that needs eight bytes for each."""

from collections.abc import Sequence

import numpy as np

from clip2clap.embeddings.table.format import TableError


class IdSet:
    """Set of ids stored as sorted runs of 64-bit hashes, no two runs of similar length.

    Two of 5 million ids collide with a probability of one in a million. The first bits of a hash
    decide most look-ups of new ids.
    """

    _PREFIX_BITS = 24

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []
        self._prefixes = np.zeros(1 << self._PREFIX_BITS, bool)

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, ids: Sequence[str]) -> None:
        """Add ids.

        Raises:
            TableError: If an id is in the set already or repeated; then none is added.
        """
        if not ids:
            return
        hashes = np.sort(hash_ids(ids))
        if self._find(hashes).any() or (hashes[1:] == hashes[:-1]).any():
            known = self.known(ids)
            example = ids[int(known.argmax())] if known.any() else _first_repeated(ids)
            raise TableError(
                f"The id {example!r} is in the table already. Leave out every id that is `in` the "
                "writer, and give every row an id of its own."
            )
        self._prefixes[self._prefix(hashes)] = True
        self._runs.append(hashes)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")

    def known(self, ids: Sequence[str]) -> np.ndarray:
        """Return which ids are in the set, shape (n,), bool."""
        return self._find(hash_ids(ids))

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        known = self._prefixes[self._prefix(hashes)]
        searched = hashes[known]
        found = np.zeros(len(searched), bool)
        for run in self._runs:
            indices = run.searchsorted(searched).clip(max=len(run) - 1)
            found |= run[indices] == searched
        known[known] = found
        return known

    def _prefix(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> (64 - self._PREFIX_BITS)) & ((1 << self._PREFIX_BITS) - 1)


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """Return a 64-bit hash of every id, shape (n,); stable within the process only."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _first_repeated(ids: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(i for i in ids if i in seen or seen.add(i))
