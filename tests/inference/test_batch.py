"""Batches: resuming, names, failures, memory, variations."""

import json
import os
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from clip2clap.core.errors import UserError
from clip2clap.inference.batch import BatchOptions, Job, generate_audio, generation
from clip2clap.inference.batch.repeat import repeat_audio
from clip2clap.inference.batch.tags import load_input
from clip2clap.media.audio import load_audio, read_tags
from clip2clap.media.writing import AudioFileOptions

from .builders import SECONDS, colored_images

STEP = 2 / 32768


def call_of(**changes: Any) -> dict[str, Any]:
    return {"audio_length_in_s": SECONDS, "num_inference_steps": 2, **changes}


CALL = call_of()


@pytest.fixture
def jobs(tmp_path):
    """Write images, two of which have one name."""
    paths = [tmp_path / "in" / name for name in ("a.png", "b.png", "b.jpg", "d.png")]
    paths[0].parent.mkdir()
    for path, image in zip(paths, colored_images(4), strict=True):
        image.save(path)
    return [Job(str(path)) for path in paths]


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_same(folder: Path, expected: Path) -> None:
    """Compare two runs, whose batches may have rounded differently."""
    assert files_in(folder) == files_in(expected)
    for path in expected.glob("*.wav"):
        waveform, whole = (load_audio(each)[0] for each in (folder / path.name, path))
        np.testing.assert_allclose(waveform, whole, atol=2 * STEP)
    entries = [{line["name"]: line for line in lines_of(each)} for each in (folder, expected)]
    for name, line in entries[0].items():
        for key in ("input", "sha256", "seed", "seconds", "settings", "models", "status"):
            assert line[key] == entries[1][name][key]


def test_what_is_no_job_is_refused_with_what_gives_jobs(pipe, tmp_path):
    with pytest.raises(UserError, match="Expected jobs, as find_jobs") as refusal:
        generate_audio(pipe, ["photos/dog.jpg"], tmp_path / "out", **CALL)  # pyright: ignore
    assert refusal.value.param == "jobs"
    assert "Job('photos/dog.jpg')" in str(refusal.value)


def test_a_run_that_stopped_goes_on_and_does_nothing_twice(pipe, jobs, tmp_path):
    generate_audio(pipe, jobs, tmp_path / "whole", **CALL)
    out, seen = tmp_path / "parts", []
    generate_audio(pipe, jobs[:2], out, **CALL)
    made = os.stat(out / "a.wav").st_mtime_ns
    counts = generate_audio(
        pipe, jobs, out, on_entry=lambda entry, resumed: seen.append(resumed), **CALL
    )
    assert counts == {"done": 2, "resumed": 2, "skipped": 0, "failed": 0}
    assert seen == [True, True, False, False]
    assert os.stat(out / "a.wav").st_mtime_ns == made
    assert_same(out, tmp_path / "whole")
    assert [line["outputs"][0]["path"] for line in lines_of(out)] == [
        "a.wav",
        "b.wav",
        "b-2.wav",
        "d.wav",
    ]
    assert generate_audio(pipe, jobs, out, **CALL)["resumed"] == 4


def test_what_a_kill_leaves_is_mended(pipe, jobs, tmp_path):
    options = BatchOptions(num_variations=1, spectrogram=True)
    generate_audio(pipe, jobs, tmp_path / "whole", options, **CALL)
    out = tmp_path / "killed"
    generate_audio(pipe, jobs, out, options, **CALL)
    # The line is written before the files are moved, one by one.
    (out / "b-2.wav").unlink()
    (out / "d.wav").unlink()
    (out / "d-spectrogram.png").unlink()
    (out / ".audio.part").mkdir()
    (out / ".audio.part" / "d.wav").write_bytes(b"half")
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"version": 1, "input": "x.png"')
    assert generate_audio(pipe, jobs, out, options, **CALL)["done"] == 2
    assert_same(out, tmp_path / "whole")
    assert {line["name"] for line in lines_of(out)} == {"a", "b", "b-2", "d"}


def test_other_settings_make_other_files_and_overwrite_replaces_them(pipe, jobs, tmp_path):
    generate_audio(pipe, jobs[:1], tmp_path / "out", **CALL)
    first = (tmp_path / "out" / "a.wav").read_bytes()
    more = call_of(num_inference_steps=3)
    assert generate_audio(pipe, jobs[:1], tmp_path / "out", **more)["done"] == 1
    assert (tmp_path / "out" / "a.wav").read_bytes() == first
    second = (tmp_path / "out" / "a-2.wav").read_bytes()
    assert second != first
    again = BatchOptions(overwrite=True, seed=7)
    assert generate_audio(pipe, jobs[:1], tmp_path / "out", again, **more)["done"] == 1
    assert (tmp_path / "out" / "a.wav").read_bytes() not in (first, second)
    assert (tmp_path / "out" / "a-2.wav").read_bytes() == second
    assert [(line["name"], line["seed"]) for line in lines_of(tmp_path / "out")] == [
        ("a-2", 0),
        ("a", 7),
    ]


def test_overwriting_leaves_no_file_that_only_the_replaced_entry_lists(
    pipe_with_audio_encoder, jobs, tmp_path
):
    pipe, out = pipe_with_audio_encoder, tmp_path / "out"
    more = BatchOptions(num_variations=2, keep_candidates=True, spectrogram=True)
    generate_audio(pipe, jobs[:2], out, more, **call_of(num_candidates=3))
    (out / "a-3.wav").write_text("mine")
    others = {path.name for path in out.rglob("b-*")}
    manifest = (out / "manifest.jsonl").read_bytes()
    again = BatchOptions(overwrite=True, file=AudioFileOptions("flac"))
    generate_audio(pipe, jobs[:1], out, again, **call_of(num_candidates=1))
    assert {path.name for path in out.rglob("a[.-]*")} == {"a.flac", "a-3.wav"}
    assert {path.name for path in out.rglob("b-*")} == others
    assert [line["name"] for line in lines_of(out)] == ["b", "a"]
    # A run that was killed before it removed them had the lines of both.
    kept = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)[-1]
    (out / "manifest.jsonl").write_bytes(manifest + kept)
    for name in ("a-1.wav", "candidates/a-3-spectrogram.png"):
        (out / name).touch()
    again = BatchOptions(file=AudioFileOptions("flac"))
    counts = generate_audio(pipe, jobs[:1], out, again, **call_of(num_candidates=1))
    assert counts["resumed"] == 1
    assert {path.name for path in out.rglob("a[.-]*")} == {"a.flac", "a-3.wav"}


def test_a_replaced_entry_that_lists_files_of_others_removes_none_of_them(pipe, jobs, tmp_path):
    out = tmp_path / "out"
    generate_audio(pipe, jobs[:1], out, **CALL)
    (line,) = lines_of(out)
    names = ["../mine.wav", "index.html", "mine.wav", "a.png", "b.wav", "a-2.wav", "."]
    for name in names[:-1]:
        (out / name).touch()
    odd = [{**line, "outputs": [{**line["outputs"][0], "path": name} for name in names]}]
    odd += [line, {**line, "name": "b", "outputs": [{**line["outputs"][0], "path": "A-2.wav"}]}]
    (out / "A-2.wav").touch()
    (out / "manifest.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in odd))
    generate_audio(pipe, jobs[:1], out, **CALL)
    assert all((out / name).exists() for name in names)


def test_images_can_be_added_to_a_folder_and_only_they_are_done(pipe, jobs, tmp_path):
    out = tmp_path / "out"
    generate_audio(pipe, jobs[1:], out, **CALL)
    before = {path.name: path.read_bytes() for path in out.glob("*.wav")}
    counts = generate_audio(pipe, jobs, out, **CALL)
    assert (counts["done"], counts["resumed"]) == (1, 3)
    assert {name: (out / name).read_bytes() for name in before} == before


def test_an_image_keeps_its_entry_beside_equal_ones_of_other_names(pipe, jobs, tmp_path):
    out, image = tmp_path / "out", Path(str(jobs[3].image))
    generate_audio(pipe, [jobs[0], Job(str(image))], out, **CALL)
    made = os.stat(out / "d.wav").st_mtime_ns
    copy = image.with_name("copy.png")
    copy.write_bytes(image.read_bytes())
    counts = generate_audio(pipe, [Job(str(copy)), Job(str(image))], out, **CALL)
    assert (counts["done"], counts["resumed"]) == (1, 1)
    assert os.stat(out / "d.wav").st_mtime_ns == made
    assert {Path(line["input"]).name: line["name"] for line in lines_of(out)} == {
        "a.png": "a",
        "d.png": "d",
        "copy.png": "copy",
    }
    # A renamed image is known by its content, and a path may be written otherwise.
    renamed = image.rename(image.with_name("new.png"))
    others = [Job(str(renamed)), Job(os.path.relpath(copy)), jobs[0]]
    assert generate_audio(pipe, others, out, **CALL)["resumed"] == 3


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_that_was_cut_off_is_made_again_and_an_edited_one_stays(pipe, jobs, tmp_path, size):
    out = tmp_path / "out"
    generate_audio(pipe, jobs[:2], out, **CALL)
    whole = (out / "a.wav").read_bytes()
    (out / "a.wav").write_bytes(whole[:size])
    edited = (out / "b.wav").read_bytes()[:-4]
    (out / "b.wav").write_bytes(edited)
    counts = generate_audio(pipe, jobs[:2], out, **CALL)
    assert (counts["done"], counts["resumed"]) == (1, 1)
    assert len((out / "a.wav").read_bytes()) == len(whole)
    assert (out / "b.wav").read_bytes() == edited


def test_files_of_other_origin_are_kept(pipe, jobs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_text("mine")
    for _ in range(2):
        generate_audio(pipe, jobs[:1], out, **CALL)
        assert (out / "a.wav").read_text() == "mine"
        assert (out / "a-2.wav").exists()
        assert not (out / "a-3.wav").exists()


def test_a_manifest_of_another_program_is_kept(pipe, jobs, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "text": "a dog"}\n')
    with pytest.raises(UserError, match="not written by clip2clap"):
        generate_audio(pipe, jobs, tmp_path, **CALL)
    assert "a dog" in manifest.read_text()


def test_a_second_run_on_a_folder_is_refused(pipe, jobs, tmp_path):
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(UserError, match="Another run is writing"),
    ):
        generate_audio(pipe, jobs, tmp_path, **CALL)
    generate_audio(pipe, jobs[:1], tmp_path, **CALL)
    assert not (tmp_path / ".lock").exists()


def test_a_job_audio_the_same_alone_and_among_others_of_other_lengths(pipe, jobs, tmp_path):
    mixed = [
        Job(jobs[0].image),
        Job(jobs[1].image, seconds=2 * SECONDS),
        Job(prompt="rain", seed=9),
        Job(jobs[3].image, negative_prompt="wind"),
        Job(jobs[2].image, seconds=2 * SECONDS),
    ]
    generate_audio(pipe, mixed, tmp_path / "out", BatchOptions(seed=3, batch_size=4), **CALL)
    lines = {(line["input"], line["prompt"]): line for line in lines_of(tmp_path / "out")}
    for index, job in enumerate(mixed):
        line = lines[job.image, job.prompt]
        seed = 3 + index if job.seed is None else job.seed
        assert line["seed"] == seed
        own = {"images": job.image} if job.prompt is None else {"prompt": job.prompt}
        length = job.seconds or SECONDS
        expected = pipe(
            **own,
            generator=[seed],
            negative_prompt=job.negative_prompt,
            **call_of(audio_length_in_s=length),
        )
        waveform, _ = load_audio(tmp_path / "out" / line["outputs"][0]["path"])
        middle = slice(100, -100)  # without the fades
        np.testing.assert_allclose(waveform[middle], expected.audios[0][middle], atol=2 * STEP)


def test_what_cannot_be_read_or_made_costs_its_own_entry(pipe, jobs, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    bad = [
        Job(str(tmp_path / "broken.png")),
        Job(problem="row 2: Expected an image or a prompt, got neither."),
        Job(jobs[0].image, seconds=1e10),
        Job(jobs[0].image, seconds=1e-9),
        Job("absent.png"),
    ]
    counts = generate_audio(pipe, [*bad, *jobs], tmp_path / "out", **CALL)
    assert counts == {"done": 4, "resumed": 0, "skipped": 4, "failed": 1}
    failed = [line for line in lines_of(tmp_path / "out") if line["status"] != "done"]
    assert all(line["reason"] and not line["outputs"] for line in failed)
    (memory,) = [line for line in failed if line["status"] == "failed"]
    assert memory["reason"].startswith(f"{jobs[0].image}: There is not enough memory")
    # They are tried again, and one line of each is kept.
    generate_audio(pipe, [*bad, *jobs], tmp_path / "out", **CALL)
    assert len(lines_of(tmp_path / "out")) == 9


class Observer:
    """Progress that fails like a machine whose memory holds one item."""

    def __init__(self, error: Exception, most: int):
        self.sizes, self.error, self.most = [], error, most

    def begin_batch(self, items: int, rounds: int) -> None:
        self.sizes.append((items, rounds))
        if items > self.most:
            raise self.error

    def count_step(self, pipeline: Any, *_: Any) -> dict[str, Any]:
        return {}

    def end_batch(self, count: int) -> None:
        pass


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(pipe, jobs, tmp_path):
    progress = Observer(MemoryError(), most=1)
    options = BatchOptions(batch_size=4)
    generate_audio(pipe, [*jobs, *jobs], tmp_path / "out", options, progress=progress, **CALL)
    assert [items for items, _ in progress.sizes] == [4, 2, *[1] * 8]
    generate_audio(pipe, [*jobs, *jobs], tmp_path / "plain", options, **CALL)
    for path in sorted((tmp_path / "plain").glob("*.wav")):
        expected, waveform = (load_audio(each)[0] for each in (path, tmp_path / "out" / path.name))
        np.testing.assert_allclose(waveform, expected, atol=2 * STEP)


def test_an_error_of_all_jobs_ends_the_run(pipe, jobs, tmp_path):
    progress = Observer(RuntimeError("the model is at fault"), most=0)
    with pytest.raises(RuntimeError, match="at fault"):
        generate_audio(pipe, [*jobs, *jobs], tmp_path / "out", progress=progress, **CALL)
    assert len(progress.sizes) < 8
    assert not list((tmp_path / "out").glob("*.wav"))
    with pytest.raises(UserError, match="num_inference_steps"):
        generate_audio(pipe, jobs, tmp_path / "out", num_inference_steps=10**6)
    with pytest.raises(UserError, match="no num_steps"):
        generate_audio(pipe, jobs, tmp_path / "out", num_steps=3)


def test_variations_are_ranked_and_dropped_candidates_are_kept(
    pipe_with_audio_encoder, jobs, tmp_path
):
    options = BatchOptions(num_variations=2, keep_candidates=True)
    call = call_of(num_candidates=4)
    generate_audio(pipe_with_audio_encoder, jobs[:2], tmp_path / "out", options, **call)
    expected = pipe_with_audio_encoder(
        [job.image for job in jobs[:2]], generator=[0, 1], num_variations=4, **call
    )
    for place, line in enumerate(lines_of(tmp_path / "out")):
        stem = "ab"[place]
        assert [output["path"] for output in line["outputs"]] == [
            f"{stem}-1.wav",
            f"{stem}-2.wav",
            f"candidates/{stem}-3.wav",
            f"candidates/{stem}-4.wav",
        ]
        assert [output["kept"] for output in line["outputs"]] == [True, True, False, False]
        ranked = expected.similarities[place].sort(descending=True).values.tolist()
        assert [output["similarity"] for output in line["outputs"]] == pytest.approx(
            ranked, abs=1e-3
        )
        for output, audio in zip(line["outputs"], expected.audios[4 * place :], strict=False):
            waveform, _ = load_audio(tmp_path / "out" / output["path"])
            np.testing.assert_allclose(waveform[100:-100], audio[100:-100], atol=2 * STEP)


def test_an_image_fits_if_its_nearest_label_is_likely_and_similar(
    pipe, jobs, tmp_path, monkeypatch
):
    options = BatchOptions(labels=("dog", "rain", "wind", "cat"))
    generate_audio(pipe, jobs, tmp_path / "first", options, **CALL)
    first = [line["heard_as"][0] for line in lines_of(tmp_path / "first")]
    for name in ("probability", "similarity"):
        values = [each[name] for each in first]
        least = sorted(values)[len(values) // 2]
        likely = least if name == "probability" else 0.0
        similar = {pipe.generator_space.fingerprint: least} if name == "similarity" else {}
        monkeypatch.setattr(generation, "LEAST_PROBABILITY", likely)
        monkeypatch.setattr(generation, "LEAST_SIMILARITY", similar)
        generate_audio(pipe, jobs, tmp_path / name, options, **CALL)
        lines = lines_of(tmp_path / name)
        assert [line["fits"] for line in lines] == [value >= least for value in values]
        assert {line["fits"] for line in lines} == {True, False}


def test_labels_are_noted_and_what_fits_none_is_skipped(pipe, jobs, tmp_path):
    options = BatchOptions(labels=("dog", "rain", "wind", "cat"))
    generate_audio(pipe, jobs, tmp_path / "out", options, **CALL)
    nearest = []
    for line, job in zip(lines_of(tmp_path / "out"), jobs, strict=True):
        embeds = pipe.translate(pipe.encode_image(job.image))
        (labels,) = pipe.nearest_labels(embeds, options.labels)
        heard = line["heard_as"]
        assert [each["label"] for each in heard] == [label for label, _ in labels[:3]]
        assert heard[0]["similarity"] == pytest.approx(labels[0][1], abs=1e-3)
        assert 1 >= heard[0]["probability"] > heard[1]["probability"] > 0
        nearest.append(labels[0][1])
    least = sorted(nearest)[2] - 1e-3
    strict = BatchOptions(labels=options.labels, min_similarity=least)
    counts = generate_audio(pipe, jobs, tmp_path / "strict", strict, **CALL)
    assert (counts["done"], counts["skipped"]) == (
        sum(value >= least for value in nearest),
        sum(value < least for value in nearest),
    )
    with pytest.raises(UserError, match="there are none"):
        BatchOptions(min_similarity=0.5)


def test_an_image_that_is_given_by_its_bytes_is_made_as_from_its_file(pipe, jobs, tmp_path):
    path = Path(str(jobs[0].image))
    generate_audio(pipe, jobs[:1], tmp_path / "file", **CALL)
    job = Job("sent.png", content=path.read_bytes())
    assert str(job.content)[2:-1] not in repr(job)
    generate_audio(pipe, [job], tmp_path / "bytes", **CALL)
    (line,), (other,) = lines_of(tmp_path / "bytes"), lines_of(tmp_path / "file")
    assert (line["input"], line["name"], line["sha256"]) == ("sent.png", "sent", other["sha256"])
    sent, read = (load_audio(tmp_path / name)[0] for name in ("bytes/sent.wav", "file/a.wav"))
    np.testing.assert_allclose(sent, read, atol=2 * STEP)
    # As with files, what was done is not done again.
    counts = generate_audio(pipe, [job], tmp_path / "bytes", **CALL)
    assert counts["resumed"] == 1
    damaged = generate_audio(
        pipe, [job, Job("x.png", content=b"no image")], tmp_path / "bytes", **CALL
    )
    assert damaged["skipped"] == 1
    assert lines_of(tmp_path / "bytes")[-1]["reason"].startswith("x.png")


def test_reuse_of_features_and_drafts_are_settings_of_a_file_that_repeat_reads(
    pipe, jobs, tmp_path
):
    options = BatchOptions(file=AudioFileOptions("wav", fade_s=0))
    call = call_of(num_inference_steps=6, cache_interval=3, draft_candidates=False)
    generate_audio(pipe, jobs[:1], tmp_path / "out", options, **call)
    tags = read_tags(tmp_path / "out" / "a.wav")
    image = load_input(tags, None)
    waveform, _ = load_audio(tmp_path / "out" / "a.wav")
    np.testing.assert_allclose(repeat_audio(pipe, tags, image), waveform, atol=STEP)
    # Files from before drafts were ranked by default have no such setting.
    assert tags["settings"].pop("draft_candidates") is False
    np.testing.assert_allclose(repeat_audio(pipe, tags, image), waveform, atol=STEP)
    assert tags["settings"].pop("cache_interval") == 3
    assert np.abs(repeat_audio(pipe, tags, image) - waveform).max() > 4 * STEP
