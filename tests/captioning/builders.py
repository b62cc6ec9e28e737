"""A tiny language model, captioners and captions with embeddings."""

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from clip2clap.captioning.captioner import Captioner
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.embeddings.space import EmbeddingSpace

WORDS = ["dog", "cat", "sea", "rain", "train", "barks", "sleeps", "roars", "falls", "passes", "a"]
SPACE = EmbeddingSpace("clap", "some/clap", "text", 8, True, "c1a9")
WIDTH = 16


def tokenizer() -> Any:
    vocabulary = {word: number for number, word in enumerate(["[end]", "[unk]", *WORDS])}
    made = Tokenizer(WordLevel(vocabulary, unk_token="[unk]"))
    made.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[end]", unk_token="[unk]")


def language_model(width: int = WIDTH) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS) + 2,
        n_positions=32,
        n_embd=width,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.4,
    )
    return GPT2LMHeadModel(config).eval()


def captioner(**options: Any) -> Captioner:
    torch.manual_seed(1)
    mapper = PrefixMapper(8, WIDTH, 2, modalities=("text", "audio"), **options)
    return Captioner(mapper, language_model(), tokenizer(), space=SPACE).eval()


def learnable(n: int = 160, *, shuffled: bool = False) -> tuple[Tensor, list[str]]:
    """Embeddings near one of five directions, with the direction's caption, or another's."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(5, (n,), generator=generator)
    embeds = torch.eye(5, 8)[kinds] + 0.1 * torch.randn(n, 8, generator=generator)
    if shuffled:
        kinds = kinds[torch.randperm(n, generator=generator)]
    return embeds, [f"a {WORDS[kind]} {WORDS[5 + kind]}" for kind in kinds.tolist()]
