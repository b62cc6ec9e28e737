"""Files of the index's tests, and what is in an index."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from clip2clap.search import Index

RATE = 16_000


def write_image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(path)
    return path


def write_audio(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    time = np.arange(RATE // 2) / RATE
    waves = [noise.uniform(0.1, 0.3) * np.sin(noise.uniform(300, 9e3) * time) for _ in range(4)]
    soundfile.write(path, np.sum(waves, axis=0) / 2, RATE)
    return path


def found(index: Index, query: Any, **options: Any) -> list[tuple[str, float]]:
    """Return names and rounded scores of what a search finds."""
    return [(Path(h.path).name, round(h.score, 3)) for h in index.search(query, **options)]


def contents(folder: Path) -> dict[tuple[str, int | None], np.ndarray]:
    """Return the vector of every file and line of an index."""
    held = {}
    for part in Index(folder)._parts.values():
        column = next(iter(part.table.spaces))
        vectors = part.vectors(column).at(part.rows).numpy()
        for values, vector in zip(part.files.to_pylist(), vectors, strict=True):
            key = (values["path"].decode(), values["line"])
            assert key not in held, f"{key} is there twice"
            held[key] = vector
    return held


def assert_equal_contents(folder: Path, expected: Path) -> None:
    own, other = contents(folder), contents(expected)
    assert own.keys() == other.keys()
    for key, vector in own.items():
        # Batches of other files may round differently.
        np.testing.assert_allclose(vector, other[key], atol=2e-3)
