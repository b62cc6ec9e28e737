"""Search in an index: what is found, and that nothing else of it can be read."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from clip2clap import ClipEncoder
from clip2clap.cli.app import main
from clip2clap.core.errors import UserError
from clip2clap.search import Index, update_index
from clip2clap.search.query import Term, parse_query
from clip2clap.web.folders import Folders
from clip2clap.web.limits import Limits
from clip2clap.web.recipes import search_recipes
from clip2clap.web.runs import Run
from clip2clap.web.searching import SearchOrder, find_files

gradio_client = pytest.importorskip("gradio_client")
Client, handle_file = gradio_client.Client, gradio_client.handle_file
AppError = gradio_client.exceptions.AppError


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, verbose=False)


@pytest.fixture
def folders():
    folders = Folders(Limits())
    yield folders
    folders.close()


def found(documents):
    return {each["name"] for each in documents}


def test_an_image_finds_itself_first_and_audio_through_the_translator(client, library):
    hits = client.predict(image=handle_file(library / "a rocket.jpg"), count=2, api_name="/search")
    assert [each["modality"] for each in hits] == ["image", "image", "audio", "audio"]
    assert hits[0]["name"] == "a-rocket.jpg"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)


def test_audio_finds_itself_and_only_what_is_to_be_found(client, library):
    hits = client.predict(
        audio=handle_file(library / "high.wav"), find="audio", count=5, api_name="/search"
    )
    assert [each["name"] for each in hits] == ["high.wav", "low.wav"]


def test_a_search_is_that_of_the_library_with_words_that_are_not_wanted(client, library):
    hits = client.predict(
        words="a cat", unwanted="a rocket", find="image", count=3, api_name="/search"
    )
    expected = Index(library / "index").search('"a cat" - "a rocket"', find="image", k=3)
    assert [each["score"] for each in hits] == [
        pytest.approx(each.score, abs=1e-4) for each in expected
    ]


def test_what_was_found_is_served_whole_and_with_a_page(client, server, library):
    hits = client.predict(audio=handle_file(library / "low.wav"), count=1, api_name="/search")
    for hit, path in zip(hits, ("a", "low.wav"), strict=True):
        answer = httpx.get(server.url + hit["address"])
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        if hit["modality"] == "audio":
            assert answer.content == (library / path).read_bytes()
            part = httpx.get(server.url + hit["address"], headers={"Range": "bytes=0-3"})
            assert (part.status_code, part.content) == (206, b"RIFF")
    page = httpx.get(server.url + hits[0]["address"].rsplit("/", 2)[0] + "/index.html").text
    assert "low.wav" in page
    # Neither the folder of the server nor that of the index is in the page.
    assert str(library) not in page
    assert str(server.service.folders.root) not in page


def test_no_other_file_of_the_index_can_be_read(client, server, library):
    hits = client.predict(words="noise", find="audio", count=1, api_name="/search")
    folder = hits[0]["address"].rsplit("/", 2)[0]
    other = next(name for name in ("high.wav", "low.wav") if name != hits[0]["name"])
    up = "/".join([".."] * 12)
    paths = [other, f"1/{other}", "1/secret.txt", "1/../../index/index.json", "1", "2/high.wav"]
    paths += [f"1/{up}{library / name}" for name in (other, "secret.txt", "index/index.json")]
    paths += [f"1/{hits[0]['name']}/{up}{library / other}", str(library / other)]
    for path in paths:
        for sent in (path, quote(path, safe=""), path.replace("..", "%2e%2e")):
            answer = httpx.get(f"{server.url}{folder}/{sent}")
            assert answer.status_code in (404, 414), sent
    for path in (library / hits[0]["name"], library / "secret.txt"):
        assert httpx.get(f"{server.url}/gradio_api/file={path}").status_code == 403
        assert httpx.get(f"{server.url}/results/{quote(str(path))}").status_code == 404


def test_links_lead_to_what_was_found_alone_and_end_with_their_folder(folders, tmp_path):
    for name in ("found.wav", "other.wav"):
        (tmp_path / name).write_bytes(bytes(10_000))
    folder, stranger = folders.create(), folders.create()
    link = folders.link(folder, "1/found.wav", tmp_path / "found.wav")
    assert folders.file(link) == tmp_path / "found.wav"
    # A link that changes, or that another folder has, opens nothing.
    (stranger / "found.wav").symlink_to(tmp_path / "found.wav")
    link.unlink()
    link.symlink_to(tmp_path / "other.wav")
    for path in (link, stranger / "found.wav", tmp_path / "found.wav"):
        with pytest.raises(UserError, match="no such file"):
            folders.file(path)
    with pytest.raises(FileNotFoundError):
        folders.link(folder, "2/gone.wav", tmp_path / "gone.wav")
    folders.remove_old(folders._used[folder] + 10**6)
    assert not folder.exists()
    assert not folders._linked
    assert (tmp_path / "found.wav").exists()


def test_linked_files_do_not_count_as_stored(tmp_path):
    folders = Folders(Limits(stored_bytes=5000))
    (tmp_path / "large.wav").write_bytes(bytes(100_000))
    folders.link(folders.create(), "1/large.wav", tmp_path / "large.wav")
    assert folders.create().exists()
    folders.close()


def test_files_that_are_gone_are_left_out(models, folders, library, tmp_path):
    for path in library.glob("*.jpg"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    update_index([tmp_path], tmp_path / "index")
    index = Index(tmp_path / "index", clip=models.clip)
    (tmp_path / "a rocket.jpg").unlink()
    order = SearchOrder((Term("text", "a rocket"),), find="image", count=3)
    files, notes = find_files(index, folders, folders.create(), order, Run())
    assert found(files) == {"a-chelsea.jpg", "a-coffee.jpg"}
    assert notes == []
    with pytest.raises(UserError, match="The index holds no audio"):
        find_files(index, folders, folders.create(), replace(order, find="audio"), Run())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There is nothing to search with yet"),
        ({"unwanted": "rain"}, "There is nothing to search with yet"),
        ({"words": "x" * 501}, "at most 500 characters"),
        ({"words": "rain", "find": "text"}, "Expected find to be all, image or audio"),
        ({"words": "rain", "count": 0}, "Expected count to be from 1 to 24"),
        ({"words": "rain", "distinct": "x"}, "Expected distinct"),
        ({"words": "rain", "unwanted": "rain"}, "cancel each other"),
    ],
)
def test_searches_that_cannot_be_are_refused_in_one_line(client, arguments, message):
    with pytest.raises(AppError, match=message):
        client.predict(**arguments, api_name="/search")


def test_words_never_name_files(client, library):
    for words in (str(library / "a rocket.jpg"), "image:/etc/passwd", "./a.png", "file:///x.png"):
        hits = client.predict(words=words, find="image", count=3, api_name="/search")
        assert len(hits) == 3
        assert max(each["score"] for each in hits) < 0.9


def test_an_upload_that_cannot_be_read_is_named_without_the_server_s_folder(client, tmp_path):
    (tmp_path / "no.png").write_bytes(b"nothing")
    with pytest.raises(AppError, match=r"no\.png is not an image") as raised:
        client.predict(image=handle_file(tmp_path / "no.png"), api_name="/search")
    assert "clip2clap-serve" not in str(raised.value)


def test_the_command_and_the_python_code_find_the_same(
    library, tmp_path, monkeypatch, capsys, models, folders
):
    photo = folders.create() / "a-rocket.jpg"
    photo.write_bytes((library / "a rocket.jpg").read_bytes())
    terms = (Term("image", str(photo)), Term("text", "a:cat", -1.0))
    order = SearchOrder(terms, {str(photo): photo.name}, find="image", count=2)
    files, _ = find_files(models.index, folders, folders.create(), order, Run())
    monkeypatch.chdir(tmp_path)
    Path("a-rocket.jpg").write_bytes(photo.read_bytes())
    command, python = search_recipes(order, {"index": str(library / "index")})
    with pytest.raises(SystemExit):
        main([*shlex.split(command)[1:], "--json"])
    results = json.loads(capsys.readouterr().out)["results"]
    assert [each["score"] for each in results] == [
        pytest.approx(each["score"], abs=1e-4) for each in files
    ]
    exec(compile(python, "python", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split(" ", 1)[1]).name for line in lines] == [
        Path(each["path"]).name for each in results
    ]


@pytest.mark.parametrize(
    "term",
    [
        Term("text", "rain"),
        Term("text", "text:rain"),
        Term("text", "a dog.jpg"),
        Term("text", "3 to 1:0.5"),
        Term("text", "-x"),
        Term("text", "+"),
        Term("text", 'a "b" c'),
    ],
)
def test_words_stand_in_the_command_as_words(term):
    command, _ = search_recipes(SearchOrder((term,)), {})
    words = shlex.split(command.splitlines()[0])
    assert parse_query([words[3]]).terms == (term,)


def test_an_index_shares_models_that_fit_and_no_others(models, library, reading_clip_folder):
    index = Index(library / "index")
    index.share((ClipEncoder.from_pretrained(reading_clip_folder), models.clap))
    assert index._queries._encoders["clap"] is models.clap
    assert index._queries._encoders["clip"] == "demo"
