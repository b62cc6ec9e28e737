"""`clip2clap fit`: from captions to a translator that a generator takes, with tiny models."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image

from clip2clap.cli.app import main
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.training.config import TrainingConfig
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.checkpoint import read_config

WORDS = ("a dog barks", "rain falls", "a train passes", "waves break", "a cat meows")
ROWS = 60


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """AudioCaps' validation file, of fewer rows; every clip has two captions."""
    path = tmp_path / "val.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        for n in range(ROWS):
            caption = f"{WORDS[n % 5]} {WORDS[n // 5 % 5]} {'twice ' * (n // 25)}"
            writer.writerow([n, f"clip{n // 2}", "30", caption])
    return path


@pytest.fixture
def arguments(
    captions: Path, audioldm_folder: Path, reading_clip_folder: Path, tmp_path: Path
) -> list[str]:
    models = ("--generator", audioldm_folder, "--clip", reading_clip_folder)
    return [
        str(argument)
        for argument in ("fit", "--captions", captions, *models, "-o", tmp_path / "mine")
    ]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the evaluation, which takes longest and which others test."""
    monkeypatch.setattr("clip2clap.cli.fit.measure", lambda *_: (None, Path("no.html"), "audio"))


def test_one_command_leads_from_captions_to_audio(
    arguments: list[str],
    run: Callable[..., tuple[int, str, str]],
    audioldm_folder: Path,
    foreign_folder: Path,
    reading_clip_folder: Path,
    tmp_path: Path,
):
    status, shown, _ = run(*arguments)
    assert status == 0
    out = tmp_path / "mine"
    assert f"{out}-table: {ROWS} rows, 0 failed" in shown
    for row in ("translator", "shuffled pairs", "mean vector", "recall at 10"):
        assert row in shown
    evaluated = json.loads((tmp_path / "mine-report" / "results.json").read_text())
    trained = json.loads((out / "training.json").read_text())
    assert evaluated["embeddings"]["rows"] == trained["pairs"]["validation"]
    assert "</html>" in (tmp_path / "mine-report" / "report.html").read_text()
    assert f"image-to-audio IMAGE --generator {audioldm_folder} --translator {out}" in shown

    # What was embedded is what the encoders say, the CLAP being the generator's own.
    table = EmbeddingTable.open(f"{out}-table")
    first = table.source("caption")[:2]
    for encoder, column in (
        (ClipEncoder.from_pretrained(reading_clip_folder), "clip_text"),
        (ClapEncoder.from_pretrained(audioldm_folder, modalities=("text",)), "clap_text"),
    ):
        torch.testing.assert_close(
            table.tensor(column)[:2].float(), encoder.encode_text(first), rtol=0, atol=1e-3
        )
    translator = AutoTranslator.from_pretrained(out)
    translator.check_source(read_space(str(reading_clip_folder), family="clip", modality="image"))
    translator.check_target(read_space(str(audioldm_folder), family="clap", modality="text"))
    assert translator.config["data"] == trained["data"]
    assert {"mrr", "shuffled_pairs", "mean_vector"} <= translator.config["metrics"].keys()

    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), "red").save(photo)
    options = (
        "--translator",
        out,
        "-o",
        tmp_path / "sounds",
        "--duration-s",
        "0.1",
        "--num-inference-steps",
        "2",
    )
    status, shown, _ = run("image-to-audio", photo, "--generator", audioldm_folder, *options)
    assert status == 0
    waveform, sampling_rate = soundfile.read(shown.strip())
    assert (len(waveform), sampling_rate) == (1600, 16000)
    # A generator with another CLAP refuses it, though all sizes fit.
    status, _, complaint = run("image-to-audio", photo, "--generator", foreign_folder, *options)
    assert status == 2
    assert "The translator's target is not the generator's CLAP" in complaint


@pytest.mark.usefixtures("no_report")
def test_it_trains_the_default_translator_and_holds_out_whole_clips(
    arguments: list[str], run: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    status, shown, _ = run(*arguments, "--limit", "40", "--json", "--seed", "3")
    assert status == 0
    facts = json.loads(shown)["results"]
    assert facts["extraction"]["rows"] == 40
    pairs = facts["training"]["pairs"]
    assert pairs["train"] + pairs["validation"] == 40
    assert pairs["validation"] % 2 == 0
    settings = facts["training"]["settings"]
    assert TrainingConfig(**settings) == TrainingConfig(seed=3)


@pytest.mark.usefixtures("no_report")
def test_another_architecture_can_be_chosen(
    arguments: list[str], run: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    assert run(*arguments, "--architecture", "procrustes")[0] == 0
    assert read_config(tmp_path / "mine")["recipe"]["method"] == "procrustes"


def dying_at(call: int, function: Callable) -> Callable:
    calls = []

    def wrapped(*positional, **named):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*positional, **named)

    return wrapped


@pytest.mark.usefixtures("no_report")
def test_killed_while_embedding_and_while_training_it_goes_on(
    arguments: list[str],
    run: Callable[..., tuple[int, str, str]],
    in_a_fork: Callable[..., int],
    tmp_path: Path,
):
    arguments += ["--batch-size", "1"]

    def die_while_embedding() -> None:
        append = TableWriter.append

        def append_and_flush(writer: TableWriter, *positional, **named) -> None:
            append(writer, *positional, **named)
            writer.flush()

        TableWriter.append = dying_at(3, append_and_flush)
        main(arguments)

    def die_while_training() -> None:
        torch.optim.Adam.zero_grad = dying_at(5, torch.optim.Adam.zero_grad)
        main(arguments)

    assert os.WIFSIGNALED(in_a_fork(die_while_embedding))
    embedded = len(EmbeddingTable.open(tmp_path / "mine-table"))
    assert 0 < embedded < ROWS
    assert os.WIFSIGNALED(in_a_fork(die_while_training))
    assert not (tmp_path / "mine" / "config.json").exists()
    status, shown, _ = run(*arguments)
    assert status == 0
    assert f"{ROWS} rows, 0 failed, 0 rows in" in shown

    whole = tmp_path / "whole"
    assert run(*arguments, "-o", whole)[0] == 0
    one, other = (AutoTranslator.from_pretrained(tmp_path / name) for name in ("mine", "whole"))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    # Finished, it is not done again.
    before = (whole / "config.json").stat().st_mtime_ns
    assert run(*arguments, "-o", whole)[0] == 0
    assert (whole / "config.json").stat().st_mtime_ns == before


@pytest.mark.usefixtures("no_report")
def test_other_rows_or_models_do_not_slip_into_what_is_there(
    arguments: list[str],
    run: Callable[..., tuple[int, str, str]],
    foreign_folder: Path,
    tmp_path: Path,
):
    assert run(*arguments, "--limit", "40")[0] == 0
    config = read_config(tmp_path / "mine")
    status, _, complaint = run(*arguments, "--generator", foreign_folder)
    assert status == 2
    assert "Two encoders are two spaces" in complaint
    # More rows of the same go on in the table; that the translator then differs is told.
    status, _, complaint = run(*arguments)
    assert status == 2
    assert "other pairs" in complaint
    assert read_config(tmp_path / "mine") == config
    assert run(*arguments, "--overwrite")[0] == 0
    assert read_config(tmp_path / "mine")["recipe"]["pairs"] > config["recipe"]["pairs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--limit", "0"], "--limit: expected at least 1"),
        (["--dataset", "mine.csv"], "--captions: goes with a published data set"),
        (["-o", "val.csv"], "--output: val.csv is a file"),
        (["--generator", "nowhere/at/all"], "There is no clap folder 'nowhere/at/all'"),
        (["--dtype", "fp16"], "--dtype: fp16 is slow"),
    ],
)
def test_a_mistake_in_the_call_is_one_line(
    arguments: list[str],
    changes: list[str],
    message: str,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.chdir(tmp_path)
    status, _, complaint = run(*arguments, *changes)
    assert status == 2
    assert message in complaint
    assert complaint.count("\n") == 1


@pytest.mark.usefixtures("no_report")
def test_the_demo_models_need_no_names(
    captions: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    status, shown, _ = run("fit", "--demo", "--captions", captions, "-o", tmp_path / "mine")
    assert status == 0
    assert "--generator demo" in shown
    config = read_config(tmp_path / "mine")
    demo = AutoTranslator.from_pretrained("demo").config
    for side in ("source_space", "target_space"):
        assert config[side]["fingerprint"] == demo[side]["fingerprint"]
