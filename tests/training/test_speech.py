"""Training of speech encoders on tones that stand for captions."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from transformers import ASTConfig, ASTModel, WhisperConfig, WhisperModel

from clip2clap.core.errors import ModelNotFoundError, UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError, require_same_model
from clip2clap.training.speech.alterations import add_noise, alter_speech, reverberate
from clip2clap.training.speech.config import SpeechTrainingConfig
from clip2clap.training.speech.networks import new_speech_model
from clip2clap.training.speech.train import SpeechReport, train_speech_encoder

RATE = 16_000
WORDS = ["dog", "cat", "sea", "rain", "train", "bird", "wind", "fire"]
QUICK = SpeechTrainingConfig(
    window_s=1,
    layers=1,
    pooling_size=32,
    epochs=6,
    batch_size=8,
    learning_rate=3e-3,
    loss="bank",
    warmup=0.0,
    augment=0.3,
    speed=0.02,
    reverb_s=0.1,
    noise_db=20.0,
    spec_augment=False,
)


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Any:
    """Random networks of a width that trains in seconds."""
    from clip2clap.training.speech import networks

    patch = pytest.MonkeyPatch()
    whisper: dict[str, Any] = {
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
    }
    patch.setattr(networks, "_random", lambda _: WhisperConfig(d_model=32, **whisper))
    yield
    patch.undo()


def tone(word: int, take: int) -> np.ndarray:
    """A word of this language: two tones, one after the other, of a voice of its own."""
    random = np.random.default_rng([word, take])
    voice, time = random.uniform(0.97, 1.03), np.arange(RATE // 4) / RATE
    pitches = (300 * 1.35**word, 200 * 1.35 ** ((word * 3) % 8))
    parts = [np.sin(2 * np.pi * pitch * voice * time) for pitch in pitches]
    return (0.2 * np.concatenate(parts) + random.normal(0, 0.01, RATE // 2)).astype(np.float32)


def write_spoken(folder: Path, *, shuffled: bool = False, takes: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(WORDS) * takes)
    lines = ["audio,caption,item,split"]
    for place in range(len(WORDS) * takes):
        word, take = divmod(place, takes)
        soundfile.write(folder / f"{word}-{take}.wav", tone(word, take), RATE)
        spoken = WORDS[order[place] % len(WORDS) if shuffled else word]
        split = "validation" if take == 0 else "test" if take == 1 else "train"
        lines.append(f"{word}-{take}.wav,{spoken},{place},{split}")
    (folder / "spoken.csv").write_text("\n".join(lines) + "\n")
    return folder / "spoken.csv"


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    return write_spoken(tmp_path_factory.mktemp("data") / "spoken")


@pytest.fixture(scope="module")
def clip(reading_clip_folder) -> ClipEncoder:
    return ClipEncoder.from_pretrained(reading_clip_folder)


@pytest.fixture(scope="module")
def trained(spoken, clip, tmp_path_factory) -> tuple[SpeechEncoder, SpeechReport, Path]:
    output = tmp_path_factory.mktemp("out") / "speech"
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 20})
    return *train_speech_encoder(spoken, output, clip, config, device="cpu"), output


def test_speech_retrieves_its_caption_among_voices_not_trained_on(trained):
    _, report, _ = trained
    assert report.measured_on == "test"
    assert report.metrics["text"]["recall_at_1"] >= 0.6
    assert report.history[-1].train_loss < report.history[0].train_loss


def test_distillation_on_shuffled_targets_retrieves_at_chance(clip, tmp_path):
    shuffled = write_spoken(tmp_path / "shuffled", shuffled=True)
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 8})
    _, report = train_speech_encoder(shuffled, None, clip, config, device="cpu")
    assert report.metrics["text"]["recall_at_1"] <= 0.4


def test_the_folder_holds_an_encoder_of_the_clips_space(trained, clip, foreign_reading_clip_folder):
    encoder, report, output = trained
    loaded = SpeechEncoder.from_pretrained(output)
    audio = [(tone(2, 99), RATE)]
    assert torch.allclose(loaded.encode_audio(audio), encoder.encode_audio(audio), atol=1e-6)
    assert loaded.space("audio") == clip.space("text").in_modality("audio")
    foreign = ClipEncoder.from_pretrained(foreign_reading_clip_folder)
    with pytest.raises(SpaceMismatchError):
        require_same_model(foreign.space("text"), loaded.space("audio"), what="Speech")
    assert sorted(file.name for file in output.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "training.json",
    ]
    assert "# speech" in (output / "README.md").read_text()
    saved = json.loads((output / "training.json").read_text())
    assert saved["metrics"] == report.metrics


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(trained, spoken, clip):
    _, report, output = trained
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 20})
    again = train_speech_encoder(spoken, output, clip, config, device="cpu")[1]
    assert again.seconds == report.seconds
    with pytest.raises(UserError, match="epochs 20 in place of 6"):
        train_speech_encoder(spoken, output, clip, QUICK, device="cpu")


def test_a_killed_run_ends_with_the_same_weights(spoken, clip, tmp_path, start_fork):
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 3})
    whole, _ = train_speech_encoder(spoken, None, clip, config, device="cpu")
    output = tmp_path / "out"

    def die_after_an_epoch(progress: Any) -> None:
        if progress.epoch == 2 and progress.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    child = start_fork(
        lambda: train_speech_encoder(
            spoken,
            output,
            clip,
            config,
            device="cpu",
            checkpoint_seconds=0,
            on_progress=die_after_an_epoch,
        )
    )
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (output / "checkpoint.safetensors").is_file()
    resumed, report = train_speech_encoder(spoken, output, clip, config, device="cpu")
    assert report.resumed_after == 1
    for name, value in whole.backend.state_dict().items():
        assert torch.allclose(value, resumed.backend.state_dict()[name], atol=1e-6), name


def train_as(rank: int, port: int, spoken: Path, clip: ClipEncoder, output: Path) -> None:
    """Train in this process, one of the two that `accelerate launch --cpu` starts."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["ACCELERATE_USE_CPU"] = "true"
    # What earlier tests of this process set up is for one process.
    AcceleratorState._reset_state(reset_partial_state=True)
    # The last batch of 32 captions has one caption: the second process has none of it.
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 2, "batch_size": 31})
    _, report = train_speech_encoder(spoken, output, clip, config, device="cpu")
    assert AcceleratorState().num_processes == 2
    assert [record.epoch for record in report.history] == [1, 2]


def test_two_processes_share_each_batch(spoken, clip, tmp_path, start_fork):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tmp_path / "out"
    both = [start_fork(train_as, rank, port, spoken, clip, output) for rank in (0, 1)]
    assert [os.waitpid(child, 0)[1] for child in both] == [0, 0]
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 2, "batch_size": 31})
    _, alone = train_speech_encoder(spoken, None, clip, config, device="cpu")
    spread = SpeechReport.read(output / "training.json")
    losses = [[record.train_loss for record in each.history] for each in (alone, spread)]
    # The masks of features and the means over shares differ a little.
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    SpeechEncoder.from_pretrained(output)


def test_images_are_targets_too_and_rows_may_lack_either(clip, spoken, tmp_path):
    from PIL import Image

    lines = ["audio,caption,image"]
    for place in range(12):
        word = place % 4
        Image.new("RGB", (32, 32), (60 * word, 255 - 60 * word, 128)).save(tmp_path / f"{word}.png")
        caption, image = (WORDS[word] if place != 3 else ""), (f"{word}.png" if place != 5 else "")
        lines.append(f"{spoken.parent / f'{word}-{place // 4}.wav'},{caption},{image}")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    config = SpeechTrainingConfig(
        **{**vars(QUICK), "epochs": 2, "validation": 0.3, "image_weight": 2.0}
    )
    _, report = train_speech_encoder(tmp_path / "data.csv", None, clip, config, device="cpu")
    assert {"mrr", "text_mrr"} <= set(report.history[0].validation)
    (tmp_path / "1.png").write_bytes(b"no image")
    lines += ["absent.wav,a dog,2.png"]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    _, report = train_speech_encoder(tmp_path / "data.csv", None, clip, config, device="cpu")
    # Row 6, whose word is the second, has no image.
    assert set(report.unreadable) == {"data:2", "data:10", "data:13"}
    assert "1.png" in report.unreadable["data:2"]
    none = SpeechTrainingConfig(**{**vars(QUICK), "text_weight": 0.0})
    with pytest.raises(UserError, match="whose weight is 0") as error:
        train_speech_encoder(spoken, None, clip, none, device="cpu")
    assert error.value.param == "text_weight"


def test_unreadable_audio_is_left_out_and_named(spoken, clip, tmp_path):
    lines = spoken.read_text().splitlines()
    (tmp_path / "broken.wav").write_bytes(b"RIFF no more")
    rows = [f"{spoken.parent}/{line}" for line in lines[1:]]
    (tmp_path / "data.csv").write_text(
        "\n".join([lines[0], *rows, "broken.wav,dog,broken,train"]) + "\n"
    )
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 1})
    _, report = train_speech_encoder(tmp_path / "data.csv", None, clip, config, device="cpu")
    assert list(report.unreadable) == ["data:49"]


def test_a_tracker_gets_the_curves(spoken, clip, tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = SpeechTrainingConfig(**{**vars(QUICK), "epochs": 2})
    _, report = train_speech_encoder(
        spoken, tmp_path / "run", clip, config, device="cpu", trackers=["tensorboard"]
    )
    events = reading.EventAccumulator(str(tmp_path / "run" / "tracking" / "run"))
    events.Reload()
    logged = [point.value for point in events.Scalars("mrr")]
    assert logged == pytest.approx([record.validation["mrr"] for record in report.history])


def test_patience_ends_a_run_that_learns_nothing(spoken, clip):
    config = SpeechTrainingConfig(
        **{**vars(QUICK), "learning_rate": 1e-15, "epochs": 4, "patience": 1}
    )
    _, report = train_speech_encoder(spoken, None, clip, config, device="cpu")
    assert report.stopped_early
    assert len(report.history) < 4


def test_noise_has_its_level_and_reverberation_keeps_the_power():
    random = np.random.default_rng(0)
    waveform = tone(3, 1)
    noisy = add_noise(waveform, 10.0, random)
    ratio = np.mean(waveform**2) / np.mean((noisy - waveform) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(10.0, abs=0.01)
    recording = np.arange(7, dtype=np.float32)
    added = add_noise(waveform, 0.0, random, recording=recording) - waveform
    assert np.mean(added**2) == pytest.approx(np.mean(waveform**2), rel=1e-3)
    assert np.allclose(added[7:14], added[:7], atol=1e-5)
    wet = reverberate(waveform, RATE, 0.3, random)
    assert np.mean(wet**2) == pytest.approx(np.mean(waveform**2), rel=1e-4)
    assert np.abs(wet - waveform).max() > 0.01
    click = np.zeros(RATE, np.float32)
    click[0] = 1
    tail = reverberate(click, RATE, 0.5, random) ** 2
    early, late = tail[1600:2400].mean(), tail[5600:6400].mean()
    # 60 dB in 0.5 s are 30 dB in a quarter of a second.
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=1.5)


def test_speed_changes_length_and_pitch_together():
    config = SpeechTrainingConfig(augment=1.0, speed=0.2, reverb_s=0.0, noise_db=None)
    waveform = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)
    for seed in range(3):
        altered = alter_speech(waveform, RATE, config, np.random.default_rng(seed))
        peak = np.abs(np.fft.rfft(altered)).argmax() * RATE / len(altered)
        assert peak / 500 == pytest.approx(RATE / len(altered), rel=0.01)
        assert len(altered) != RATE


def test_a_checkpoints_first_layers_and_positions_are_kept(tmp_path, monkeypatch):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_layers": 1,
    }
    sizes |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 64}
    tokens: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    whisper = WhisperModel(
        WhisperConfig(d_model=16, encoder_layers=3, **sizes, **tokens, decoder_start_token_id=0)
    )
    whisper.save_pretrained(tmp_path / "whisper")
    space = EmbeddingSpace("clip", "some/clip", "text", 12, True, "c11p")
    config = SpeechTrainingConfig(backbone=str(tmp_path / "whisper"), layers=2, window_s=4)
    model, extractor = new_speech_model(config, space)
    kept = model.backbone.state_dict()
    source = whisper.encoder.state_dict()
    assert not [name for name in kept if "layers.2" in name]
    assert torch.equal(kept["embed_positions.weight"], source["embed_positions.weight"][:200])
    assert torch.equal(kept["layers.1.fc1.weight"], source["layers.1.fc1.weight"])
    assert extractor.n_samples == 4 * RATE
    for changed, message in (
        ({"architecture": "hubert"}, "is a whisper; expected a hubert"),
        ({"layers": 4}, "at most 3"),
        ({"window_s": 40}, "at most 30"),
        ({"window_s": 2.5}, "whole seconds"),
        ({"backbone": str(tmp_path / "absent")}, "no folder"),
    ):
        with pytest.raises((UserError, ModelNotFoundError), match=message):
            new_speech_model(SpeechTrainingConfig(**{**vars(config), **changed}), space)


def test_asts_positions_are_cut_to_the_middle_of_512_frames(tmp_path):
    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    ast = ASTModel(ASTConfig(**small, num_attention_heads=2))
    torch.nn.init.normal_(ast.embeddings.position_embeddings)
    ast.save_pretrained(tmp_path)
    space = EmbeddingSpace("clip", "some/clip", "text", 12, True, "c11p")
    model, extractor = new_speech_model(
        SpeechTrainingConfig.saliclip(backbone=str(tmp_path)), space
    )
    assert (extractor.max_length, extractor.num_mel_bins) == (512, 128)
    own = model.backbone.embeddings.position_embeddings
    whole = ast.embeddings.position_embeddings
    assert torch.equal(own[:, :2], whole[:, :2])
    # 12 lines of 101 places, of which 50 are kept.
    lines = whole[:, 2:].reshape(1, 12, 101, 16)[:, :, 25:75]
    assert torch.equal(own[:, 2:], lines.reshape(1, 600, 16))


def test_filter_banks_are_kaldis_within_1e_4():
    """The reference computed step by step: Kaldi's filter banks, as torchaudio has them."""
    space = EmbeddingSpace("clip", "some/clip", "text", 12, True, "c11p")
    from clip2clap.training.speech import networks

    extractor = networks._new_extractor("ast", 5.12, ASTConfig(), None)
    from clip2clap.models.speech import SpeechConfig, SpeechModel

    small = ASTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_length=512,
    )
    config = SpeechConfig(small, projection_dim=12, window_s=5.12, space=space.to_dict())
    encoder = SpeechEncoder.of(SpeechModel(config), extractor)
    waveform = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    (found,) = encoder.backend.preprocess_audio([waveform])["inputs"]
    expected = kaldi_filter_banks(waveform)
    padded = np.zeros((512, 128))
    padded[: len(expected)] = expected
    normalized = (padded + 4.2677393) / (2 * 4.5689974)
    assert found.shape == (512, 128)
    assert np.abs(found.numpy() - normalized).max() < 1e-4


def kaldi_filter_banks(waveform: np.ndarray) -> np.ndarray:
    count = 1 + (len(waveform) - 400) // 160
    frames = np.stack([waveform[160 * n : 160 * n + 400] for n in range(count)]).astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - 0.97 * before) * np.hanning(400)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2  # (frames, 257)

    def mel(hertz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(20), mel(8000), 130)
    bins = mel(np.arange(256) * RATE / 512)[:, None]  # Kaldi leaves out the last bin.
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(up, down))  # (256, 128)
    return np.log(np.maximum(power[:, :256] @ filters, np.finfo(np.float32).eps))
