"""The page of generated audio."""

import base64
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.media.writing import write_audio
from clip2clap.report import audio_page
from clip2clap.report.audio_page import AudioPage, write_audio_page

ODD = "it's 100% #1 <b>“ü” & co.wav"


class Page(HTMLParser):
    """The start tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, css_class: str | None = None) -> list[dict[str, str]]:
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and (not css_class or css_class in attributes.get("class", "").split())
        ]


def entry(folder: Path, stem: str, *files: str, **changed: Any) -> dict[str, Any]:
    """An entry of a manifest whose image and audio files exist."""
    Image.new("RGB", (64, 48), "teal").save(folder / f"{stem}.png")
    for place, file in enumerate(files):
        write_audio(folder / file, np.sin(np.arange(4000) * (place + 1) / 9), 16_000)
    outputs = [
        {"path": file, "kept": place == 1, "similarity": 0.2 + place / 10, "seconds": 0.25}
        for place, file in enumerate(files)
    ]
    heard = [{"label": 'a "big" <dog>', "probability": 0.8125}, {"label": "sea"}]
    return {
        "input": str(folder / f"{stem}.png"),
        "sha256": stem,
        "seed": 7,
        "heard_as": heard,
        "outputs": outputs,
        "settings": {"guidance_scale": 8.0, "seed": None},
        "models": {"clip": {"name": "demo", "fingerprint": "a1b2"}},
        "status": "done",
        **changed,
    }


def test_the_page_links_its_files_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    made = entry(tmp_path, "it's <i>me", f"sub/{ODD}", "second.wav", "third.wav")
    write_audio_page(tmp_path / "index.html", [made], title="A <b> & c")
    page = Page(tmp_path / "index.html")
    links = [link["href"] for link in page.all("a", "download")]
    assert [unquote(link) for link in links] == ["second.wav", "third.wav", f"sub/{ODD}"]
    assert not any(letter in link for link in links for letter in " #'\"<&")
    pictures = [image["src"] for image in page.all("img")]
    assert len(pictures) == len(set(pictures)) == 4
    for picture in pictures:
        with Image.open(tmp_path / picture) as image:
            assert image.size in [(64, 48), (800, 208)]
    assert not page.all("i")
    (article,) = page.all("article")
    assert article["data-name"] == "it's <i>me.png"
    assert article["data-label"] == 'a "big" <dog>'
    assert article["data-similarity"] == "0.3"
    for words in (
        "A <b> & c",
        "81%",
        "best",
        "dropped",
        "similarity 0.30",
        "name demo, fingerprint a1b2",
    ):
        assert words in page.text
    assert "seed7" in page.text
    assert "http" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_images_of_one_name_are_titled_by_their_paths(tmp_path: Path) -> None:
    inputs = ["a/<b>dog.jpg", "b/<b>dog.jpg", "a/cat.jpg", "a/cat.jpg"]
    entries = [{"input": each, "seed": seed} for seed, each in enumerate(inputs)]
    write_audio_page(tmp_path / "index.html", entries, title="Sounds")
    titles = (tmp_path / "index.html").read_text(encoding="utf-8").split("</h2>")[:-1]
    assert [title.rpartition(">")[2] for title in titles] == [
        "a/&lt;b&gt;dog.jpg",
        "b/&lt;b&gt;dog.jpg",
        "cat.jpg",
        "cat.jpg",
    ]
    names = [each["data-name"] for each in Page(tmp_path / "index.html").all("article")]
    assert names == ["<b>dog.jpg", "<b>dog.jpg", "cat.jpg", "cat.jpg"]


def test_one_file_holds_all_that_it_shows(tmp_path: Path) -> None:
    write_audio_page(
        tmp_path / "index.html", [entry(tmp_path, "a", "a.wav")], title="One", embed=True
    )
    page = Page(tmp_path / "index.html")
    (link,) = page.all("a", "download")
    kind, content = link["href"].split(",")
    assert kind == "data:audio/wav;base64"
    assert base64.b64decode(content) == (tmp_path / "a.wav").read_bytes()
    assert all(image["src"].startswith("data:image/webp") for image in page.all("img"))
    assert not (tmp_path / "page").exists()


def test_every_control_has_a_name(tmp_path: Path) -> None:
    entries = [entry(tmp_path, name, f"{name}1.wav", f"{name}2.wav") for name in "ab"]
    write_audio_page(tmp_path / "index.html", entries, title="Two")
    page = Page(tmp_path / "index.html")
    labels = [tag for tag, _ in page.tags].count("label")
    unnamed = [
        attributes
        for tag, attributes in page.tags
        if tag in ("input", "select", "button", "a") and "aria-label" not in attributes
    ]
    # Those of the form are in labels, and a button and links say what they do.
    assert len([each for each in unnamed if "name" in each]) == labels + 1
    assert all("alt" in image and image["loading"] == "lazy" for image in page.all("img"))
    ranges = [each for each in page.all("input") if each["type"] == "range"]
    assert [each["aria-label"] for each in ranges] == [
        f"Position in {name}" for name in ("a2.wav", "a1.wav", "b2.wav", "b1.wav")
    ]


@pytest.mark.parametrize("sparse", [{}, {"outputs": None}, {"outputs": [{"path": "gone.wav"}]}])
def test_missing_facts_leave_gaps(tmp_path: Path, sparse: dict[str, Any]) -> None:
    odd = {**sparse, "heard_as": None, "input": "gone.png", "seed": None, "sha256": None}
    infinite = {"outputs": [{"path": "a.wav", "loudness": float("-inf")}]}
    entries = [sparse, odd, {**entry(tmp_path, "a", "a.wav"), **infinite}]
    write_audio_page(tmp_path / "index.html", entries, title="Gaps")
    page = Page(tmp_path / "index.html")
    assert len(page.all("article")) == 3
    assert len(page.all("section", "audio")) == 1
    assert ("gone.wav cannot be read" in page.text) == bool(sparse.get("outputs"))
    assert "None" not in page.text.split("(() =>")[0]
    assert "inf" not in page.text.split("(() =>")[0]


def test_the_page_of_a_run_that_begins_says_so(tmp_path: Path) -> None:
    AudioPage(tmp_path / "index.html", title="Night").write()
    assert "Nothing is made yet" in Page(tmp_path / "index.html").text


def test_failed_and_skipped_inputs_have_their_reasons(tmp_path: Path) -> None:
    reasons = {"failed": "It can't be <read>.", "skipped": "Nothing fits."}
    entries = [
        {"input": f"{status}.png", "status": status, "reason": reason}
        for status, reason in reasons.items()
    ]
    write_audio_page(tmp_path / "index.html", entries, title="None")
    page = Page(tmp_path / "index.html")
    assert [article["data-status"] for article in page.all("article")] == list(reasons)
    for words in [*reasons, *reasons.values()]:
        assert words in page.text


def test_an_entry_more_reads_only_its_own_files(tmp_path: Path) -> None:
    entries = [entry(tmp_path, name, f"{name}.wav") for name in "abc"]
    with patch.object(audio_page, "draw_audio", wraps=audio_page.draw_audio) as draw:
        page = AudioPage(tmp_path / "index.html", title="Night")
        for each in entries[:2]:
            page.add(each)
        page.write()
        page.add(entries[2])
        page.write()
        assert [call.args[0].name for call in draw.call_args_list] == ["a.wav", "b.wav", "c.wav"]
        whole = (tmp_path / "index.html").read_bytes()
        # A run that goes on writes the same, and draws only what has changed.
        write_audio_page(tmp_path / "index.html", entries, title="Night")
        assert draw.call_count == 3
        assert (tmp_path / "index.html").read_bytes() == whole
        os.utime(tmp_path / "b.wav", ns=(1, 1))
        write_audio_page(tmp_path / "index.html", entries, title="Night")
        assert draw.call_count == 4


def test_a_given_image_is_shown_and_one_of_the_web_not_fetched(tmp_path: Path) -> None:
    page = AudioPage(tmp_path / "index.html", title="Web", longest_side=16)
    page.add({"input": "https://a.example/b.png"}, Image.new("RGB", (64, 32)))
    page.add({"input": "https://a.example/c.png"})
    page.write()
    (image,) = Page(tmp_path / "index.html").all("img")
    with Image.open(tmp_path / image["src"]) as shown:
        assert shown.size == (16, 8)


def test_a_large_run_has_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_page, "PART", 2)
    entries = [{"input": f"{number}.png"} for number in range(5)]
    write_audio_page(tmp_path / "index.html", entries, title="Large")
    parts = [tmp_path / name for name in ("index.html", "index-2.html", "index-3.html")]
    names = [[each["data-name"] for each in Page(part).all("article")] for part in parts]
    assert names == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]]
    links = [[link["href"] for link in Page(part).all("a")] for part in parts]
    assert links == [
        ["index-2.html"],
        ["index.html", "index.html", "index-3.html"],
        ["index.html", "index-2.html"],
    ]
    write_audio_page(tmp_path / "index.html", entries[:4], title="Large")
    assert not parts[2].exists()


def test_a_page_of_another_program_is_kept(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match="not written by clip2clap") as raised:
        write_audio_page(tmp_path / "index.html", [{}], title="Mine")
    assert raised.value.param == "output"
    assert (tmp_path / "index.html").read_text() == "mine"
