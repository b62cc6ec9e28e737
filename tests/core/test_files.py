"""Files are replaced whole, and no name is taken twice."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from clip2clap.core.errors import UserError
from clip2clap.core.files import (
    as_path,
    expand_inputs,
    free_stem,
    is_local_url,
    remove_leftovers,
    replacing,
    save_tensors,
    visible_files,
    visible_folders,
)


def test_a_file_is_replaced_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_free_stem_avoids_files_of_any_suffix_and_names_given_away(tmp_path: Path) -> None:
    (tmp_path / "dog.wav").touch()
    (tmp_path / "dog-2.png").touch()
    assert free_stem(tmp_path, "dog", [".wav"], taken={}) == "dog-2"
    assert free_stem(tmp_path, "dog", [".wav", ".png"], taken={}) == "dog-3"
    assert free_stem(tmp_path, "dog", [".wav", ".png"], taken={"dog-3": 1}) == "dog-4"
    assert free_stem(tmp_path, "Cat", [".wav"], taken={"cat": 1}) == "Cat-2"


def test_what_a_killed_process_left_is_removed_by_the_next_writer(
    tmp_path: Path, in_a_fork: Callable[..., int]
) -> None:
    def die_while_writing() -> None:
        with replacing(tmp_path / "file.txt") as partial:
            partial.write_text("ne")
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(in_a_fork(die_while_writing))
    assert len(list(tmp_path.glob(".*.part"))) == 1
    (tmp_path / ".mine.part").touch()
    with replacing(tmp_path / "other.txt") as partial:
        partial.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.part", "other.txt"]


def test_nothing_is_left_of_a_killed_save_of_tensors(
    tmp_path: Path, in_a_fork: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"

    def die(tensors: Any, file: Path, metadata: Any) -> None:
        (file.parent / ".tmpRD7TaW").write_bytes(b"half")  # as safetensors does
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", die)
        assert os.WIFSIGNALED(in_a_fork(save_tensors, {"a": torch.zeros(2)}, path))
    save_tensors({"a": torch.ones(2)}, path)
    with replacing(tmp_path / "config.json") as partial:
        partial.touch()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.json", path.name]
    assert torch.equal(load_file(path)["a"], torch.ones(2))
    assert path.stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from clip2clap.core.files import replacing\n"
        f"with replacing(Path({str(tmp_path / 'b')!r})) as partial: partial.touch()"
    )
    with replacing(tmp_path / "a") as partial:
        partial.write_text("a")
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)}
        )
        assert partial.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_full_disk_is_an_error_of_the_file_whatever_the_library_raises(
    tmp_path: Path, in_a_fork: Callable[..., int]
) -> None:
    def write_noise() -> None:
        with replacing(tmp_path / "noise.wav") as partial:
            noise = np.random.default_rng(0).uniform(-1, 1, 16_000)
            soundfile.write(partial, noise, 16_000, format="WAV")

    def write_more_than_fits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with pytest.raises(OSError, match="too large") as raised:
            write_noise()
        assert raised.value.filename == str(tmp_path / "noise.wav")

    assert in_a_fork(write_more_than_fits) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_writing_names_the_file_and_not_the_hidden_one(tmp_path: Path) -> None:
    target = tmp_path / "absent" / "a.txt"
    with pytest.raises(FileNotFoundError) as raised, replacing(target) as partial:
        partial.write_text("a")
    assert raised.value.filename == str(target)


@pytest.mark.parametrize("name", ["x" * 251, "é" * 120, "a$_$b", "caf\udce9"])
def test_any_name_that_a_file_system_has_can_be_written(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as partial:
        partial.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_many_files_of_one_stem_are_named_in_order_without_trying_all_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Dog-3.wav").touch()
    tried: list[str] = []
    exists = os.path.lexists
    monkeypatch.setattr("os.path.lexists", lambda path: tried.append(path) or exists(path))
    taken: dict[str, int] = {}
    names = [free_stem(tmp_path, "Dog", [".wav"], taken=taken) for _ in range(50)]
    assert names == ["Dog", *(f"Dog-{number}" for number in range(2, 52) if number != 3)]
    assert len(tried) < 60


def test_a_long_stem_is_cut_so_that_its_files_fit(tmp_path: Path) -> None:
    stem = free_stem(tmp_path, "é" * 200, [".wav", "-spectrogram.png"], taken={})
    (tmp_path / f"{stem}-spectrogram.png").touch()
    other = free_stem(tmp_path, "é" * 200, [".wav", "-spectrogram.png"], taken={})
    assert other == f"{stem}-2"
    (tmp_path / f"{other}-spectrogram.png").touch()
    assert len(stem) > 100


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "._a.PNG", ".hidden.jpg", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [path.name for path in visible_files(tmp_path, {".jpg", ".png"})] == ["a.PNG", "b.jpg"]


def test_folders_and_patterns_give_their_files_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.WAV", "a.mp3", "c.txt", "deeper/d.wav", "._b.WAV"):
        (folder / name).touch()

    def found(*inputs: str, **options: bool) -> list[str]:
        names = expand_inputs(inputs, {".wav", ".mp3"}, "audio", named=[".txt"], **options)
        return [name.removeprefix(f"{folder}/") for name in names]

    url = "https://example.org/x.wav"
    assert found(url, str(folder), "absent.wav") == [url, "a.mp3", "b.WAV", "absent.wav"]
    assert found(str(folder), recursive=True) == ["a.mp3", "b.WAV", "deeper/d.wav"]
    assert found(f"{folder}/*.*") == ["a.mp3", "b.WAV", "c.txt"]
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("absent.wav", "absent.wav does not exist"),
        (str(tmp_path / "empty"), r"holds no audio \(.mp3, .wav\); its subfolders are not"),
        (f"{folder}/*.flac", "No audio matches"),
        (f"*/{'a/' * 2000}a.wav", "too many folders"),
    ):
        with pytest.raises(UserError, match=words):
            found(name)


def test_leftovers_that_another_process_may_be_writing_stay_in_a_shared_folder(
    tmp_path: Path,
) -> None:
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        (tmp_path / ".0123456789abcdef-1-2.part").write_text("of a killed process")
        (tmp_path / ".scratch.part").mkdir()
        remove_leftovers(tmp_path, shared=True)
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {partial.parent.name, ".scratch.part"}
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    for name in ("a/deep", "b", ".git"):
        (tmp_path / name).mkdir(parents=True)
    outside = tmp_path.parent / f"{tmp_path.name} outside"
    outside.mkdir()
    for link, target in (("a/up", tmp_path), ("b/over", tmp_path / "a"), ("0", outside)):
        (tmp_path / link).symlink_to(target)
    found = [str(folder.relative_to(tmp_path)) for folder in visible_folders(tmp_path)]
    assert found == [".", "a", "a/deep", "b", "0"]


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="can't be opened"):
        as_path(name)


def test_a_home_that_no_one_has_is_a_folder_that_is_not_there() -> None:
    assert not as_path("~nobody-of-this-name/a").exists()


def test_an_address_with_an_open_bracket_is_not_this_machine() -> None:
    assert not is_local_url("http://:[")
