"""Searching an index: exact and fast search, terms, filters, and what is ranked how."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip2clap import ClapEncoder, ClipEncoder
from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.search import Index, nearest
from clip2clap.search.index import NEAR_DUPLICATE
from clip2clap.search.nearest import Vectors, renew_nearest
from clip2clap.search.query_vectors import MissingTranslatorError

from .builders import found, write_image

DIM = 64
SPACE = EmbeddingSpace("clip", "random vectors", "image", DIM, True, "none")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    """10,000 vectors around 200 centers, in two parts."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.randn(200, DIM, generator=draw)
    around = torch.randint(200, (10_000,), generator=draw)
    vectors = unit_norm(centers[around] + 0.5 * torch.randn(10_000, DIM, generator=draw))
    folder = tmp_path_factory.mktemp("vectors") / "table"
    for start, stop in ((0, 7000), (7000, 10_000)):
        writer = TableWriter(folder, {"clip_image": SPACE})
        ids = [str(row) for row in range(start, stop)]
        writer.append(ids, {}, {"clip_image": vectors[start:stop]})
        writer.flush()
        writer._lock.release()
    return EmbeddingTable.open(folder)


@pytest.fixture(scope="module")
def queries() -> torch.Tensor:
    return unit_norm(torch.randn(20, DIM, generator=torch.Generator().manual_seed(1)))


def numpy_search(table: EmbeddingTable, query: torch.Tensor, k: int, rows=None):
    vectors = table.to_numpy("clip_image").astype(np.float32)
    rows = np.arange(len(vectors)) if rows is None else rows
    scores = vectors[rows] @ query.numpy()
    best = np.argsort(-scores)[:k]
    return scores[best], rows[best]


@pytest.mark.parametrize("share", [None, 0.02, 0.7])
def test_exact_search_equals_numpy(table, queries, share):
    vectors = Vectors(table, "clip_image")
    assert len(table.data["clip_image"].chunks) == 2
    rows = None
    if share is not None:
        rows = np.flatnonzero(np.random.default_rng(0).random(len(table)) < share)
    for query in queries:
        scores, places = vectors.search(query, 50, rows=rows)
        expected, expected_places = numpy_search(table, query, 50, rows)
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        # Equal similarities may change places.
        assert len(set(places) & set(expected_places)) >= 49
    assert len(vectors.search(queries[0], 20_000)[1]) == 10_000


def test_rows_come_in_the_order_asked_for(table):
    rows = np.array([9_999, 0, 7000, 6999, 3])
    expected = table.to_numpy("clip_image")[rows].astype(np.float32)
    np.testing.assert_array_equal(Vectors(table, "clip_image").at(rows).numpy(), expected)


def recall(table, queries, vectors) -> float:
    hits = [
        len(set(vectors.search(q, 10)[1]) & set(numpy_search(table, q, 10)[1])) for q in queries
    ]
    return sum(hits) / 10 / len(queries)


def test_fast_search_finds_nearly_all_and_rows_that_were_added_since(
    table, queries, tmp_path, monkeypatch
):
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "LEAST_ROWS", 1000)
    renew_nearest(table, tmp_path, "image")
    (file,) = tmp_path.glob("*.faiss")
    fast = Vectors(table, "clip_image", folder=tmp_path, name="image.clip_image")
    assert fast.is_fast
    assert recall(table, queries, fast) >= 0.95
    exact = fast.search(queries[0], 10, exact=True)
    np.testing.assert_allclose(exact[0], numpy_search(table, queries[0], 10)[0], atol=1e-6)
    # A longer table: its new rows are searched exactly, until there are many.
    writer = TableWriter(table.folder, {"clip_image": SPACE})
    writer.append(["new"], {}, {"clip_image": queries[:1]})
    writer.flush()
    writer._lock.release()
    longer = EmbeddingTable.open(table.folder)
    renew_nearest(longer, tmp_path, "image")
    assert list(tmp_path.glob("*.faiss")) == [file]
    fast = Vectors(longer, "clip_image", folder=tmp_path, name="image.clip_image")
    assert fast.is_fast
    assert fast.search(queries[0], 1)[1].tolist() == [10_000]
    # Other contents, or a damaged file: exact search.
    other = EmbeddingTable.open(table.folder)
    other.data = other.data.slice(1)
    assert not Vectors(other, "clip_image", folder=tmp_path, name="image.clip_image").is_fast
    file.write_bytes(file.read_bytes()[:1000])
    damaged = Vectors(longer, "clip_image", folder=tmp_path, name="image.clip_image")
    assert not damaged.is_fast


def test_a_search_without_faiss_is_exact(table, tmp_path, monkeypatch):
    monkeypatch.setattr(nearest, "LEAST_ROWS", 1000)
    monkeypatch.setattr(nearest, "_faiss", lambda: None)
    renew_nearest(table, tmp_path, "image")
    assert not list(tmp_path.iterdir())
    assert not Vectors(table, "clip_image", folder=tmp_path, name="image.clip_image").is_fast


def test_words_images_and_audio_are_compared_in_their_own_spaces(media, library, models):
    clip = ClipEncoder.from_pretrained(models["clip"])
    clap = ClapEncoder.from_pretrained(models["clap"])
    images = [media / "photos" / f"{n}.png" for n in range(6)]
    audio = [media / "sounds" / f"{n}.wav" for n in range(6)]
    text = (clip.encode_text(["a dog"]) @ clip.encode_image(images).T)[0]
    sound = (clap.encode_text(["a dog"]) @ clap.encode_audio(audio).T)[0]
    hits = Index(library).search("a dog", k=6)
    assert [hit.modality for hit in hits] == ["image"] * 6 + ["audio"] * 6
    for hit in hits:
        expected = text if hit.modality == "image" else sound
        assert hit.score == pytest.approx(float(expected[int(Path(hit.path).stem)]), abs=2e-3)
    for part in (hits[:6], hits[6:]):
        assert [h.score for h in part] == sorted((h.score for h in part), reverse=True)


@torch.no_grad()
def test_an_image_finds_audio_through_the_translator_and_audio_images(
    media, library, models, translators
):
    clip = ClipEncoder.from_pretrained(models["clip"])
    clap = ClapEncoder.from_pretrained(models["clap"])
    image, sound = media / "photos" / "0.png", media / "sounds" / "0.wav"
    index = Index(library, clip=clip, clap=clap, translators=translators)
    sounds = clap.encode_audio([media / "sounds" / f"{n}.wav" for n in range(6)])
    images = clip.encode_image([media / "photos" / f"{n}.png" for n in range(6)])
    forward, back = translators
    find: Any
    for query, find, vectors in (
        (image, "audio", forward(clip.encode_image([image])) @ sounds.T),
        (sound, "image", back(clap.encode_audio([sound])) @ images.T),
    ):
        for hit in index.search(query, find=find, k=6):
            expected = float(vectors[0, int(Path(hit.path).stem)])
            assert hit.score == pytest.approx(expected, abs=2e-3)
    with pytest.raises(MissingTranslatorError, match="needs a translator from CLIP"):
        Index(library).search(image, find="audio")
    # Images need none.
    assert found(Index(library), image, find="image")[0] == ("0.png", 1.0)


def test_a_foreign_translator_is_refused(media, library, models):
    from clip2clap import AutoTranslator

    demo = AutoTranslator.from_pretrained("demo")
    with pytest.raises(SpaceMismatchError, match="translator's source"):
        Index(library, translators=[demo]).search(media / "photos" / "0.png", find="audio")


def test_terms_add_up_and_subtract(media, library):
    index = Index(library)
    one, two = (str(media / "photos" / f"{n}.png") for n in (1, 2))
    assert found(index, [one, "-", two], find="image", k=6)[0][0] == "1.png"
    assert found(index, [one, "-", two], find="image", k=6)[-1][0] == "2.png"
    assert found(index, [one + ":9", "+", two], find="image")[0][0] == "1.png"
    assert found(index, [one + ":3"], find="image") == found(index, [one], find="image")
    with pytest.raises(UserError, match="cancel"):
        index.search([one, "-", one], find="image")


def test_a_term_counts_by_how_much_it_tells_entries_apart(media, library):
    index = Index(library)
    image = str(media / "photos" / "1.png")
    part = index._parts["image"]
    from clip2clap.search import parse_query

    query = parse_query([image, "+", "a dog"])
    combined = index._combine(query, part, "clip_image")
    terms = index._queries.encode(query, "clip_image")
    scores = part.sample("clip_image") @ terms.T
    standard = (scores / scores.std(0, correction=0)).sum(1)
    mixed = part.sample("clip_image") @ combined
    ratio = standard / mixed
    torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)), rtol=1e-3, atol=1e-3)


def test_filters_by_type_folder_pattern_and_time(media, library, update):
    index = Index(library)
    assert {hit.modality for hit in index.search("rain", find="audio")} == {"audio"}
    assert len(index.search("rain", find="all", k=20)) == 12
    assert not index.search("rain", find="text")
    inside = index.search("rain", within=media / "sounds", k=20)
    assert {Path(hit.path).parent.name for hit in inside} == {"sounds"}
    assert not index.search("rain", within=media / "sound")
    names = {Path(hit.path).name for hit in index.search("rain", within="*/photos/[12].png", k=20)}
    assert names == {"1.png", "2.png"}
    for n in range(6):
        os.utime(media / "photos" / f"{n}.png", (1000 + n, 1000 + n))
    update([], library)
    hits = Index(library).search("rain", since=1002, until=1004, k=20)
    assert {Path(hit.path).name for hit in hits} == {"2.png", "3.png", "4.png"}
    assert {hit.mtime for hit in hits} == {1002, 1003, 1004}
    best = Index(library).search("rain", find="image", k=20)
    assert [h for h in best if h.mtime in (1002, 1003, 1004)] == hits


def test_filters_by_label_and_word(media, library, update, models):
    (media / "notes.txt").write_text("A Dog barks\nrain on a doghouse\n")
    update([media, media / "notes.txt"], library)
    index, labels = Index(library), ["dog", "rain"]
    found = {
        label: [Path(hit.path) for hit in index.search("a", label=label, labels=labels, k=20)]
        for label in labels
    }
    assert not index.search("a", label="DOG", labels=labels, find="image", since=9e9)
    for encoder, folder, encode in (
        (ClipEncoder.from_pretrained(models["clip"]), "photos", "encode_image"),
        (ClapEncoder.from_pretrained(models["clap"]), "sounds", "encode_audio"),
    ):
        files = sorted((media / folder).iterdir())
        classifier = ZeroShotClassifier(encoder, labels)
        named = classifier(files, getattr(encoder, encode)(files))
        for label in labels:
            expected = {file for file, own in zip(files, named, strict=True) if own == label}
            assert {path for path in found[label] if path.parent.name == folder} == expected
    texts = [hit.text for hit in index.search("a", find="text", label="dog", labels=labels)]
    assert texts == ["A Dog barks"]
    with pytest.raises(UserError, match="There is no label 'cat' among 2, such as dog, rain"):
        index.search("a", label="cat", labels=labels)


def test_copies_are_listed_and_distinct_leaves_near_duplicates_out(media, library, update, models):
    from PIL import Image

    photo = media / "photos" / "1.png"
    Image.open(photo).resize((64, 64)).save(media / "larger.png")
    (media / "copy.png").write_bytes(photo.read_bytes())
    update([], library)
    index = Index(library)
    hits = index.search(photo, find="image", k=20)
    assert {Path(hit.path).name for hit in hits[:3]} == {"1.png", "copy.png", "larger.png"}
    assert hits[2].score >= NEAR_DUPLICATE
    distinct = index.search(photo, find="image", k=20, distinct=True)
    assert sum(hit.score >= NEAR_DUPLICATE for hit in distinct) == 1
    # Each one that is left out is near to one that is kept.
    clip = ClipEncoder.from_pretrained(models["clip"])
    kept = clip.encode_image([hit.path for hit in distinct])
    assert (kept @ kept.T).triu(1).max() < NEAR_DUPLICATE + 1e-3
    left = [hit.path for hit in hits if hit.path not in {each.path for each in distinct}]
    assert ((clip.encode_image(left) @ kept.T).max(1).values > NEAR_DUPLICATE - 1e-3).all()
    assert len(index.search(photo, find="image", k=1, distinct=True)) == 1


def test_csls_is_twice_the_cosine_less_the_crowding_of_the_entry(media, library, update, models):
    for n in range(10, 22):
        write_image(media / "photos" / f"{n}.png", n)
    update([], library)
    index = Index(library)
    clip = ClipEncoder.from_pretrained(models["clip"])
    part = index._parts["image"]
    names = [Path(path.decode()) for path in part.files["path"].to_pylist()]
    images = part.sample("clip_image")
    query = clip.encode_image([names[0]])[0]
    similar = images @ images.T
    similar[similar > 0.999] = -9  # with itself
    expected = 2 * images @ query - similar.topk(10, dim=1).values.mean(1)
    hits = index.search(names[0], find="image", csls=True, k=20)
    assert len(hits) == 18
    for hit in hits:
        place = names.index(Path(hit.path))
        assert hit.score == pytest.approx(float(expected[place]), abs=5e-3)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


@torch.no_grad()
def test_references_of_csls_are_translated_entries_of_the_querys_type(
    media, library, update, translators
):
    for n in range(10, 22):
        write_image(media / "photos" / f"{n}.png", n)
    update([], library)
    index = Index(library, translators=translators)
    hits = index.search(media / "photos" / "0.png", find="audio", csls=True, k=6)
    sounds = index._parts["audio"].sample("clap_audio")
    images = unit_norm(translators[0](index._parts["image"].sample("clip_image")))
    near = (sounds @ images.T).topk(10, dim=1).values.mean(1)
    plain = index.search(media / "photos" / "0.png", find="audio", k=6)
    cosines = {hit.path: hit.score for hit in plain}
    place = {hit.path: n for n, hit in enumerate(sorted(plain, key=lambda hit: hit.path))}
    own = index._parts["audio"]
    order = [p.decode() for p in own.files["path"].to_pylist()]
    for hit in hits:
        expected = 2 * cosines[hit.path] - float(near[order.index(hit.path)])
        assert hit.score == pytest.approx(expected, abs=2e-3)
    assert len(place) == 6


def test_a_search_when_most_of_what_is_near_is_gone_still_finds(media, library, update):
    for n in range(5):
        (media / "photos" / f"{n}.png").unlink()
    update([], library)
    assert [name for name, _ in found(Index(library), "rain", find="image")] == ["5.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"find": "video"}, "one of all, image"), ({"k": 0}, "at least 1"), ({"k": True}, "at least")],
)
def test_a_wrong_argument_is_explained(library, options, message):
    with pytest.raises(UserError, match=message):
        Index(library).search("rain", **options)


def test_the_commands_index_and_search(run, media, tmp_path, models, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (media / "broken.png").touch()
    names = ["--clip", models["clip"], "--clap", models["clap"]]
    code, out, error = run("index", "media", "-o", "library", "--json", *names)
    assert code == 1
    document = json.loads(out)
    assert document["results"]["files"] == document["results"]["encoded"] == 12
    assert [Path(each["input"]).name for each in document["skipped"]] == ["broken.png"]
    assert error.startswith("skipped: ")
    (media / "broken.png").unlink()
    code, _, error = run("index", "-o", "library")
    assert (code, error.split(" (")[0]) == (0, "1 removed; 12 entries in library")
    photo = "media/photos/1.png"
    code, out, _ = run("search", "library", photo, "-", "rain:0.1", "--find", "image", "--json")
    assert code == 0
    assert json.loads(out)["results"][0]["path"] == str(tmp_path / photo)
    code, out, error = run("search", "library", photo, "--top", 2, "--html", "hits.html")
    assert code == 0
    assert out.splitlines()[1].split() == [photo, "image", "1.000"]
    assert "note: no audio is searched. The query needs a translator" in error
    page = Path("hits.html").read_text()
    assert 'href="media/photos/1.png"' in page
    assert page.count("<li") == 3
    code, out, _ = run("search", "library", "rain", "--find", "audio", "--html", "hits.html")
    assert Path("hits.html").read_text().count("<audio controls") == 6
    code, _, error = run("search", "library", "rain", "--until", "1999-12-31")
    assert (code, error.strip()) == (0, "Nothing in the index passes the filters.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "-o", "library"], "INPUT: name the files and folders to index"),
        (["index", "nowhere"], "INPUT: nowhere does not exist"),
        (["index", "file.txt", "-o", "file.txt"], "--output: file.txt is a file"),
        (["search", "nowhere", "rain"], "LIBRARY: nowhere does not exist"),
        (["search", ".", "rain"], "holds no index"),
        (["search", "library", "nowhere.jpg"], "QUERY: The query's nowhere.jpg is no file"),
        (["search", "library", "rain", "--since", "soon"], "--since: expected a date such as"),
        (["search", "library", "rain", "--html", "a.pdf"], "--html: expected a name in .html"),
        (["search", "library", "rain", "--html", "file.html"], "--html: file.html was not written"),
        (["search", "library", "rain", "--find", "text"], "--find: library holds no text"),
        (["search", "library", "rain", "--top", "0"], "--top: expected at least 1"),
        (["search", "library", "media/photos/1.png", "--find", "audio"], "--translator: The query"),
        (["search", "library", "media/sounds/1.wav", "--find", "image"], "--back: The query"),
    ],
)
def test_a_mistake_is_one_line(run, media, library, monkeypatch, arguments, message):
    monkeypatch.chdir(library.parent)
    Path("file.txt").touch()
    Path("file.html").touch()
    if arguments == ["index", "-o", "library"]:
        arguments = ["index", "-o", "elsewhere"]
    code, _, error = run(*arguments)
    assert code == 2
    assert message in error.replace("\n", " ")
    assert len(error.strip().splitlines()) == 1
