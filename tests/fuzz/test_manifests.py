"""Damaged manifests, pages and tags of generated audio: read, or refused by one line."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clip2clap.inference.batch.folder import check_folder
from clip2clap.inference.batch.manifest import VERSION, Manifest, key_of
from clip2clap.report.audio_page import AudioPage

from .builders import VALUES, damaged, few, works_or_says_why

ENTRY: dict[str, Any] = {
    "version": VERSION,
    "clip2clap": "0.1.0",
    "input": "a.png",
    "sha256": "0" * 64,
    "prompt": None,
    "negative_prompt": None,
    "seed": 0,
    "seconds": 1.0,
    "settings": {"num_candidates": 1, "seed": 0},
    "models": {"unet": {"name": "demo", "fingerprint": "abc"}},
    "name": "a",
    "heard_as": [{"label": "dog", "similarity": 0.5, "probability": 0.9}],
    "outputs": [{"path": "a.wav", "kept": True, "similarity": 0.5, "spectrogram": "a.png"}],
    "status": "done",
    "reason": None,
}
LINES = b"".join(
    json.dumps({**ENTRY, **changes}).encode() + b"\n"
    for changes in ({}, {"name": "b", "seed": 1}, {"status": "skipped", "name": None, "reason": "x"})
)


def resumes_or_says_why(folder: Path, content: bytes) -> None:
    (folder / "manifest.jsonl").write_bytes(content)
    (folder / "a.wav").touch()

    def resume() -> None:
        check_folder(folder)
        page = AudioPage(folder / "index.html", title="Generated audio")
        with Manifest(folder) as manifest:
            manifest.take(key_of(ENTRY))
            for entry in manifest.entries():
                manifest.has_files(entry)
                page.add(entry)
            manifest.append(ENTRY)
        page.write()

    works_or_says_why(resume)


@few(40)
@given(damaged(LINES))
def test_a_damaged_manifest_resumes_or_says_why(tmp_path: Path, content: bytes):
    resumes_or_says_why(tmp_path, content)


@few(40)
@given(st.data())
def test_odd_values_in_a_manifest_resume_or_say_why(tmp_path: Path, data: st.DataObject):
    entry = json.loads(json.dumps(ENTRY))
    places = [entry, entry["settings"], entry["models"]["unet"], *entry["heard_as"]]
    place = data.draw(st.sampled_from([*places, *entry["outputs"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(VALUES)
    resumes_or_says_why(tmp_path, json.dumps(entry).encode() + b"\n")
