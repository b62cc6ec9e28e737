"""Files are replaced whole, and no name is taken twice."""

from pathlib import Path

import pytest

from clip2clap.core.files import free_stem, replacing


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
    assert free_stem(tmp_path, "dog", [".wav"], taken=set()) == "dog-2"
    assert free_stem(tmp_path, "dog", [".wav", ".png"], taken=set()) == "dog-3"
    assert free_stem(tmp_path, "dog", [".wav", ".png"], taken={"dog-3"}) == "dog-4"
    assert free_stem(tmp_path, "Cat", [".wav"], taken={"cat"}) == "Cat-2"
