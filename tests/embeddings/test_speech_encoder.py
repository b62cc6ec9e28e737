import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    HubertConfig,
    MoonshineConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.embeddings.space import SpaceMismatchError, require_same_model
from clip2clap.models.speech import SpeechConfig, SpeechModel

RATE = 16_000


def tone(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitches = random.uniform(100, 3000, 4)
    return (0.1 * np.sin(2 * np.pi * np.outer(pitches, time)).sum(axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(speech_folder) -> Path:
    return speech_folder


@pytest.fixture(scope="module")
def speech(folder) -> SpeechEncoder:
    return SpeechEncoder.from_pretrained(folder)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_an_embedding_is_the_models_for_whispers_own_features(speech, batch_size):
    waveforms = [tone(seconds, seed) for seed, seconds in enumerate((1.0, 0.3, 0.05))]
    got = speech.encode_audio([(each, RATE) for each in waveforms], batch_size=batch_size)
    extractor = WhisperFeatureExtractor(chunk_length=1)
    for waveform, embed in zip(waveforms, got, strict=True):
        features = extractor(waveform, sampling_rate=RATE, return_tensors="pt")["input_features"]
        with torch.no_grad():
            frames = speech.backend.model.backbone(features).last_hidden_state[0]  # (50, 16)
        # Frames of 20 ms: those after the audio's end have no weight.
        frames = frames[: max(1, int(np.ceil(len(waveform) / 320)))]
        pooling = speech.backend.model.pooling
        weights = pooling.scores(frames).softmax(dim=0)  # (frames, heads)
        means = pooling.norm((weights.T @ frames).flatten())
        expected = F.normalize(pooling.projection(F.gelu(pooling.hidden(means))), dim=-1)
        assert torch.allclose(embed, expected, atol=1e-5)
    assert got.dtype == torch.float32
    assert torch.allclose(got.norm(dim=-1), torch.ones(3), atol=1e-6)
    assert (got[0] - got[1]).abs().max() > 1e-3


def with_speeds(folder: Path, target: Path, speeds: list[float]) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "speeds": speeds}))
    return target


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_copies_at_several_speeds_are_averaged(speech, folder, tmp_path, rate):
    fast = SpeechEncoder.from_pretrained(with_speeds(folder, tmp_path / "fast", [0.8, 1.25]))
    waveform = tone(0.7, rate=rate)
    copies = [soxr.resample(waveform, rate * speed, RATE) for speed in (0.8, 1.25)]
    embeds = speech.encode_audio([(copy, RATE) for copy in copies])
    expected = F.normalize(embeds.mean(dim=0), dim=0)
    torch.testing.assert_close(fast.encode_audio([(waveform, rate)])[0], expected)
    assert (expected - speech.encode_audio([(waveform, rate)])[0]).abs().max() > 1e-4
    assert fast.fingerprint != speech.fingerprint


def test_copies_count_by_how_sure_the_memory_is_of_them(folder, tmp_path):
    fast = SpeechEncoder.from_pretrained(with_speeds(folder, tmp_path / "fast", [0.8, 1.25]))
    backend: Any = fast.backend
    waveform = tone(0.7)

    def heard() -> Tensor:
        copies = [soxr.resample(waveform, RATE * speed, RATE) for speed in (0.8, 1.25)]
        inputs = [backend.preprocess_audio([copy]) for copy in copies]
        return torch.cat([backend.model(**each).pooler_output.detach() for each in inputs])

    plain = heard()
    apart = F.normalize(plain[0] - plain[1], dim=0)
    # Neither copy is nearer to one of the last two texts than to the other.
    other = torch.linalg.qr(torch.cat([plain, torch.randn_like(plain)]).T).Q[:, 2]
    known = F.normalize(torch.stack([apart, 2 * other - apart, -2 * other - apart]), dim=-1)
    backend.model.memory = nn.Parameter(known, requires_grad=False)
    beta = 20 / float((plain[0] - plain[1]).norm())
    backend.model.config.memory = {"count": 3, "beta": beta, "mix": 0.5}
    sure, unsure = heard()
    assert sure.norm() > 0.99
    assert unsure.norm() < 0.5
    expected = F.normalize(sure + unsure, dim=0)
    embed = fast.encode_audio([(waveform, RATE)])[0]
    torch.testing.assert_close(embed, expected, atol=1e-3, rtol=0)
    alike = F.normalize(F.normalize(sure, dim=0) + F.normalize(unsure, dim=0), dim=0)
    assert embed @ sure > alike @ sure + 0.1


def test_one_sample_has_an_embedding_at_every_speed(folder, tmp_path):
    fast = SpeechEncoder.from_pretrained(with_speeds(folder, tmp_path / "fast", [0.5, 1.0, 2.0]))
    assert fast.encode_audio([(np.ones(1, np.float32), RATE)]).isfinite().all()


@pytest.mark.parametrize("speeds", [[], [0.0], ["fast"], [float("nan")]])
def test_speeds_that_are_none_are_refused(folder, tmp_path, speeds):
    with pytest.raises(CheckpointError, match="numbers from"):
        SpeechEncoder.from_pretrained(with_speeds(folder, tmp_path / "wrong", speeds))


def test_the_space_is_the_clips_and_no_others(
    speech, reading_clip_folder, foreign_reading_clip_folder
):
    clip = ClipEncoder.from_pretrained(reading_clip_folder)
    foreign = ClipEncoder.from_pretrained(foreign_reading_clip_folder)
    assert speech.space("audio") == clip.space("image").in_modality("audio")
    require_same_model(clip.space("text"), speech.space("audio"), what="Speech")
    assert foreign.space("image").dim == speech.space("audio").dim
    with pytest.raises(SpaceMismatchError, match="Two encoders are two spaces"):
        require_same_model(foreign.space("image"), speech.space("audio"), what="Speech")


def test_the_space_is_read_without_the_model(folder, speech):
    assert read_space(folder, family="speech_encoder", modality="audio") == speech.space("audio")


def test_longer_speech_is_the_mean_of_windows_that_cover_it(speech):
    waveform = tone(2.5)
    starts = [0, 12_000, 24_000]
    parts = speech.encode_audio([(waveform[s : s + RATE], RATE) for s in starts])
    (whole,) = speech.encode_audio([(waveform, RATE)])
    assert torch.allclose(whole, F.normalize(parts.mean(dim=0), dim=-1), atol=1e-5)


def test_padding_does_not_count(new_speech_model):
    # The features of padding are those of silence: a mask alone tells them apart.
    model, _ = new_speech_model(None)
    features = torch.randn(1, 80, 100)
    full, half = (
        model(features, torch.tensor([length])).last_hidden_state for length in (RATE, RATE // 2)
    )
    assert torch.equal(full, half)
    masked = model.pooling(full[:, :25], torch.ones(1, 25, dtype=torch.bool))
    embeds = model(features, torch.tensor([RATE // 2])).pooler_output
    assert torch.allclose(embeds, F.normalize(masked, dim=-1), atol=1e-5)


def test_files_arrays_and_dictionaries_are_one_door(speech, tmp_path):
    waveform = tone(0.5, rate=8_000)
    soundfile.write(tmp_path / "say.wav", waveform, 8_000, subtype="FLOAT")
    got = speech.encode_audio(
        [
            tmp_path / "say.wav",
            (waveform, 8_000),
            {"array": waveform, "sampling_rate": 8_000},
            (tmp_path / "say.wav").read_bytes(),
        ]
    )
    assert torch.allclose(got, got[:1].expand(4, -1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_weights_of_any_float_dtype_load_as_float32(folder, speech, tmp_path, dtype):
    weights = {name: value.to(dtype) for name, value in load_file(folder / FILE).items()}
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(weights, tmp_path / FILE, metadata={"format": "pt"})
    loaded = SpeechEncoder.from_pretrained(tmp_path)
    expected = {name: value.float() for name, value in weights.items()}
    for name, value in loaded.backend.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name.removeprefix("model.")]), name
    if dtype == torch.float16:
        assert loaded.fingerprint == speech.fingerprint
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert SpeechEncoder.from_pretrained(again).fingerprint == loaded.fingerprint


FILE = "model.safetensors"


def test_a_saved_encoder_gives_the_same_embeddings(speech, new_speech_model, tmp_path):
    model, extractor = new_speech_model(speech.space("audio").to_dict(), seed=3)
    encoder = SpeechEncoder.of(model, extractor)
    encoder.save_pretrained(tmp_path / "saved", facts={"metrics": {"recall_at_1": 0.5}})
    loaded = SpeechEncoder.from_pretrained(tmp_path / "saved")
    audio = [(tone(0.7), RATE)]
    assert torch.equal(loaded.encode_audio(audio), encoder.encode_audio(audio))
    assert loaded.fingerprint == encoder.fingerprint != speech.fingerprint
    assert loaded.space("audio") == encoder.space("audio")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "recall_at_1 | 0.5" in card
    assert encoder.fingerprint in card


SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def waveforms(**options: Any) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(do_normalize=True, **options)


BACKBONES = {
    "ast": lambda: (ASTConfig(**SMALL, max_length=102), ASTFeatureExtractor(max_length=102)),
    "wav2vec2": lambda: (Wav2Vec2Config(**SMALL, **CONVOLUTIONS), waveforms()),
    "wav2vec2-layer": lambda: (
        Wav2Vec2Config(**SMALL, **CONVOLUTIONS, feat_extract_norm="layer"),
        waveforms(return_attention_mask=True),
    ),
    "hubert": lambda: (HubertConfig(**SMALL, **CONVOLUTIONS), waveforms()),
    "moonshine": lambda: (
        MoonshineConfig(
            hidden_size=16,
            intermediate_size=16,
            encoder_num_hidden_layers=1,
            encoder_num_attention_heads=2,
        ),
        waveforms(),
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_saves_loads_and_encodes_in_any_batch(name, speech, tmp_path):
    torch.manual_seed(0)
    backbone, extractor = BACKBONES[name]()
    config = SpeechConfig(
        backbone,
        pooling_size=16,
        projection_dim=speech.space("audio").dim,
        window_s=1.02 if name == "ast" else 1.0,
        space=speech.space("audio").to_dict(),
    )
    encoder = SpeechEncoder.of(SpeechModel(config), extractor)
    encoder.save_pretrained(tmp_path)
    loaded = SpeechEncoder.from_pretrained(tmp_path)
    audio = [(tone(seconds, seed), RATE) for seed, seconds in enumerate((0.9, 0.2, 2.5, 0.05))]
    together = loaded.encode_audio(audio, batch_size=8)
    alone = torch.cat([encoder.encode_audio([each]) for each in audio])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.isfinite(together).all()
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_clipped_and_silent_speech_have_embeddings_and_three_hours_a_line(speech, tmp_path):
    loud = np.clip(20 * tone(0.5), -1, 1)
    got = speech.encode_audio([(loud, RATE), (np.zeros(RATE, np.float32), RATE)])
    assert torch.isfinite(got).all()
    soundfile.write(tmp_path / "long.flac", np.zeros(3 * 3600 * 100, np.int16), 100)
    with pytest.raises(UserError, match=r"lasts 3\.0 h; at most 30 minutes"):
        speech.encode_audio([tmp_path / "long.flac"])


def test_mistakes_are_named(folder, reading_clip_folder, new_speech_model, tmp_path, speech):
    with pytest.raises(CheckpointError, match=r"is no speech encoder: .* train-speech"):
        SpeechEncoder.from_pretrained(reading_clip_folder)
    for other in (ClipEncoder, ClapEncoder):
        with pytest.raises(CheckpointError, match=r"is a speech encoder; expected a CLI?A?P"):
            other.from_pretrained(folder)
    with pytest.raises(ModelNotFoundError, match="no folder"):
        SpeechEncoder.from_pretrained(tmp_path / "absent")
    with pytest.raises(UserError, match="embeds audio only, not text"):
        speech.encode_text(["a dog"])
    config = json.loads((folder / "config.json").read_text())
    for changed, message in (
        ({"space": None}, "An embedding space needs"),
        ({"projection_dim": 5}, "expected a CLIP's space of that dimension"),
        ({"backbone_config": {"model_type": "bert"}}, "no backbone"),
    ):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(CheckpointError, match=message):
            SpeechEncoder.from_pretrained(tmp_path)
    model, _ = new_speech_model(speech.space("audio").to_dict())
    with pytest.raises(UserError, match="makes 3000 frames"):
        SpeechEncoder.of(model, WhisperFeatureExtractor())
