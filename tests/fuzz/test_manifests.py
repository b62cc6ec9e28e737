"""Damaged manifests, pages and tags of generated audio: read, or refused by one line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from clip2clap.inference.batch.folder import check_folder
from clip2clap.inference.batch.manifest import VERSION, Manifest, key_of
from clip2clap.inference.batch.tags import check_tags, load_input, make_tags
from clip2clap.media.writing import AudioFileOptions
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
    for changes in ({}, {"name": "b", "seed": 1}, {"status": "skipped", "reason": "too small"})
)


def resumes_or_says_why(folder: Path, content: bytes) -> None:
    (folder / "manifest.jsonl").write_bytes(content)
    (folder / "a.wav").touch()

    def resume() -> None:
        check_folder(folder)
        page = AudioPage(folder / "index.html", title="Generated audio")
        with Manifest(folder) as manifest:
            manifest.take(key_of(ENTRY), "b.png")
            manifest.take(key_of(ENTRY), "b.png", renamed=True)
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


def tags() -> dict[str, Any]:
    """Return the tags of a generated file."""
    file = asdict(AudioFileOptions(format="wav"))
    settings = {"num_variations": 1, "keep_candidates": False, "scheduler": "DDIM", "file": file}
    run = {"items": 2, "place": 1, "batch_size": 2, "threads": 1, "device": "cpu"}
    run |= {"dtypes": {"unet": "float32"}, "scheduler": {}, "low_memory": False, "names": {}}
    entry = {**ENTRY, "settings": {**ENTRY["settings"], **settings}}
    return json.loads(json.dumps(make_tags(entry, run, 1)))


@few(60)
@given(st.data())
def test_odd_tags_are_those_of_a_file_or_say_why(tmp_path: Path, data: st.DataObject):
    found = tags()
    settings, run = found["settings"], found["run"]
    places = [found, settings, settings["file"], run, run["dtypes"], found["models"]["unet"]]
    place = data.draw(st.sampled_from(places))
    key = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        place[key] = data.draw(VALUES)
    else:
        del place[key]

    def read() -> None:
        check_tags(found, "a.wav")
        AudioFileOptions(**settings["file"])
        load_input(found, None)
        assert all(isinstance(getattr(torch, name), torch.dtype) for name in run["dtypes"].values())

    works_or_says_why(read)


def test_tags_of_a_file_are_known():
    check_tags(tags(), "a.wav")
