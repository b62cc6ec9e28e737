"""PE-AV's audio and text encoders, alone and in a checkpoint with video, with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    BertTokenizer,
    PeAudioConfig,
    PeAudioFeatureExtractor,
    PeAudioModel,
    PeAudioVideoConfig,
    PeAudioVideoModel,
)

from clip2clap import ClapEncoder, ClipEncoder
from clip2clap.core.errors import CheckpointError

RATE = 8_000
SIZES = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "rain", "on"]
TEXT = {
    **SIZES,
    "model_type": "modernbert",
    "hidden_size": 24,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
DAC = {
    "model_type": "dac",
    "encoder_hidden_size": 8,
    "codebook_dim": 4,
    "downsampling_ratios": [2, 4, 4, 5],
    "hidden_size": 64,
}
AUDIO = {**SIZES, "hidden_size": 32, "head_dim": 16, "dac_config": DAC}
EXTRACTOR = PeAudioFeatureExtractor(hop_length=160, sampling_rate=RATE)
TOKENIZER = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def unit(embeds: Tensor) -> Tensor:
    return embeds / embeds.norm(dim=-1, keepdim=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    PeAudioModel(PeAudioConfig(text_config=TEXT, audio_config=AUDIO)).save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_audio_and_texts_equal_the_models_own(folder: Path):
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(n).astype(np.float32) for n in (3_000, 80_000)]
    texts = ["a dog", "rain on a dog"]
    inputs = EXTRACTOR(
        waveforms,
        sampling_rate=RATE,
        padding="max_length",
        max_length=80_000,
        return_tensors="pt",
    )
    model = PeAudioModel.from_pretrained(folder).eval()
    expected = model(**TOKENIZER(texts, padding=True, return_tensors="pt"), **inputs)
    encoder = ClapEncoder.from_pretrained(folder)
    assert (encoder.modalities, encoder.space("audio").dim) == (("audio", "text"), 24)
    found = encoder.encode_audio([(waveform, RATE) for waveform in waveforms])
    torch.testing.assert_close(found, unit(expected.audio_embeds), rtol=0, atol=1e-5)
    found = encoder.encode_text(texts)
    torch.testing.assert_close(found, unit(expected.text_audio_embeds), rtol=0, atol=1e-5)


def test_a_saved_encoder_is_the_same(folder: Path, tmp_path: Path):
    encoder = ClapEncoder.from_pretrained(folder)
    encoder.save_pretrained(tmp_path / "saved")
    again = ClapEncoder.from_pretrained(tmp_path / "saved")
    assert again.space("text").same_model_as(encoder.space("text"))
    torch.testing.assert_close(again.encode_text(["rain"]), encoder.encode_text(["rain"]))


def test_it_is_no_clip(folder: Path):
    with pytest.raises(CheckpointError, match="is a CLAP; expected a CLIP"):
        ClipEncoder.from_pretrained(folder)


@torch.no_grad()
def test_of_a_checkpoint_with_video_the_audio_and_text_encoders_are_loaded(tmp_path: Path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "vit_tiny_patch16_224",
        "num_labels": 8,
        "do_pooling": True,
    }
    video = {**SIZES, "hidden_size": 32, "head_dim": 16, "vision_config": vision}
    joint = {**SIZES, "hidden_size": 32, "head_dim": 16, "audio_config": AUDIO}
    config = PeAudioVideoConfig(
        text_config=TEXT, audio_video_config={**joint, "video_config": video}
    )
    model = PeAudioVideoModel(config).eval()
    model.save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    encoder = ClapEncoder.from_pretrained(tmp_path)
    audio = model.audio_model
    waveform = np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    inputs = EXTRACTOR([waveform], sampling_rate=RATE, return_tensors="pt")
    expected = audio(**TOKENIZER(["a dog"], return_tensors="pt"), **inputs)
    found = encoder.encode_audio([(waveform, RATE)])
    torch.testing.assert_close(found, unit(expected.audio_embeds), rtol=0, atol=1e-5)
    found = encoder.encode_text(["a dog"])
    torch.testing.assert_close(found, unit(expected.text_audio_embeds), rtol=0, atol=1e-5)
