"""Fixtures that tests of training share."""

from pathlib import Path

import pytest

from clip2clap.embeddings.table.writer import TableWriter

from .builders import CLAP, CLIP, learnable


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    made = learnable(100)
    with TableWriter(folder, {"clip_text": CLIP, "clap_text": CLAP}) as writer:
        writer.append(
            [f"row{i}" for i in range(100)],
            {
                "caption": [f"caption {i}" for i in range(100)],
                "file": [f"{i // 5}.wav" for i in range(100)],
            },
            {"clip_text": made.source, "clap_text": made.target},
        )
    return folder
