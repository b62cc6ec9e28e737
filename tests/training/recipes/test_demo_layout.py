"""Check of the recipe's data folder, and the features of its classifiers."""

import csv
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer

from clip2clap.training.recipes.demo import __main__ as command
from clip2clap.training.recipes.demo.aisfx import SfxNetwork, sfx_features
from clip2clap.training.recipes.demo.classifiers import fit_head, spectral_statistics
from clip2clap.training.recipes.demo.data import split_rows
from clip2clap.training.recipes.demo.layout import IMAGENET_CLASSES, TABLES, check_layout


@pytest.fixture
def data(tmp_path):
    """Write a folder with all parts, one row each."""
    for name, columns in TABLES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = dict.fromkeys(sorted(columns), "x")
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([row]), path)
            continue
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows([row] * (IMAGENET_CLASSES if "wnid" in row else 1))
    (tmp_path / "sounds/x").touch()
    (tmp_path / "photos/full/dog").mkdir(parents=True)
    (tmp_path / "photos/full/dog/n1_hound.jpg").touch()
    (tmp_path / "conceptual_captions").mkdir()
    (tmp_path / "conceptual_captions/few.tsv").touch()
    (tmp_path / "pretrained").mkdir()
    arrays: dict[str, Any] = {"layer_with_weights-0/kernel": np.zeros(1)}
    np.savez(tmp_path / "pretrained/yamnet_weights.npz", **arrays)
    return tmp_path


def test_a_whole_data_folder_has_no_problem(data):
    assert check_layout(data) == []


def test_every_missing_part_is_named(tmp_path):
    problems = "\n".join(check_layout(tmp_path))
    for name in (*TABLES, "photos/full", "conceptual_captions", "pretrained/yamnet_weights.npz"):
        assert name in problems


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("kinds.csv", b"kind,esc50\ndog,dog\n", "has no column animals, cifar10, photo_classes"),
        ("photos/photos_kinds.parquet", b"PAR1", "can't be read"),
        ("photos/imagenet_classes.csv", b"index,wnid,name\n0,n1,tench\n", "has 1 rows"),
        ("sounds/esc50.csv", b"file,fold,category\na.ogg,1,dog\n", "1 files that are missing"),
        ("sounds/animals.csv", b"\xff\xfe", "can't be read"),
        ("pretrained/yamnet_weights.npz", b"weights", "can't be read"),
    ],
)
def test_a_damaged_part_is_named(data, name, content, expected):
    (data / name).write_bytes(content)
    (problem,) = check_layout(data)
    assert name in problem
    assert expected in problem


def test_the_command_refuses_a_folder_without_data(tmp_path, capsys):
    with pytest.raises(typer.Exit) as exit_:
        command._check_data(tmp_path)
    assert exit_.value.exit_code == 2
    assert "--data: kinds.csv is missing." in capsys.readouterr().err


def test_the_classifiers_images_are_no_others():
    keys = ["dog"] * 200
    splits = split_rows(keys, validation=0.05, test=0.1, classifier=0.05)
    assert [splits.count(name) for name in ("test", "validation", "classifier")] == [20, 10, 10]
    # Neither the training nor the test split depends on it.
    before = split_rows(keys, validation=0.1, test=0.1)
    assert [name == "train" for name in splits] == [name == "train" for name in before]
    assert [name == "test" for name in splits] == [name == "test" for name in before]


def test_a_head_finds_classes_of_uneven_size_and_scale():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 200 + [1] * 20)
    features = torch.randn(220, 6, generator=generator)
    features[:, 0] += 3 * labels
    features[:, 3:] *= 1000
    head = fit_head(features, labels, 2, ridge=1.0, groups=(3, 3))
    right = head(features).argmax(1) == labels
    assert min(right[labels == n].float().mean() for n in (0, 1)) > 0.85
    shuffled = labels[torch.randperm(220, generator=generator)]
    wrong = fit_head(features, shuffled, 2, ridge=1.0)(features).argmax(1) == labels
    assert min(wrong[labels == n].float().mean() for n in (0, 1)) < 0.7


def test_statistics_tell_slow_from_fast_beats():
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(81_920) / 16_000
    noise = 0.3 * torch.randn(4, len(time), generator=generator)
    beats = [(0.5 + 0.5 * (2 * torch.pi * rate * time).sin()).pow(4) for rate in (2, 2, 9, 9)]
    rows = spectral_statistics(noise * torch.stack(beats))
    distances = torch.cdist(rows, rows)
    assert distances[0, 1] < 0.7 * distances[0, 2]
    assert distances[2, 3] < 0.7 * distances[1, 3]


def test_features_of_audio_do_not_depend_on_its_level():
    torch.manual_seed(0)
    network = SfxNetwork((4, 4)).eval()
    waveform = 0.5 * torch.randn(1, 81_920)
    loud, quiet = sfx_features(network, waveform), sfx_features(network, 0.01 * waveform)
    torch.testing.assert_close(loud, quiet, rtol=0.05, atol=0.02)
