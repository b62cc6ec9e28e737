"""Building and updating of an index: incremental, safe from kills, and strict about encoders."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from clip2clap.core.errors import UserError
from clip2clap.core.output_folder import sole_run
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.search import Index
from clip2clap.search import update as update_module
from clip2clap.search.files import find_roots

from .builders import assert_equal_contents, contents, found, write_audio, write_image


def counts(report: Any) -> tuple[int, ...]:
    return report.added, report.changed, report.moved, report.removed, report.encoded


def test_only_changes_are_encoded_and_the_index_equals_a_fresh_build(
    media, tmp_path, update, library
):
    assert counts(update([], library)) == (0, 0, 0, 0, 0)
    photos, sounds = media / "photos", media / "sounds"
    write_image(photos / "new.png", 20)
    write_audio(photos / "deep" / "new.wav", 20)
    write_image(photos / "0.png", 21)
    (photos / "1.png").unlink()
    (photos / "2.png").rename(sounds / "moved.png")
    (sounds / "3.wav").rename(sounds / "renamed.wav")
    shutil.copy(photos / "4.png", photos / "copy.png")
    os.utime(photos / "5.png", ns=(1, 1))
    report = update([], library)
    assert counts(report) == (3, 1, 2, 1, 3)
    assert report.files == 14
    update([media], tmp_path / "fresh")
    assert_equal_contents(library, tmp_path / "fresh")
    query = str(photos / "4.png")
    assert found(Index(library), query, k=20, find="image") == found(
        Index(tmp_path / "fresh"), query, k=20, find="image"
    )


def test_inputs_add_up_and_can_be_forgotten(media, library, update, tmp_path):
    other = write_image(tmp_path / "other" / "a.png", 30)
    assert update([other], library).files == 13
    (media / "photos" / "0.png").unlink()
    # Only the named input is looked at.
    assert update([other.parent], library).files == 13
    assert update([], library).files == 12
    assert update([], library, forget=[media]).files == 1
    assert update([], library).files == 1
    with pytest.raises(UserError, match="is not an input of the index"):
        update([], library, forget=[media / "photos"])


def test_a_root_that_is_not_there_keeps_its_entries(media, library, update, tmp_path):
    media.rename(tmp_path / "unmounted")
    report = update([], library)
    assert report.files == 12
    assert "entries are kept" in report.failures[str(media)]
    (tmp_path / "unmounted").rename(media)
    assert counts(update([], library)) == (0, 0, 0, 0, 0)


def test_what_cannot_be_read_costs_one_line_and_is_tried_again(
    media, tmp_path, update, monkeypatch
):
    (media / "broken.png").write_bytes(b"\x89PNG")
    (media / "empty.wav").touch()
    soundfile.write(media / "silent.wav", np.zeros(8000), 16_000)
    write_image(media / "closed" / "a.png", 40)
    (media / "gone.jpg").symlink_to(media / "nowhere.jpg")
    listed = Path.iterdir

    def iterdir(self: Path):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = update([media], tmp_path / "library")
    assert report.files == 12
    reasons = {Path(path).name: reason for path, reason in report.failures.items()}
    assert reasons.keys() == {"broken.png", "empty.wav", "silent.wav", "closed"}
    for name, reason in reasons.items():
        assert name in reason
        assert "\n" not in reason
    assert "silent" in reasons["silent.wav"]
    assert "Permission denied" in reasons["closed"]
    monkeypatch.undo()
    write_image(media / "broken.png", 41)
    report = update([], tmp_path / "library")
    assert counts(report) == (1, 1, 0, 0, 2)
    assert {Path(path).name for path in report.failures} == {"empty.wav", "silent.wav"}


def test_a_locked_file_is_one_failure(media, tmp_path, update, monkeypatch):
    hash_file = update_module.hash_file

    def locked(file: Any) -> str:
        if file.name.endswith("0.png"):
            raise PermissionError(13, "Permission denied")
        return hash_file(file)

    monkeypatch.setattr(update_module, "hash_file", locked)
    report = update([media], tmp_path / "library")
    (reason,) = report.failures.values()
    assert reason.endswith("0.png can't be read: Permission denied.")
    assert report.files == 11


def test_a_file_that_breaks_is_no_longer_found(media, library, update):
    (media / "photos" / "0.png").write_bytes(b"broken")
    assert update([], library).files == 11
    assert "0.png" not in dict(found(Index(library), "rain", find="image", k=20))


def test_lines_of_a_text_file_are_texts(media, library, update, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\ufeffa dog\n\n  rain   on a roof \na dog\n", encoding="utf-8")
    (media / "notes.txt").write_text("not named itself")
    report = update([media, texts], library)
    assert (report.files, report.encoded) == (15, 2)
    hits = Index(library).search("rain on a roof", find="text", k=3)
    assert (hits[0].line, hits[0].text) == (3, "rain on a roof")
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert sorted(hit.line or 0 for hit in hits) == [1, 3, 4]
    texts.write_text("rain on a roof\nthe sea\n")
    assert counts(update([], library)) == (0, 1, 0, 0, 1)
    assert [line for _, line in contents(library) if line] == [1, 2]
    texts.write_bytes(b"\0\1")
    assert "is no text" in update([], library).failures[str(texts)]


@pytest.mark.parametrize("named", ["clip", "clap"])
def test_a_foreign_encoder_is_refused(
    named, library, update, models, foreign_reading_clip_folder, foreign_folder, tmp_path
):
    before = contents(library)
    foreign = {"clip": foreign_reading_clip_folder, "clap": foreign_folder}
    given = {**models, named: str(foreign[named])}
    write_image(tmp_path / "media" / "new.png", 50)
    with pytest.raises(SpaceMismatchError, match="Two encoders are two spaces"):
        update([], library, **given)
    assert contents(library).keys() == before.keys()
    with pytest.raises(SpaceMismatchError, match="Two encoders are two spaces"):
        Index(library, **given).search("rain")


def test_an_encoder_whose_weights_were_exchanged_is_refused(
    media, tmp_path, update, models, reading_clip_folder, foreign_reading_clip_folder
):
    folder = tmp_path / "clip"
    shutil.copytree(reading_clip_folder, folder)
    update([media], tmp_path / "library", clip=str(folder))
    shutil.rmtree(folder)
    shutil.copytree(foreign_reading_clip_folder, folder)
    write_image(media / "new.png", 51)
    with pytest.raises(SpaceMismatchError):
        update([], tmp_path / "library", clip=None)


def test_a_clap_without_audio_encoder_is_named(media, tmp_path, update, audioldm_folder):
    with pytest.raises(UserError, match="embeds no audio") as raised:
        update([media], tmp_path / "library", clap=str(audioldm_folder))
    assert raised.value.param == "clap"


def test_a_second_writer_is_refused(library, update):
    with sole_run(library), pytest.raises(UserError, match="Another run is writing"):
        update([], library)


def test_an_index_that_is_written_can_be_searched(library):
    with sole_run(library):
        assert len(Index(library)) == 12


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("index.json", "Remove it and index the same folders"),
        ("files.parquet", "no file is encoded twice"),
        ("image-1/state.json", "encodes its files anew"),
        ("image-1/data-000000.arrow", "encodes its files anew"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_index_is_one_line_and_mended_as_it_says(
    file, message, damage, media, library, update, tmp_path
):
    before = contents(library)
    path = library / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\x7b" * len(content))
    with pytest.raises(UserError, match=message) as raised:
        Index(library)
    assert "\n" not in str(raised.value)
    if path.parent == library:
        path.unlink()
    else:
        shutil.rmtree(path.parent)
    report = update([media], library)
    assert report.encoded == (6 if "image" in file else 0)
    assert contents(library).keys() == before.keys()


def test_a_folder_with_something_else_is_refused(media, tmp_path, update):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "letter.txt").touch()
    with pytest.raises(UserError, match=r"holds something else \(letter.txt\)"):
        update([media], tmp_path / "library")
    assert [p.name for p in (tmp_path / "library").iterdir()] == ["letter.txt"]


def test_an_index_of_a_newer_version_is_refused(library):
    settings = json.loads((library / "index.json").read_text())
    (library / "index.json").write_text(json.dumps({**settings, "version": 99}))
    with pytest.raises(UserError, match="newer clip2clap"):
        Index(library)


def test_vectors_of_files_that_are_gone_are_dropped_once_they_are_many(
    media, library, update, monkeypatch, tmp_path
):
    monkeypatch.setattr(update_module, "_DEAD_ROWS", 2)
    for n in range(3):
        (media / "photos" / f"{n}.png").unlink()
    update([], library)
    assert not (library / "image-1").exists()
    assert len(EmbeddingTable.open(library / "image-2")) == 3
    update([media], tmp_path / "fresh")
    assert_equal_contents(library, tmp_path / "fresh")


def test_an_index_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    media, tmp_path, update, in_a_fork, monkeypatch
):
    monkeypatch.setattr(update_module, "_SECONDS_PER_SAVE", 0.0)
    update([media], tmp_path / "fresh", batch_size=2)
    expected = contents(tmp_path / "fresh").keys()
    library, chance = tmp_path / "library", random.Random(0)
    replace = os.replace

    def run(moment: int) -> None:
        left = [moment]

        def counted(*paths: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            replace(*paths)
            if left[0] == 0 and chance.random() < 0.5:
                os._exit(9)

        monkeypatch.setattr(os, "replace", counted)
        update([media], library, batch_size=2)

    killed = 0
    for kill in range(20):
        if kill % 4 == 0:
            shutil.rmtree(library, ignore_errors=True)
        killed += in_a_fork(run, chance.randrange(12)) != 0
        if (library / "index.json").exists():
            held = contents(library)
            assert held.keys() <= expected
            # What was encoded is not encoded again.
            for state in library.glob("*-1/state.json"):
                ids = EmbeddingTable.open(state.parent).ids
                assert len(set(ids)) == len(ids)
    assert killed >= 10
    update([media], library)
    assert_equal_contents(library, tmp_path / "fresh")


def test_what_is_left_of_a_killed_merge_goes_with_a_run_that_has_nothing_to_do(
    media, tmp_path, update, in_a_fork, monkeypatch
):
    monkeypatch.setattr(update_module, "_SECONDS_PER_SAVE", 0.0)
    library, replace = tmp_path / "library", os.replace

    def run() -> None:
        def killed(source: Any, target: Any) -> None:
            # The third file of vectors is the first two, merged.
            if Path(target).name == "data-000002.arrow":
                os._exit(9)
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        update([media / "photos"], library, batch_size=3)

    assert in_a_fork(run)
    assert [*library.rglob(".*.part")]
    assert update([media / "photos"], library).encoded == 0
    assert not [*library.rglob(".*.part")]
    assert len([*library.glob("image-1/data-*")]) == 1


def test_a_run_that_fails_keeps_what_is_done(media, tmp_path, update, monkeypatch):
    encode = update_module._Update._encode
    left = [2]

    def failing(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        encode(*arguments)

    monkeypatch.setattr(update_module._Update, "_encode", failing)
    with pytest.raises(KeyboardInterrupt):
        update([media], tmp_path / "library", batch_size=2)
    assert len(Index(tmp_path / "library")) == 4
    monkeypatch.undo()
    assert update([], tmp_path / "library").encoded == 8


def test_the_folder_of_the_index_and_hidden_files_are_left_out(media, update):
    write_image(media / "library" / ".image.png", 60)
    write_image(media / ".hidden" / "image.png", 61)
    report = update([media], media / "library")
    assert report.files == 12
    write_image(media / "library" / "page.png", 62)
    assert update([], media / "library").files == 12


def test_names_that_are_not_utf8_are_found(tmp_path, update):
    name = os.fsdecode(b"caf\xe9 \n.png")
    try:
        write_image(tmp_path / "media" / name, 70)
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    update([tmp_path / "media"], tmp_path / "library")
    (hit,) = Index(tmp_path / "library").search("rain")
    assert Path(hit.path).name == name


def test_inputs_that_are_not_there_are_refused(tmp_path, update):
    with pytest.raises(UserError, match="does not exist"):
        find_roots([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="Name the files and folders"):
        update([], tmp_path / "library")
    assert not (tmp_path / "library").exists()


def test_pictures_of_pages_and_spectrograms_of_generated_audio_are_left_out(
    media, tmp_path, update
):
    photos, picture = media / "photos", "0123456789abcdef.webp"
    before = update([photos], tmp_path / "before").files
    listed = ("1-spectrogram.png", "candidates/1-2-spectrogram.png")
    outputs = [{"path": "1.wav", "spectrogram": name} for name in listed]
    entries = [{"version": 1, "outputs": [{"path": "0.wav"}]}, {"version": 1, "outputs": outputs}]
    lines = [json.dumps(entry) for entry in entries]
    (photos / "manifest.jsonl").write_text("\n".join(['{"version": half', *lines]))
    for name in (*listed, f"page/{picture}"):
        write_image(photos / name, 20)
    assert update([photos], tmp_path / "after").files == before
    # Those that no run of ours drew are images like others.
    for name in ("2-spectrogram.png", "page/1.png", picture, f"other/page/{picture}"):
        write_image(photos / name, 20)
    assert update([photos], tmp_path / "after").files == before + 4
