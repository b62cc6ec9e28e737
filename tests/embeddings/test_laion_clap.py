"""The real laion_clap package, in an environment of its own: numpy below 2, -m slow."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from clip2clap import ClapEncoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("laion_clap") is None, reason="needs clip2clap[laion-clap]"
    ),
]

TEXT = {
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 256,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
# Names of laion_clap's modules and of transformers', in the order of replacement.
RENAMED = {
    "text_branch": "text_model",
    "audio_branch": "audio_model.audio_encoder",
    "attn": "attention.self",
    "self.proj": "output.dense",
    "attention.self_mask": "attn_mask",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "bn0": "batch_norm",
}


@pytest.fixture
def vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lay out a hub cache with the tokenizers and the text model that laion_clap fetches."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    letters = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    vocabulary = json.dumps({letter: place for place, letter in enumerate(letters)})
    commit = "0" * 40
    for name, kind in (
        ("roberta-base", "roberta"),
        ("facebook/bart-base", "bart"),
        ("bert-base-uncased", "bert"),
    ):
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        if kind == "roberta":
            RobertaModel(RobertaConfig(vocab_size=len(letters), **TEXT)).save_pretrained(snapshot)
        else:
            (snapshot / "config.json").write_text(json.dumps({"model_type": kind}))
        (snapshot / "vocab.json").write_text(vocabulary)
        (snapshot / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
        (snapshot / "merges.txt").write_text("#version: 0.2\n")
    return len(letters)


def renamed(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights under transformers' names."""
    for key, value in weights.items():
        for old, new in RENAMED.items():
            key = key.replace(old, new)
        key = re.sub(r"sequential\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 3}.linear.", key)
        key = re.sub(
            r"_projection\.(\d)\.", lambda m: f"_projection.linear{int(m[1]) // 2 + 1}.", key
        )
        if "audio" in key and "qkv" in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                yield key.replace("qkv", name), part
        else:
            yield key, value


def test_laion_clap_embeds_as_transformers_does_with_the_same_weights(vocabulary, tmp_path):
    torch.manual_seed(0)
    import laion_clap  # pyright: ignore[reportMissingImports]

    module: Any = laion_clap.CLAP_Module(enable_fusion=False, device="cpu", amodel="HTSAT-tiny")
    weights = module.model.state_dict()
    file = tmp_path / "laion.pt"
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, file)
    model = ClapModel(
        ClapConfig(text_config={"vocab_size": vocabulary, **TEXT}, projection_dim=512)
    )
    report = model.load_state_dict(dict(renamed(weights)), strict=False)
    assert {key.rpartition(".")[2] for key in report.missing_keys} <= {
        "position_ids",
        "token_type_ids",
    }
    folder = tmp_path / "clap"
    model.save_pretrained(folder)
    ClapFeatureExtractor(
        truncation="rand_trunc", padding="repeatpad", frequency_min=50
    ).save_pretrained(folder)
    RobertaTokenizer.from_pretrained("roberta-base").save_pretrained(folder)

    one, other = (
        ClapEncoder.from_pretrained(f"laion_clap:{file}"),
        ClapEncoder.from_pretrained(folder),
    )
    texts = ["a dog barks", "rain falls on a roof"]
    torch.testing.assert_close(one.encode_text(texts), other.encode_text(texts), atol=1e-4, rtol=0)
    noise = np.random.default_rng(0)
    audio = [
        (0.1 * noise.standard_normal(int(48_000 * s), np.float32), 48_000) for s in (3, 10, 12)
    ]
    torch.testing.assert_close(
        one.encode_audio(audio), other.encode_audio(audio), atol=1e-4, rtol=0
    )
