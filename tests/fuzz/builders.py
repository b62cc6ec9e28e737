"""What the fuzzers share: the number of inputs, odd values, damage, how each may end and its time.

CLIP2CLAP_FUZZ sets the number of inputs of each test, drawn at random; without it there are few,
and the same in every run.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from clip2clap.core.errors import UserError

# Seconds of processor time, far above what any of these small inputs takes.
MOST_SECONDS = 10.0
_ODD_BYTES = [b"\0", b"\xff", b"\x7f\xff\xff\xff", bytes(4), b"\xff" * 4, b"\x80"]
HUGE = st.sampled_from([2**31, 2**62, 10**30, -(10**30)])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | HUGE
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def few(count: int) -> settings:
    """Return settings of so many inputs, or of as many as CLIP2CLAP_FUZZ asks for."""
    return settings(
        max_examples=int(os.environ.get("CLIP2CLAP_FUZZ", count)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file with changed bytes, most of them in its header; cut, repeated or joined parts.

    Only a seed is drawn, since drawing each change would take longer than reading the file.
    """
    return st.integers(0, 2**62).map(lambda seed: _damage(whole, random.Random(seed)))


def damages(whole: bytes, count: int) -> Iterator[bytes]:
    """Yield so many damaged copies of a file, or as many as CLIP2CLAP_FUZZ asks for."""
    asked = os.environ.get("CLIP2CLAP_FUZZ")
    first = random.randrange(2**62) if asked else 0
    for seed in range(first, first + int(asked or count)):
        yield _damage(whole, random.Random(seed))


def _damage(whole: bytes, chance: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(chance.randint(0, 6)):
        near = chance.random() < 0.5
        place = chance.randrange(min(len(content), 400 if near else len(content)))
        value = chance.choice([*_ODD_BYTES, chance.randbytes(chance.randint(1, 8))])
        content[place : place + len(value)] = value
    start, end = sorted((chance.randint(0, len(content)), chance.randint(0, len(content))))
    part = bytes(content[start:end])
    how = chance.choice(["whole", "whole", "whole", "cut", "left out", "twice", "inserted"])
    return {
        "whole": bytes(content),
        "cut": bytes(content[:end]),
        "left out": bytes(content[:start] + content[end:]),
        "twice": bytes(content) * 2,
        "inserted": bytes(content[:start]) + part + bytes(content[start:]),
    }[how]


# Seconds of processor time of each input of the present test.
times: list[float] = []


@contextmanager
def bounded_time() -> Iterator[None]:
    """Keep the processor time that an input takes, and refuse more than MOST_SECONDS."""
    start = time.process_time()
    yield
    times.append(time.process_time() - start)
    assert times[-1] < MOST_SECONDS


def works_or_says_why(
    call: Callable[[], Any], error_class: type[Exception] = UserError
) -> str | None:
    """Return None, or the reason of an error for the user, which is one line."""
    reason = None
    with bounded_time():
        try:
            call()
        except error_class as error:
            reason = str(error)
            assert reason
            assert "\n" not in reason
    return reason
