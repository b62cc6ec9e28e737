"""Votes on audio of two translators, in a CSV file, and what they say."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Literal, get_args

from clip2clap.core.errors import UserError
from clip2clap.core.files import locked

Choice = Literal["left", "right", "same"]


@dataclass(frozen=True)
class Vote:
    """Row of the file of votes."""

    time: str
    """Time in UTC, as ISO 8601 has it."""
    image: str
    """Hash of the image's pixels."""
    seed: str
    seconds: str
    left: str
    """Name of the translator of the audio on the left."""
    left_fingerprint: str
    """Fingerprint of its weights."""
    right: str
    right_fingerprint: str
    vote: str
    """Side that was better, `left` or `right`, or `same`."""
    blind: str
    """`yes` if the names were hidden until the vote, otherwise `no`."""


_COLUMNS = [each.name for each in fields(Vote)]


@dataclass(frozen=True)
class Tally:
    """Votes on one translator against another."""

    wins: int
    losses: int
    ties: int

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value of a binomial test that both win alike, without ties; None of none."""
        if not self.wins + self.losses:
            return None
        from scipy.stats import binomtest

        return float(binomtest(self.wins, self.wins + self.losses).pvalue)


class Votes:
    """Votes of a server, appended to a file as they are cast; without a file they end with it.

    Args:
        path: CSV file, which is created with the first vote.

    Raises:
        UserError: If the file holds something else, or cannot be read.

    Examples:
        >>> votes = Votes()
        >>> pair = ("mlp", "1a"), ("ridge", "2b")
        >>> for side in ("left", "left", "same"):
        ...     facts = ("2026-11-30T09:00:00+00:00", "f0", "0", "2.0")
        ...     votes.add(Vote(*facts, *pair[0], *pair[1], side, "yes"))
        >>> votes.tally("1a", "2b", blind=True)
        Tally(wins=2, losses=0, ties=1)
    """

    def __init__(self, path: Path | None = None):
        self._path, self._lock = path, Lock()
        self._votes = [] if path is None else list(_read(path))

    def add(self, vote: Vote) -> None:
        """Add a vote, in one write at the end of the file.

        Raises:
            UserError: If it cannot be written.
        """
        with self._lock:
            if self._path is not None:
                try:
                    _append(self._path, vote)
                except OSError as error:
                    reason = error.strerror or error
                    raise UserError(f"The vote could not be written: {reason}.") from error
            self._votes.append(vote)

    def tally(self, first: str, second: str, *, blind: bool) -> Tally:
        """Count the votes on a translator against another, both by their fingerprints."""
        counts = dict.fromkeys((first, second, "same"), 0)
        for each in self._votes:
            sides = {"left": each.left_fingerprint, "right": each.right_fingerprint}
            if set(sides.values()) == {first, second} and each.blind == ("yes" if blind else "no"):
                counts[sides.get(each.vote, "same")] += 1
        return Tally(counts[first], counts[second], counts["same"])


def _read(path: Path) -> Iterator[Vote]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            if next(rows, _COLUMNS) != _COLUMNS:
                raise UserError(
                    f"{path} is no file of votes: expected the columns {','.join(_COLUMNS)}. Name "
                    "another.",
                    param="votes",
                )
            for row in rows:
                # The last row of a killed server may be a part of one.
                if len(row) == len(_COLUMNS) and Vote(*row).vote in get_args(Choice):
                    yield Vote(*row)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read: {error}.", param="votes") from error


def _append(path: Path, vote: Vote) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # The size of a file that another server writes to may be that of a part of its row.
    with locked(path), path.open("a+b", buffering=0) as file:
        size = file.tell()
        if not size:
            writer.writerow(_COLUMNS)
        elif os.pread(file.fileno(), 1, size - 1) != b"\n":
            text.write("\n")
        writer.writerow(astuple(vote))
        row = text.getvalue().encode()
        if file.write(row) != len(row):
            raise OSError("the disk is full")
        os.fsync(file.fileno())
