"""Folders of uploads and results: names, what may be read, and removal."""

import os
import time

import pytest

from clip2clap.core.errors import UserError
from clip2clap.web.folders import Folders, safe_name
from clip2clap.web.limits import Limits


@pytest.fixture
def folders():
    folders = Folders(Limits(kept_s=100.0, stored_bytes=10_000))
    yield folders
    folders.close()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("dog.JPG", "dog.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\a dog.png", "a-dog.png"),
        ("..", "file"),
        ("", "file"),
        (".bashrc", "bashrc"),
        ("-rf.wav", "rf.wav"),
        ("a\x00b\n.wav", "a-b.wav"),
        ("chien é.ogg", "chien-é.ogg"),
        ("x" * 300 + ".png", "x" * 60 + ".png"),
        ("shell;rm$(x).p/h\x00p", "h-p"),
    ],
)
def test_names_keep_no_folder_and_no_special_character(sent, kept):
    assert safe_name(sent) == kept


def test_files_are_found_in_folders_and_nowhere_else(folders, tmp_path):
    folder = folders.create()
    (folder / "a.wav").write_bytes(b"a")
    (folder / ".hidden").write_bytes(b"a")
    (folders.root / "loose").write_bytes(b"a")
    outside = tmp_path / "secret"
    outside.write_bytes(b"a")
    (folder / "link").symlink_to(outside)
    assert folders.file(f"{folder.name}/a.wav") == folder / "a.wav"
    assert folders.file(folder / "a.wav") == folder / "a.wav"
    for name in ("link", ".hidden", "none", "../loose", "", ".", "a.wav/x", "\x00", "x" * 5000):
        with pytest.raises(UserError, match="no such file"):
            folders.file(f"{folder.name}/{name}")
    for path in (outside, "/etc/passwd", "loose", "../../etc/passwd", "", ".", "/", folders.root):
        with pytest.raises(UserError, match="no such file"):
            folders.file(path)


def test_folders_have_names_that_cannot_be_guessed(folders):
    names = {folders.create().name for _ in range(100)}
    assert len(names) == 100
    assert min(map(len, names)) >= 32


def test_folders_are_removed_when_they_were_not_used_for_the_time_they_are_kept(folders):
    old, used = folders.create(), folders.create()
    (used / "a.wav").write_bytes(b"a")
    start = time.monotonic()
    folders._used |= {old: start, used: start}
    folders._used[used] = start + 60
    folders.remove_old(start + 101)
    assert not old.exists()
    assert used.exists()
    folders.remove_old(start + 161)
    assert not used.exists()


def test_reading_a_file_keeps_its_folder(folders):
    folder = folders.create()
    (folder / "a.wav").write_bytes(b"a")
    folders._used[folder] = time.monotonic() - 99
    folders.file(folder / "a.wav")
    folders.remove_old(time.monotonic() + 50)
    assert folder.exists()


def test_a_full_server_takes_no_more_files(folders):
    (folders.create() / "large").write_bytes(bytes(20_000))
    with pytest.raises(UserError, match="no room"):
        folders.create()


def test_closing_removes_everything():
    folders = Folders(Limits())
    (folders.create() / "a.wav").write_bytes(b"a")
    folders.close()
    assert not folders.root.exists()


def test_what_a_killed_server_left_is_removed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, running = Folders(Limits()), Folders(Limits())
    hours_ago = time.time() - 4000
    os.utime(killed.root, (hours_ago, hours_ago))
    started = Folders(Limits())
    assert not killed.root.exists()
    assert running.root.exists()
    assert started.root.exists()
    for each in (killed, running, started):
        each.close()
