"""Training of captioners: what is learned, resumed, and refused."""

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from clip2clap.captioning.captioner import Captioner
from clip2clap.core.errors import UserError
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.training.captioning.config import CaptionerConfig
from clip2clap.training.captioning.data import CaptionedVectors, read_captions
from clip2clap.training.captioning.train import train_captioner

from .builders import SPACE, learnable


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory, tiny_language_model) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    for part in tiny_language_model():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def quick(language_model_folder) -> CaptionerConfig:
    return CaptionerConfig(
        language_model=str(language_model_folder),
        prefix_length=2,
        hidden_size=32,
        epochs=12,
        batch_size=16,
        learning_rate=2e-2,
        tune_language_model=True,
        patience=None,
    )


def vectors(**options) -> CaptionedVectors:
    return CaptionedVectors.of(*learnable(**options), source_space=SPACE)


def named(captioner: Captioner) -> float:
    """Return the share of unseen embeddings whose caption is their own."""
    embeds, captions = learnable(400)
    found = captioner.generate(embeds[-60:], modality="text", num_beams=1)
    return sum(text == own for (text,), own in zip(found, captions[-60:], strict=True)) / 60


def test_a_captioner_learns_what_embeddings_show_and_not_of_shuffled_captions(quick):
    trained, report = train_captioner(vectors(), None, quick)
    control, control_report = train_captioner(vectors(shuffled=True), None, quick)
    assert named(trained) > 0.9
    assert named(control) < 0.5
    best, of_control = report.best, control_report.best
    assert best is not None
    assert of_control is not None
    assert best.validation_loss < of_control.validation_loss
    assert report.examples[0].keys() == {"caption", "generated"}


def test_a_frozen_language_model_keeps_its_weights(quick, tiny_language_model):
    config = replace(quick, tune_language_model=False, epochs=2)
    trained, _ = train_captioner(vectors(), None, config)
    for name, value in tiny_language_model()[0].state_dict().items():
        assert torch.equal(trained.language_model.state_dict()[name], value), name


def test_a_killed_run_ends_with_the_same_weights(quick, tmp_path, start_fork, monkeypatch):
    whole, _ = train_captioner(vectors(), None, replace(quick, epochs=4))

    def train_and_die() -> None:
        def die(progress) -> None:
            if (progress.epoch, progress.step) == (3, 2):
                os.kill(os.getpid(), signal.SIGKILL)

        train_captioner(
            vectors(),
            tmp_path / "run",
            replace(quick, epochs=4),
            checkpoint_seconds=0,
            on_progress=die,
        )

    os.waitpid(start_fork(train_and_die), 0)
    assert (tmp_path / "run/checkpoint.safetensors").exists()
    assert not (tmp_path / "run/config.json").exists()
    resumed, second = train_captioner(vectors(), tmp_path / "run", replace(quick, epochs=4))
    assert second.resumed_after == 2
    assert [each.epoch for each in second.history] == [1, 2, 3, 4]
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-5), name
    assert not (tmp_path / "run/checkpoint.safetensors").exists()


def train_as(rank: int, port: int, config: CaptionerConfig, out: Path) -> None:
    """Train in this process, one of the two that `accelerate launch --cpu` starts."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["ACCELERATE_USE_CPU"] = "true"
    AcceleratorState._reset_state(reset_partial_state=True)
    trained, report = train_captioner(vectors(), out, config, device="cpu", checkpoint_seconds=0)
    assert AcceleratorState().num_processes == 2
    assert (len(report.history), report.resumed_after) == (2, None)
    torch.save(trained.mapper.state_dict(), out.with_name(f"{rank}.pt"))


def test_two_processes_train_as_one_does(quick, tmp_path, start_fork):
    # The last batch of 160 - 16 captions has 11, which two processes share unequally.
    config = replace(quick, epochs=2, batch_size=19, tune_language_model=False, precision="fp32")
    whole, report = train_captioner(vectors(), None, config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [start_fork(train_as, rank, port, config, tmp_path / "out") for rank in (0, 1)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    spread = Captioner.from_pretrained(tmp_path / "out").mapper.state_dict()
    for name, value in whole.mapper.state_dict().items():
        assert torch.allclose(value, spread[name], atol=1e-4), name
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    kept = json.loads((tmp_path / "out" / "training.json").read_text())
    losses = [each["validation_loss"] for each in kept["history"]]
    assert losses == pytest.approx([each.validation_loss for each in report.history], abs=1e-4)
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_a_finished_run_is_not_repeated_and_another_is_refused(quick, tmp_path):
    config = replace(quick, epochs=1)
    made, report = train_captioner(vectors(), tmp_path / "made", config)
    loaded, again = train_captioner(vectors(), tmp_path / "made", config)
    assert again == report
    embeds = learnable()[0][:3]
    assert loaded.generate(embeds, modality="text") == made.generate(embeds, modality="text")
    with pytest.raises(UserError, match="overwrite=True"):
        train_captioner(vectors(), tmp_path / "made", replace(config, epochs=2))
    with pytest.raises(UserError, match="other pairs"):
        train_captioner(vectors(shuffled=True), tmp_path / "made", config)
    _, replaced = train_captioner(
        vectors(), tmp_path / "made", replace(config, epochs=2), overwrite=True
    )
    assert len(replaced.history) == 2


def test_training_stops_early_on_captions_that_cannot_be_learned(quick):
    config = replace(quick, epochs=40, patience=1, learning_rate=0.1)
    _, report = train_captioner(vectors(shuffled=True), None, config)
    assert report.stopped_early
    assert report.best_epoch is not None
    assert report.best_epoch < len(report.history) < 40


@pytest.fixture
def table(tmp_path) -> Path:
    embeds, captions = learnable(60)
    audio = torch.nn.functional.normalize(embeds + 0.5, dim=-1)
    spaces = {"clap_text": SPACE, "clap_audio": SPACE.in_modality("audio")}
    with TableWriter(tmp_path / "table", spaces) as writer:
        columns = {"caption": captions, "file": [f"{row // 2}.wav" for row in range(60)]}
        units = torch.nn.functional.normalize(embeds, dim=-1)
        writer.append(list(map(str, range(60))), columns, {"clap_text": units, "clap_audio": audio})
    return tmp_path / "table"


def test_a_table_supplies_items_and_the_means_of_its_modalities(table):
    data = read_captions(table, CaptionerConfig(source="clap_text"))
    assert list(data.means) == ["text", "audio"]
    stored = data.pairs.source[torch.arange(60)].float()
    mean = torch.nn.functional.normalize(stored, dim=-1).mean(dim=0)
    assert torch.allclose(data.means["text"], mean, atol=1e-3)
    assert list(data.pairs.items or [])[:3] == ["0.wav", "0.wav", "1.wav"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "several embeddings: choose one of clap_text, clap_audio"),
        ({"source": "clip_text"}, "no embeddings 'clip_text'"),
        ({"source": "clap_text", "caption": "text"}, "no captions 'text', only caption, file"),
    ],
)
def test_a_column_that_is_missing_is_named(table, config, message):
    with pytest.raises(UserError, match=message):
        read_captions(table, CaptionerConfig(**config))


def test_blank_captions_are_refused():
    with pytest.raises(UserError, match="1 of 2 captions are blank"):
        CaptionedVectors.of(torch.randn(2, 8), ["a dog", "  "])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mapper": "tree"}, "mapper"),
        ({"prefix_length": 0}, "prefix_length"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"noise": -1}, "noise"),
        ({"patience": 0}, "patience"),
        ({"validation": 1}, "validation"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=f"Expected {message}"):
        CaptionerConfig(**settings)


def test_noise_is_for_texts_alone():
    assert CaptionerConfig().resolved("text").noise == 0.05
    assert CaptionerConfig().resolved("audio").noise == 0
    assert CaptionerConfig(noise=0.2).resolved("audio").noise == 0.2


def test_the_command_trains_and_reports(run, table, language_model_folder):
    arguments = ["--source", "clap_text", "--language-model", language_model_folder]
    arguments += ["--epochs", 1, "--prefix-length", 2, "--json"]
    code, out, _ = run("train-captioner", table, *arguments)
    document = json.loads(out)
    assert code == 0
    folder = Path(document["results"]["output"])
    assert folder == table.with_name("table-captioner")
    assert Captioner.from_pretrained(folder).space == SPACE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "clip"], "has no CLIP embeddings"),
        (["--source", "clap_text", "--language-model", "gpt22"], "language model preset or folder"),
        (["--source", "clap_text", "--caption-column", "text"], "--caption-column: "),
    ],
)
def test_a_mistake_is_one_line(run, table, arguments, message):
    code, _, error = run("train-captioner", table, *arguments)
    assert code == 2
    assert message in error.replace("\n", " ")
    assert len(error.strip().splitlines()) == 1
