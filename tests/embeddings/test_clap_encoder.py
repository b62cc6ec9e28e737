import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertTokenizer,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextModelWithProjection,
    RobertaTokenizer,
)

from clip2clap.core.errors import CheckpointError, MissingExtraError, ModelNotFoundError, UserError
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.models.yamnet_clap import YamnetClapConfig, YamnetClapModel, YamnetFeatureExtractor

RATE = 16_000
TEXTS = ["a dog barks", "rain", "", "wind " * 100]


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    return samples.astype(np.float32)


@pytest.fixture(scope="module")
def hearing(musicldm_folder) -> ClapEncoder:
    return ClapEncoder.from_pretrained(musicldm_folder)


def transformers_audio(folder: Path, sounds: list[np.ndarray]) -> torch.Tensor:
    """What transformers' own extractor and model make of sounds that fit the window."""
    extractor = ClapFeatureExtractor.from_pretrained(folder / "feature_extractor")
    model = ClapModel.from_pretrained(folder / "text_encoder").eval()
    embeds = []
    for sound in sounds:
        inputs = extractor(sound, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            outputs: Any = model.get_audio_features(inputs["input_features"].float())
        embeds.append(F.normalize(outputs.pooler_output, dim=-1))
    return torch.cat(embeds)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_audio_equals_transformers_own_extractor_and_model(musicldm_folder, hearing, batch_size):
    sounds = [noise(seconds, seed) for seed, seconds in enumerate((1, 0.3, 0.05, 0.99, 0.5))]
    expected = transformers_audio(musicldm_folder, sounds)
    got = hearing.encode_audio([(sound, RATE) for sound in sounds], batch_size=batch_size)
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, atol=1e-5)
    assert (got[0] - got[1]).abs().max() > 1e-3


def test_other_rates_are_resampled(musicldm_folder, hearing):
    sound = noise(0.5, rate=44_100)
    expected = transformers_audio(musicldm_folder, [soxr.resample(sound, 44_100, RATE)])
    assert torch.allclose(hearing.encode_audio([(sound, 44_100)]), expected, atol=1e-5)


def test_a_path_is_encoded_as_its_waveform_is(hearing, tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise(0.5), RATE, subtype="FLOAT")
    expected = hearing.encode_audio([(noise(0.5), RATE)])
    for path in (tmp_path / "noise.wav", str(tmp_path / "noise.wav")):
        assert torch.allclose(hearing.encode_audio([path]), expected, atol=1e-6)
    with pytest.raises(UserError, match="nowhere"):
        hearing.encode_audio([tmp_path / "nowhere.wav"])


def test_long_audio_is_the_average_of_windows_from_start_to_end(musicldm_folder, hearing):
    sound = noise(2.5)
    starts = (0, 12_000, 24_000)
    windows = transformers_audio(musicldm_folder, [sound[s : s + RATE] for s in starts])
    expected = F.normalize(windows.mean(dim=0), dim=0)
    got = hearing.encode_audio(
        [(noise(0.2), RATE), (sound, RATE), (noise(0.4), RATE)], batch_size=2
    )
    assert torch.allclose(got[1], expected, atol=1e-5)


def test_audio_without_normalization_has_the_mean_norm_of_its_windows(musicldm_folder, tmp_path):
    whole: Any = ClapModel.from_pretrained(musicldm_folder / "text_encoder")
    tower = ClapAudioModelWithProjection(whole.config.audio_config).eval()  # does not normalise
    tower.save_pretrained(tmp_path)
    for file in (musicldm_folder / "feature_extractor").iterdir():
        shutil.copy(file, tmp_path)
    encoder = ClapEncoder.from_pretrained(tmp_path)
    sound = noise(2.5)
    windows = [(sound[start : start + RATE], RATE) for start in (0, 12_000, 24_000)]
    lengths = encoder.encode_audio(windows, normalize=False).norm(dim=1)
    assert (lengths - 1).abs().min() > 0.1
    raw = encoder.encode_audio([windows[0], (sound, RATE)], normalize=False)
    assert torch.allclose(raw.norm(dim=1), torch.stack([lengths[0], lengths.mean()]), rtol=1e-5)
    unit = encoder.encode_audio([windows[0], (sound, RATE)])
    assert torch.allclose(F.normalize(raw, dim=-1), unit, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_the_same_audio_always_gives_the_same_vector(musicldm_folder, tmp_path, fused):
    for part in ("text_encoder", "tokenizer", "feature_extractor"):
        for file in (musicldm_folder / part).iterdir():
            shutil.copy(file, tmp_path)
    if fused:
        config = json.loads((tmp_path / "config.json").read_text())
        config["audio_config"]["enable_fusion"] = True
        (tmp_path / "config.json").write_text(json.dumps(config))
        model = ClapModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
        model.save_pretrained(tmp_path)
        extractor = ClapFeatureExtractor.from_pretrained(tmp_path)
        extractor.truncation = "fusion"
        extractor.save_pretrained(tmp_path)
    encoder = ClapEncoder.from_pretrained(tmp_path)
    sounds = [(noise(seconds, seed), RATE) for seed, seconds in enumerate((0.4, 1.7, 3.1))]
    first = encoder.encode_audio(sounds)
    for _ in range(3):
        assert torch.allclose(encoder.encode_audio(sounds), first, atol=1e-6)
    assert torch.allclose(encoder.encode_audio(sounds[1:2], batch_size=1), first[1:2], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_audioldm_folder_gives_its_own_text_encoder(audioldm_folder, batch_size):
    encoder = ClapEncoder.from_pretrained(audioldm_folder)
    assert encoder.modalities == ("text",)
    model = ClapTextModelWithProjection.from_pretrained(audioldm_folder / "text_encoder").eval()
    tokenizer = RobertaTokenizer.from_pretrained(audioldm_folder / "tokenizer")
    inputs = tokenizer(
        TEXTS, padding="max_length", truncation=True, max_length=64, return_tensors="pt"
    )
    with torch.no_grad():
        expected = F.normalize(
            model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).text_embeds, dim=-1
        )
    assert torch.allclose(encoder.encode_text(TEXTS, batch_size=batch_size), expected, atol=1e-5)
    with pytest.raises(UserError, match="embeds text only, not audio"):
        encoder.encode_audio([(noise(1), RATE)])


def test_a_musicldm_folder_has_a_clap_with_an_audio_encoder(hearing):
    assert hearing.modalities == ("audio", "text")
    assert hearing.encode_text(TEXTS).shape == hearing.encode_audio([(noise(1), RATE)] * 4).shape


def test_claps_of_one_size_are_different_spaces(audioldm_folder, musicldm_folder, foreign_folder):
    folders = (audioldm_folder, musicldm_folder, foreign_folder)
    spaces = [read_space(folder, family="clap", modality="text") for folder in folders]
    assert len({space.dim for space in spaces}) == 1
    assert len({space.fingerprint for space in spaces}) == 3
    for folder, space in zip(folders, spaces, strict=True):
        assert ClapEncoder.from_pretrained(folder).space("text") == space


def test_a_text_encoder_stored_by_an_older_version_loads(audioldm_folder, tmp_path):
    shutil.copytree(audioldm_folder, tmp_path / "old")
    file = tmp_path / "old" / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    for name in [name for name in weights if name.endswith(("position_ids", "token_type_ids"))]:
        weights.pop(name)
    save_file(
        {**weights, "text_model.embeddings.position_ids": torch.arange(66)[None]},
        file,
        metadata={"format": "pt"},
    )
    old = ClapEncoder.from_pretrained(tmp_path / "old")
    new = ClapEncoder.from_pretrained(audioldm_folder)
    assert torch.equal(old.encode_text(TEXTS), new.encode_text(TEXTS))
    assert old.space("text").same_model_as(new.space("text"))


def test_a_round_trip_keeps_vectors_and_space(hearing, audioldm_folder, tmp_path):
    hearing.save_pretrained(tmp_path / "hearing")
    again = ClapEncoder.from_pretrained(tmp_path / "hearing")
    sound = [(noise(1.4), RATE)]
    assert torch.equal(again.encode_audio(sound), hearing.encode_audio(sound))
    assert again.space("audio").same_model_as(hearing.space("audio"))
    reading = ClapEncoder.from_pretrained(audioldm_folder)
    reading.save_pretrained(tmp_path / "reading")
    again = ClapEncoder.from_pretrained(tmp_path / "reading")
    assert torch.equal(again.encode_text(TEXTS), reading.encode_text(TEXTS))
    assert again.space("text").same_model_as(reading.space("text"))


def test_one_tower_of_two_can_be_kept(musicldm_folder, hearing):
    encoder = ClapEncoder.from_pretrained(musicldm_folder, modalities=("audio",))
    assert encoder.modalities == ("audio",)
    assert torch.equal(
        encoder.encode_audio([(noise(1), RATE)]), hearing.encode_audio([(noise(1), RATE)])
    )
    assert encoder.space("audio") == hearing.space("audio")


def test_a_clap_like_the_demos_equals_its_own_parts(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "dog"]
    tokenizer = BertTokenizer(
        vocab={word: index for index, word in enumerate(words)}, model_max_length=12
    )
    text = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    config = YamnetClapConfig(text_config=text, audio_width=0.1, patch_frames=20, projection_dim=16)
    extractor = YamnetFeatureExtractor(
        feature_size=16, sampling_rate=RATE, hop_length=256, max_length_s=1
    )
    model = YamnetClapModel(config).eval().half()
    for part in (model, extractor, tokenizer):
        part.save_pretrained(tmp_path)
    encoder = ClapEncoder.from_pretrained(tmp_path)
    assert encoder.modalities == ("audio", "text")
    sounds = [noise(seconds, seed) for seed, seconds in enumerate((1, 0.3, 0.7))]
    features = extractor(sounds, sampling_rate=RATE)["input_features"]
    tokens = tokenizer(["rain", "dog rain"], padding=True, return_tensors="pt")
    with torch.no_grad():
        audio: Any = model.float().get_audio_features(features).pooler_output
        texts: Any = model.get_text_features(**tokens).pooler_output
    pairs = [(sound, RATE) for sound in sounds]
    assert torch.allclose(encoder.encode_audio(pairs, batch_size=2), audio, atol=1e-5)
    assert torch.allclose(encoder.encode_text(["rain", "dog rain"]), texts, atol=1e-5)
    assert encoder.space("audio") == read_space(tmp_path, family="clap", modality="audio")


def test_a_clip_is_no_clap_and_the_other_way_round(clip_folder, audioldm_folder):
    with pytest.raises(CheckpointError, match="is a CLIP; expected a CLAP"):
        ClapEncoder.from_pretrained(clip_folder)
    with pytest.raises(CheckpointError, match="is a CLAP; expected a CLIP"):
        ClipEncoder.from_pretrained(audioldm_folder / "text_encoder")
    with pytest.raises(CheckpointError, match="AudioLDMPipeline without a CLIP"):
        ClipEncoder.from_pretrained(audioldm_folder)


def test_a_pipeline_without_a_clap_says_so(tmp_path):
    index = {"_class_name": "SomePipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="SomePipeline without a CLAP"):
        read_space(tmp_path, family="clap", modality="text")


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (noise(1), r"audio 1 as \(waveform, sampling_rate\), a path.*, got ndarray"),
        ((noise(1),), r"\(waveform, sampling_rate\) for audio 1, got tuple"),
        (((noise(1) * 32_767).astype(np.int16), RATE), "floats in .* got int16"),
        ((np.zeros((3, 100), np.float32), RATE), r"shape \(samples,\), .* got \(3, 100\)"),
        ((np.zeros(0, np.float32), RATE), r"got \(0,\)"),
        ((np.full(100, np.nan, np.float32), RATE), "NaN"),
        ((noise(1), 0), "an integer in Hz, got 0"),
        ((noise(1), "16k"), "an integer in Hz, got '16k'"),
    ],
)
def test_audio_that_cannot_be_embedded_is_named(hearing, audio, message):
    with pytest.raises(UserError, match=message) as error:
        hearing.encode_audio([(noise(1), RATE), audio])
    assert "audio 1" in str(error.value)


def test_tensors_and_doubles_are_audio_too(hearing):
    sound = noise(0.5)
    expected = hearing.encode_audio([(sound, RATE)])
    for same in ((RATE, sound), (sound, float(RATE)), {"array": sound, "sampling_rate": RATE}):
        assert torch.equal(hearing.encode_audio([same], batch_size=np.int64(2)), expected)
    assert torch.equal(hearing.encode_audio([(torch.from_numpy(sound), RATE)]), expected)
    assert torch.equal(hearing.encode_audio([(sound.astype(np.float64), RATE)]), expected)


@pytest.fixture
def laion_file(tmp_path) -> Path:
    """A checkpoint as laion_clap's training leaves it: more than weights, behind "module."."""
    weights = {
        "module.audio_branch.patch_embed.proj.weight": torch.randn(96, 1, 4, 4),
        "module.text_branch.embeddings.position_ids": torch.arange(514)[None],
        "module.logit_scale_a": torch.tensor(1.0),
    }
    path = tmp_path / "630k-best.pt"
    torch.save({"epoch": 3, "best": np.float64(0.5), "state_dict": weights}, path)
    return path


def test_laion_clap_that_is_not_installed_is_named(laion_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'clip2clap\[laion-clap\]'"):
        ClapEncoder.from_pretrained(f"laion_clap:{laion_file}")
    with pytest.raises(ModelNotFoundError, match=r"There is no file 'nowhere\.pt'"):
        ClapEncoder.from_pretrained("laion_clap:nowhere.pt")


def test_a_laion_clap_file_is_read_without_its_package(laion_file):
    space = read_space(f"laion_clap:{laion_file}", family="clap", modality="audio")
    assert space.dim == 512


class StandInClap(nn.Module):
    """Answers as laion_clap 1.1.7's CLAP_Module is documented to."""

    def __init__(self, enable_fusion=False, device=None, amodel="HTSAT-tiny", tmodel="roberta"):
        super().__init__()
        self.asked_for = (enable_fusion, amodel)
        self.tokenize = None
        self.model = nn.Module()
        self.model.audio_branch = nn.Module()
        self.model.audio_branch.patch_embed = nn.Module()
        self.model.audio_branch.patch_embed.proj = nn.Conv2d(1, 96, 4, bias=False)
        self.model.logit_scale_a = nn.Parameter(torch.zeros(()))

    def get_audio_embedding_from_data(self, x, use_tensor=False):
        assert not use_tensor
        assert x.shape[1] == 480_000
        self.heard = x
        return np.ones((len(x), 512), np.float32)


def test_laion_clap_gets_exactly_its_weights_and_whole_windows(laion_file, monkeypatch):
    package = types.ModuleType("laion_clap")
    package.CLAP_Module = StandInClap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "laion_clap", package)
    encoder = ClapEncoder.from_pretrained(f"laion_clap:{laion_file}")
    module: Any = encoder.backend.module
    assert module.asked_for == (False, "HTSAT-tiny")
    expected = torch.load(laion_file, weights_only=False)["state_dict"]
    assert torch.equal(
        module.model.audio_branch.patch_embed.proj.weight,
        expected["module.audio_branch.patch_embed.proj.weight"],
    )
    sound = noise(4, rate=48_000)
    embeds = encoder.encode_audio([(sound, 48_000), (noise(25, rate=48_000), 48_000)])
    assert torch.allclose(embeds.norm(dim=1), torch.ones(2))
    assert np.array_equal(module.heard[0, :384_000], np.tile(sound, 2))
    assert not module.heard[0, 384_000:].any()
    assert len(module.heard) == 4
    with pytest.raises(UserError, match="keep its file"):
        encoder.save_pretrained(laion_file.parent / "saved")
    weights = {"audio_branch.patch_embed.proj.weight": torch.zeros(96, 1, 4, 4)}
    torch.save(weights, laion_file)
    with pytest.raises(CheckpointError, match="missing logit_scale_a"):
        ClapEncoder.from_pretrained(f"laion_clap:{laion_file}")


@pytest.mark.parametrize("seconds", [0.3, 0.8, 2.5])
def test_waveforms_are_encoded_as_audio_is_and_have_gradients(seconds, musicldm_folder):
    for name in ("demo", musicldm_folder):
        clap = ClapEncoder.from_pretrained(name)
        rate = clap.backend.sampling_rate
        generator = np.random.default_rng(0)
        rows = generator.uniform(-0.5, 0.5, (2, round(seconds * rate))).astype(np.float32)
        rows[1] *= np.linspace(0, 1, rows.shape[1])
        waveforms = torch.from_numpy(rows).requires_grad_()
        found = clap.encode_waveforms(waveforms, rate)
        expected = clap.encode_audio([(row, rate) for row in rows])
        assert torch.allclose(found, expected, atol=1e-3)
        (slope,) = torch.autograd.grad(found[:, 0].sum(), waveforms)
        assert slope.isfinite().all()
        assert (slope.abs().amax(1) > 0).all()


def test_waveforms_of_another_rate_are_resampled():
    clap = ClapEncoder.from_pretrained("demo")
    times = np.arange(2 * 48_000) / 48_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    found = clap.encode_waveforms(torch.from_numpy(tone)[None], 48_000)
    expected = clap.encode_audio([(tone, 48_000)])
    assert torch.nn.functional.cosine_similarity(found, expected).item() > 0.99
    with pytest.raises(UserError, match="Expected waveforms of shape"):
        clap.encode_waveforms(torch.zeros(3), 48_000)
