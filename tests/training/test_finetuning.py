"""Fine-tuning of encoders on files with labels."""

import importlib.util
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from clip2clap import AutoTranslator, ClapEncoder, ClipEncoder
from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.training.finetuning import run as finetuning
from clip2clap.training.finetuning.config import FineTuningConfig
from clip2clap.training.finetuning.files import (
    LabeledFiles,
    augment_waveform,
    mask_spectrogram,
    mix,
    read_labeled_files,
)
from clip2clap.training.finetuning.parts import choose_weights, merge_adapters
from clip2clap.training.finetuning.run import finetune

RATE = 16_000
LABELS = ("blip", "hiss")


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Tones and noise, with labels that the demo CLAP does not know; the noise is rarer."""
    for label, count in zip(LABELS, (10, 6), strict=True):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([len(label), ord(label[0]), number])
            tone = np.sin(2 * np.pi * (300 + 40 * number) * np.arange(RATE // 2) / RATE)
            waveform = 0.3 * tone if label == "blip" else rng.uniform(-0.4, 0.4, RATE // 2)
            soundfile.write(tmp_path / "sounds" / label / f"{number}.wav", waveform, RATE)
    return tmp_path / "sounds"


def tuned(
    sounds: Path, output: Path, encoder: str | Path = "demo", **settings: object
) -> finetuning.FineTuning:
    options: dict = {"epochs": 3, "batch_size": 8, "validation": 0.3, "learning_rate": 1e-3}
    options |= settings
    clap = ClapEncoder.from_pretrained(encoder)
    return finetune(clap, read_labeled_files(sounds), output, FineTuningConfig(**options))


PARTS = ["head", "all"]
if importlib.util.find_spec("peft"):
    PARTS.append("lora")


@pytest.mark.parametrize("part", PARTS)
def test_a_tuned_encoder_has_a_space_of_its_own_and_is_refused_by_old_translators(
    sounds, tmp_path, part
):
    rate = {"all": 1e-4}.get(part, 1e-3)
    epochs = 2 if part == "lora" else 1
    report = tuned(sounds, tmp_path / "tuned", part=part, epochs=epochs, learning_rate=rate)
    assert report.best > report.before
    encoder = ClapEncoder.from_pretrained(tmp_path / "tuned")
    assert encoder.space("audio").fingerprint == report.fingerprint
    assert report.fingerprint != report.fingerprint_before
    with pytest.raises(SpaceMismatchError):
        AutoTranslator.from_pretrained("demo").check_target(encoder.space("audio"))
    demo = ClapEncoder.from_pretrained("demo")
    texts = ["the sound of a dog", "rain"]
    assert torch.allclose(encoder.encode_text(texts), demo.encode_text(texts), atol=1e-5)
    assert {file.name for file in (tmp_path / "tuned").iterdir()} >= {
        "config.json",
        "finetuning.json",
        "model.safetensors",
    }
    assert not (tmp_path / "tuned/checkpoint.safetensors").exists()


def test_tuning_on_shuffled_labels_does_not_help_on_held_out_files(sounds, tmp_path, monkeypatch):
    files = read_labeled_files(sounds)
    config = FineTuningConfig(epochs=3, learning_rate=1e-3, batch_size=8, validation=0.4, seed=1)
    rows = files.split(config.validation, config.seed)
    monkeypatch.setattr(LabeledFiles, "split", lambda *_: rows)
    right = finetune(ClapEncoder.from_pretrained("demo"), files, tmp_path / "right", config)
    files.targets[rows[0]] = 1 - files.targets[rows[0]]
    wrong = finetune(ClapEncoder.from_pretrained("demo"), files, tmp_path / "wrong", config)
    assert right.history[-1]["accuracy"] > 0.8
    assert wrong.history[-1]["accuracy"] < 0.5
    assert wrong.best >= wrong.before


def test_only_the_part_that_was_chosen_changes():
    clap = ClapEncoder.from_pretrained("demo")
    sizes = {}
    for part in ("head", "partial", "all"):
        weights = choose_weights(clap, "audio", FineTuningConfig(part=part))
        assert all(name.startswith("audio_") for name in weights)
        sizes[part] = sum(weight.numel() for weight in weights.values())
    assert sizes["head"] < sizes["partial"] < sizes["all"]
    clip = ClipEncoder.from_pretrained("demo")
    names = choose_weights(clip, "image", FineTuningConfig())
    assert all(name.startswith("visual_projection") for name in names)


def test_merged_adapters_give_the_output_that_they_gave_beside_the_weights():
    pytest.importorskip("peft")
    clap = ClapEncoder.from_pretrained("demo")
    audio = [(np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32), RATE)]
    before = clap.encode_audio(audio)
    weights = choose_weights(clap, "audio", FineTuningConfig(part="lora", lora_rank=2))
    assert torch.allclose(clap.encode_audio(audio), before, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    for weight in weights.values():
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    adapted = clap.encode_audio(audio)
    merge_adapters(clap.backend.model)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(clap.encode_audio(audio), adapted, atol=1e-4)
    assert not torch.allclose(adapted, before, atol=1e-2)
    assert not any("lora" in name for name, _ in clap.named_parameters())


def test_labels_are_drawn_equally_often(sounds, musicldm_folder, tmp_path, monkeypatch):
    drawn: list[int] = []
    step = finetuning._Run._step

    def counted(self: finetuning._Run, inputs: dict, wanted: torch.Tensor) -> float:
        drawn.extend(wanted.argmax(1).tolist())
        return step(self, inputs, wanted)

    monkeypatch.setattr(finetuning._Run, "_step", counted)
    for name in range(2, 6):
        (sounds / "hiss" / f"{name}.wav").unlink()
    tuned(sounds, tmp_path / "tuned", musicldm_folder, epochs=6, validation=0.1)
    # 9 of the one label and 1 of the other.
    assert 0.3 < np.mean(drawn) < 0.7


def tune_as(rank: int, port: int, sounds: Path, output: Path, encoder: Path) -> None:
    """Tune in this process, one of the two that `accelerate launch --cpu` starts."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["ACCELERATE_USE_CPU"] = "true"
    AcceleratorState._reset_state(reset_partial_state=True)
    tuned(sounds, output, encoder, batch_size=3, mixup=0.2)
    assert AcceleratorState().num_processes == 2


def test_two_processes_tune_as_one_does(sounds, musicldm_folder, tmp_path, start_fork):
    # Batches of 3 of 11 training files: two processes share them unequally.
    whole = tuned(sounds, tmp_path / "whole", musicldm_folder, batch_size=3, mixup=0.2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tmp_path / "spread"
    spreading = (port, sounds, output, musicldm_folder)
    children = [start_fork(tune_as, rank, *spreading) for rank in (0, 1)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    spread = json.loads((output / "finetuning.json").read_text())
    losses = [[one["loss"] for one in history] for history in (whole.history, spread["history"])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    audio = sorted((sounds / "hiss").iterdir())[:3]
    one, other = (
        ClapEncoder.from_pretrained(folder).encode_audio(audio)
        for folder in (tmp_path / "whole", output)
    )
    assert torch.allclose(one, other, atol=1e-3)
    assert not (output / "checkpoint.safetensors").exists()


def test_a_killed_run_continues_as_if_it_had_not_stopped(
    sounds, musicldm_folder, tmp_path, in_a_fork: Callable[..., int]
):
    whole = tuned(sounds, tmp_path / "whole", musicldm_folder, patience=None)

    def run_and_die() -> None:
        save = finetuning.save_checkpoint

        def dying(*arguments: object) -> None:
            save(*arguments)  # pyright: ignore[reportArgumentType]
            os.kill(os.getpid(), signal.SIGKILL)

        finetuning.save_checkpoint = dying
        tuned(sounds, tmp_path / "killed", musicldm_folder, patience=None)

    assert os.WIFSIGNALED(in_a_fork(run_and_die))
    with pytest.raises(UserError, match="unfinished run with other settings"):
        tuned(sounds, tmp_path / "killed", musicldm_folder, patience=None, seed=3)
    resumed = tuned(sounds, tmp_path / "killed", musicldm_folder, patience=None)
    losses = [[one["loss"] for one in run.history] for run in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[1]) == 3


def test_training_stops_early_and_keeps_the_best_weights(sounds, musicldm_folder, tmp_path):
    options = {"epochs": 30, "patience": 2, "learning_rate": 1e-12}
    report = tuned(sounds, tmp_path / "tuned", musicldm_folder, **options)
    assert len(report.history) == 2
    assert (report.best_epoch, report.best) == (0, report.before)


def test_augmentations_keep_shapes_and_do_what_they_say():
    rng = np.random.default_rng(0)
    waveform = np.sin(np.arange(8000) / 20).astype(np.float32)
    augmented = [augment_waveform(waveform, rng) for _ in range(20)]
    assert {len(one) for one in augmented} == {8000}
    assert all(one.dtype == np.float32 and np.isfinite(one).all() for one in augmented)
    assert not any(np.array_equal(one, waveform) for one in augmented)
    features = torch.arange(2 * 64 * 32, dtype=torch.float32).view(2, 64, 32)
    masked = mask_spectrogram(features, rng)
    same = masked == features
    assert 0.4 < same.float().mean() < 1
    assert (masked[~same] == features.mean((1, 2))[:, None, None].expand(2, 64, 32)[~same]).all()
    inputs, targets = {"x": torch.eye(4), "flag": torch.zeros(4, dtype=torch.bool)}, torch.eye(4)
    mixed, wanted = mix(inputs, targets, 0.4, rng)
    assert torch.allclose(mixed["x"], wanted)
    assert torch.allclose(wanted.sum(1), torch.ones(4))


def test_audioclips_preset_is_its_published_protocol():
    config = FineTuningConfig.audioclip(epochs=2)
    assert (config.optimizer, config.rate, config.weight_decay) == ("sgd", 5e-5, 5e-4)
    assert (config.gamma, config.batch_size, config.part) == (0.96, 64, "all")
    assert (config.waveforms, config.epochs) == (True, 2)


def test_the_command_tunes_images_too_and_the_result_classifies(run, tmp_path):
    for label, color in (("grue", (20, 200, 90)), ("bleen", (30, 60, 220))):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(5):
            noise = np.random.default_rng(number).integers(-20, 20, (48, 48, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "images/grue/broken.png").write_bytes(b"\x89PNG")
    output = tmp_path / "my-clip"
    arguments = (
        "--epochs",
        3,
        "--mixup",
        0.2,
        "--learning-rate",
        1e-3,
        "--validation",
        0.3,
        "--encoder",
        "clip",
    )
    code, out, error = run("finetune", tmp_path / "images", *arguments, "-o", output, "--json")
    assert code == 1
    assert "broken.png" in error
    results = json.loads(out)["results"]
    assert results["settings"]["mixup"] == 0.2
    assert results == json.loads((output / "finetuning.json").read_text())
    image = tmp_path / "images/grue/0.png"
    code, out, _ = run("classify", image, "--labels", "grue,bleen", "--clip", output)
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "DATA: absent is not a folder"),
        (["."], "has no subfolders with audio or image files"),
        ([".", "--encoder", "clop"], "--encoder: expected clap or clip, got 'clop'"),
        ([".", "--mixup", "-1"], "--mixup: expected 0 or more"),
        ([".", "--validation", "1"], "--validation: expected between 0 and 1"),
        (["one"], "one: expected two labels or more"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one/label").mkdir(parents=True)
    soundfile.write(tmp_path / "one/label/a.wav", np.zeros(100), RATE)
    code, _, error = run("finetune", *arguments)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
