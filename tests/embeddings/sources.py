"""Small data sets on disk, and the encoders that embed them."""

import csv
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
CAPTIONS = [
    "A woman talks nearby as water pours",
    'Rustling, ducks quack, and a man says "hello"',
    "It\u2019s raining while a d\u00f6g barks",
    "Rain",
    "Multiple clanging and clanking sounds, then a long silence before a train goes by",
]
WIT_HEADER = [
    *("language", "page_url", "image_url", "page_title", "section_title"),
    *("hierarchical_section_title", "caption_reference_description"),
    *("caption_attribution_description", "caption_alt_text_description", "mime_type"),
    *("original_height", "original_width", "is_main_image", "attribution_passes_lang_id"),
    *("page_changed_recently", "context_page_description", "context_section_description"),
]


def write_clip_with_both_towers(folder: Path, seed: int = 0) -> str:
    """Write a tiny CLIP that sees pictures and reads letters."""
    torch.manual_seed(seed)
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
    }
    text = CLIPTextConfig(vocab_size=len(words), eos_token_id=len(words) - 1, **sizes)
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **sizes)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(folder)
    return str(folder)


def write_audiocaps(path: Path, captions: Sequence[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        writer.writerows([str(900 - n), f"clip{n}", "30", c] for n, c in enumerate(captions))
    return path


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))


def many_captions(count: int) -> list[str]:
    random = Random(1)
    words = ["a", "dog", "barks", "while", "rain", "falls", "on", "an", "old", "train", "station"]
    return [" ".join(random.choices(words, k=random.randint(1, 12))) for _ in range(count)]


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def sound(seed: int, seconds: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal(int(16_000 * seconds)) * 0.1).astype(np.float32)


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first.float(), second.float(), atol=1e-5)
