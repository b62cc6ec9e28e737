"""Comparison of two translators: the same noise, sides by chance, votes that are kept whole."""

import csv
import multiprocessing
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clip2clap.core.errors import UserError
from clip2clap.media.audio import load_audio, read_tags
from clip2clap.web.comparing import Contest, Contestant
from clip2clap.web.folders import Folders
from clip2clap.web.limits import Limits
from clip2clap.web.making import AudioOrder
from clip2clap.web.runs import Run
from clip2clap.web.votes import Tally, Vote, Votes

VOTE = Vote("2026-11-30T09:00:00+00:00", "f0", "0", "2", "a, b/", "1a", 'c"d', "2b", "left", "yes")
STEP = 2 / 32768


@pytest.fixture
def folders():
    folders = Folders(Limits())
    yield folders
    folders.close()


@pytest.fixture
def order(photograph):
    return AudioOrder("a-cat.jpg", photograph.read_bytes(), 1.0, 1, 1, None, seed=3, steps=4)


def silent(name):
    """Return a contestant whose pipeline is no model."""
    output = SimpleNamespace(audios=[np.full(1600, 0.1, np.float32)], sampling_rate=16_000)
    pipeline: Any = lambda *_, **__: output  # noqa: E731
    return Contestant(name, pipeline, f"fingerprint of {name}")


def test_each_side_is_what_its_translator_makes_of_the_same_seed(pair, folders, order):
    comparison = Contest(pair[0], pair[1], Votes()).compare(
        folders.create(), order, Run(), is_blind=True
    )
    call = {"audio_length_in_s": 1.0, "num_inference_steps": 4, "generator": [3]}
    made = []
    for contestant, path in zip(comparison.sides, comparison.files, strict=True):
        expected = contestant.pipeline(order.content, num_candidates=1, **call).audios[0]
        made.append(load_audio(path)[0])
        np.testing.assert_allclose(made[-1][200:-200], expected[200:-200], atol=2 * STEP)
        # Neither name nor tags say which is which.
        assert path.stem in ("left", "right")
        with pytest.raises(UserError, match="has no tags"):
            read_tags(path)
    assert np.abs(made[0] - made[1]).max() > 100 * STEP


def test_sides_are_drawn_by_chance(folders, order):
    contest = Contest(silent("a"), silent("b"), Votes())
    left = Counter(
        contest.compare(folders.create(), order, Run(), is_blind=True).sides[0].name
        for _ in range(40)
    )
    assert set(left) == {"a", "b"}


def test_a_comparison_has_one_vote_which_names_the_side_and_the_weights(folders, order, tmp_path):
    contest = Contest(silent("a"), silent("b"), Votes(tmp_path / "votes.csv"))
    comparison = contest.compare(folders.create(), order, Run(), is_blind=True)
    found = contest.find(comparison.folder.name)
    assert found is comparison
    contest.vote(found, "right")
    with pytest.raises(UserError, match="You have voted"):
        contest.vote(found, "left")
    (row,) = csv.DictReader((tmp_path / "votes.csv").open())
    assert row["vote"] == "right"
    assert row["blind"] == "yes"
    assert row["right_fingerprint"] == f"fingerprint of {comparison.sides[1].name}"
    assert len(row["image"]) == 16
    with pytest.raises(UserError, match="no comparison yet"):
        contest.find("another")
    folders.remove_old(10**9)
    with pytest.raises(UserError, match="no longer"):
        contest.find(comparison.folder.name)


def test_votes_are_counted_by_weights_whatever_side_they_were_on(tmp_path):
    votes = Votes(tmp_path / "votes.csv")
    swapped = replace(VOTE, left="c", left_fingerprint="2b", right="a", right_fingerprint="1a")
    for each, times in (
        (VOTE, 5),
        (replace(swapped, vote="right"), 3),
        (swapped, 1),
        (replace(VOTE, vote="same"), 2),
        (replace(VOTE, blind="no"), 7),
        (replace(VOTE, right_fingerprint="3c"), 9),
    ):
        for _ in range(times):
            votes.add(each)
    for counted in (votes, Votes(tmp_path / "votes.csv")):
        assert counted.tally("1a", "2b", blind=True) == Tally(8, 1, 2)
        assert counted.tally("2b", "1a", blind=True) == Tally(1, 8, 2)
        assert counted.tally("1a", "2b", blind=False) == Tally(7, 0, 0)
    # Of nine fair coins: 2 (1 + 9) / 2^9.
    assert Tally(8, 1, 2).p_value == pytest.approx(20 / 512)
    assert Tally(0, 0, 4).p_value is None
    assert Tally(3, 3, 0).p_value == pytest.approx(1.0)


def test_a_row_that_a_killed_server_left_unfinished_costs_itself_alone(tmp_path):
    path = tmp_path / "votes.csv"
    for _ in range(2):
        Votes(path).add(VOTE)
    path.write_bytes(path.read_bytes()[:-30])
    votes = Votes(path)
    assert votes.tally("1a", "2b", blind=True) == Tally(1, 0, 0)
    votes.add(VOTE)
    assert Votes(path).tally("1a", "2b", blind=True) == Tally(2, 0, 0)
    path.write_text("")
    Votes(path).add(VOTE)
    assert Votes(path).tally("1a", "2b", blind=True) == Tally(1, 0, 0)


def add_many(path):
    votes = Votes(path)
    for _ in range(100):
        votes.add(VOTE)


def test_servers_that_share_a_file_write_whole_rows(tmp_path):
    path = tmp_path / "votes.csv"
    Votes(path).add(VOTE)
    processes = [multiprocessing.get_context("fork").Process(target=add_many, args=(path,))
                 for _ in range(3)]  # fmt: skip
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert Votes(path).tally("1a", "2b", blind=True) == Tally(301, 0, 0)
    assert len(list(csv.reader(path.open()))) == 302


@pytest.mark.parametrize("content", [b"name,value\n1,2\n", b"\xff\xfe\x00", b"\x89PNG"])
def test_a_file_of_something_else_is_never_appended_to(tmp_path, content):
    (tmp_path / "other.csv").write_bytes(content)
    with pytest.raises(UserError) as raised:
        Votes(tmp_path / "other.csv")
    assert raised.value.param == "votes"
    assert (tmp_path / "other.csv").read_bytes() == content


def test_a_vote_that_cannot_be_written_is_not_counted(tmp_path):
    votes = Votes(tmp_path / "none" / "votes.csv")
    with pytest.raises(UserError, match="could not be written"):
        votes.add(VOTE)
    assert votes.tally("1a", "2b", blind=True) == Tally(0, 0, 0)
