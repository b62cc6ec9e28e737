"""Full-size encoders with random weights, and synthetic captions and images.

The sizes are those of the published configurations. The tokenizers are trained on the captions, so
that token counts are like the real ones'.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    RobertaTokenizer,
)

_ALPHABET = sorted(ByteLevel.alphabet())


def made_up_captions(count: int) -> list[str]:
    """Return captions as long as AudioCaps': 8.7 words on average, one in twenty over 17."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(random.choice(letters, random.integers(2, 9))) for _ in range(2000)]
    lengths = np.maximum(2, random.gamma(4.2, 2.07, count).round()).astype(int)
    return [" ".join(random.choice(words, length)) for length in lengths]


def photographs(count: int) -> list[Image.Image]:
    """Return smooth images with fine grain, alternately 500 x 375 and 375 x 500."""
    random = np.random.default_rng(0)
    pictures = []
    for index in range(count):
        size = (500, 375) if index % 2 else (375, 500)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        grain = random.integers(-8, 9, smooth.shape)
        pictures.append(Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)))
    return pictures


def write_clip(folder: Path, captions: Sequence[str], *, tiny: bool = False) -> None:
    """Write a CLIP ViT-B/32, or a tiny one to test a benchmark with."""
    vocabulary, merges = _learn(captions, end_of_word="</w>")
    for word in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[word] = len(vocabulary)
    tokenizer: Any = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes = {**sizes, "num_attention_heads": 2} if tiny else {}
    text = CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=CLIPVisionConfig(**sizes).to_dict()
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


def write_clap(folder: Path, captions: Sequence[str], *, tiny: bool = False) -> None:
    """Write a CLAP of HTSAT-tiny and RoBERTa-base like laion/clap-htsat-unfused, or a tiny one."""
    learned, merges = _learn(captions)
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {word: place + 4 for word, place in learned.items()}
    vocabulary["<mask>"] = len(vocabulary)
    tokenizer = RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=512)
    text: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text = {**text, "num_attention_heads": 2} if tiny else {}
    audio: dict[str, Any] = {"depths": [1, 1, 1, 1]} if tiny else {}
    torch.manual_seed(0)
    config = ClapConfig(
        text_config=ClapTextConfig(projection_dim=512, **text).to_dict(),
        audio_config=ClapAudioConfig(projection_dim=512, **audio).to_dict(),
        projection_dim=512,
    )
    ClapModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)


def _learn(captions: Sequence[str], end_of_word: str | None = None) -> tuple[dict[str, int], Any]:
    """Train a byte pair encoding; returns its vocabulary and merges."""
    tokenizer: Any = Tokenizer(BPE())
    tokenizer.pre_tokenizer = (
        ByteLevel(add_prefix_space=False) if end_of_word is None else WhitespaceSplit()
    )
    trainer = BpeTrainer(
        vocab_size=20_000,
        initial_alphabet=_ALPHABET,
        end_of_word_suffix=end_of_word or "",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]
