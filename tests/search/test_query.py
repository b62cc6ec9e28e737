"""How queries are written."""

from pathlib import Path

import pytest

from clip2clap.core.errors import UserError
from clip2clap.search import Query, parse_query
from clip2clap.search.query import Term


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "my dog.png", "bark.wav", "rain", "odd.bin", "a:2.jpg"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("rain on a roof", [("text", "rain on a roof", 1)]),
        ("a dog's bark", [("text", "a dog's bark", 1)]),
        (
            "photo.jpg + rain:0.5 - people",
            [("image", "photo.jpg", 1), ("text", "rain", 0.5), ("text", "people", -1)],
        ),
        ("- people + rain", [("text", "people", -1), ("text", "rain", 1)]),
        ('"salt + pepper":2 - bark.wav', [("text", "salt + pepper", 2), ("audio", "bark.wav", -1)]),
        ("a-b + c+d", [("text", "a-b", 1), ("text", "c+d", 1)]),
        ("my dog.png", [("image", "my dog.png", 1)]),
        (["my dog.png", "-", "a wet dog"], [("image", "my dog.png", 1), ("text", "a wet dog", -1)]),
        (["photo.jpg", "rain"], [("image", "photo.jpg", 1), ("text", "rain", 1)]),
        (["a:2.jpg"], [("image", "a:2.jpg", 1)]),
        (["a:2.jpg:3"], [("image", "a:2.jpg", 3)]),
        (["text:photo.jpg"], [("text", "photo.jpg", 1)]),
        (["text:at 12:30:1"], [("text", "at 12:30", 1)]),
        (["image:odd.bin:.5"], [("image", "odd.bin", 0.5)]),
        (["audio:odd.bin"], [("audio", "odd.bin", 1)]),
        (["-", "speech:bark.wav:0.5"], [("speech", "bark.wav", -0.5)]),
        (["http://a.b/c.jpg:2"], [("image", "http://a.b/c.jpg", 2)]),
        (["http://localhost:80"], [("image", "http://localhost:80", 1)]),
        (Path("photo.jpg"), [("image", "photo.jpg", 1)]),
    ],
)
def test_a_query_is_read_as_it_is_written(query, terms):
    assert parse_query(query) == Query(tuple(Term(*term) for term in terms))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "it has no term"),
        ([], "it has no term"),
        ("rain +", "ends with a term"),
        ("rain + - people", "side by side"),
        ('"rain', "never closed"),
        ("nowhere.jpg", "nowhere.jpg is no file. For words write text:nowhere.jpg"),
        (["./rain.bin"], "is no file"),
        ("image:nowhere", "nowhere is no file"),
        (":2", "is empty"),
    ],
)
def test_a_mistake_is_explained(query, message):
    with pytest.raises(UserError, match=message) as raised:
        parse_query(query)
    assert raised.value.param == "query"


def test_a_query_is_shown_as_it_is_read():
    query = 'photo.jpg + "rain":0.5 - "people"'
    assert str(parse_query(query)) == query
    assert parse_query(str(parse_query(query))) == parse_query(query)
