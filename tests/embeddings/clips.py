"""Small CLIPs of transformers on disk, and images of many sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

SIZE = 32
TEXTS = ["a dog", "rain on a tin roof", "a", "x" * 200, "", "a dog that barks at the rain"]
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def photographs(count: int) -> list[Image.Image]:
    """Pictures of as many sizes, some upright, some lying."""
    random = np.random.default_rng(0)
    sizes = [(40 + 7 * i, 60 - 3 * i) for i in range(count)]
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def unit(outputs: Any) -> torch.Tensor:
    """What a model of transformers embedded, scaled to norm 1."""
    return F.normalize(outputs.pooler_output, dim=-1)


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with letters for its vocabulary."""
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def write_clip(folder: Path, *, seed: int = 0, **processor: Any) -> None:
    """Write a whole CLIP, like openai/clip-vit-base-patch32 in all but size."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    text = {**TOWER, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {**TOWER, "image_size": SIZE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    CLIPImageProcessorPil(**sizes, **processor).save_pretrained(folder)


def copy_of(folder: Path, target: Path, **replaced) -> Path:
    """Copy a checkpoint, with some of its files replaced (None leaves one out)."""
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name not in replaced:
            (target / file.name).write_bytes(file.read_bytes())
    return target
