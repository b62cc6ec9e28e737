"""Mapper from an embedding to the prefix of a language model's input."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from clip2clap.core.errors import expect, is_integer, is_number
from clip2clap.core.math import recall

MapperArchitecture = Literal["linear", "mlp", "transformer"]

_LARGEST = 2**16


class PrefixMapper(nn.Module):
    """Mapper from one embedding to a prefix of input embeddings of a causal language model.

    ClipCap (Mokady et al. 2021, https://arxiv.org/abs/2111.09734). The embedding is normalized,
    shifted by the mean of its modality (C3, Zhang et al. 2024, https://arxiv.org/abs/2401.08567),
    and scaled by the square root of its length, since the values of a unit vector are tiny.

    Args:
        source_dim: Length of the embeddings.
        target_dim: Length of the language model's input embeddings.
        prefix_length: Number of input embeddings.
        architecture: `"linear"`; `"mlp"`, one hidden layer with tanh; or `"transformer"`, which
            attends among the projected embedding and learned queries.
        hidden_size: Width of the hidden layer of an `mlp`.
        layers: Layers of a `transformer`, of eight heads.
        modalities: Modalities whose means are subtracted; another one is shifted by the first.
        memory: Embeddings that those of one modality are pulled towards before: `modality`, `count`
            of them, and `beta` and `mix` as in `clip2clap.core.math.recall`; none if None.
        common: Directions in which embeddings of one modality vary the most, which `distinct`
            shrinks: `modality` and `count` of them; none if None.

    Raises:
        UserError: If a size is not a positive whole number, or `target_dim` of a transformer no
            multiple of 8.

    Examples:
        >>> import torch
        >>> from clip2clap.captioning import PrefixMapper
        >>> PrefixMapper(512, 64, prefix_length=4)(torch.randn(3, 512)).shape
        torch.Size([3, 4, 64])
    """

    memory: Tensor
    common: Tensor

    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 768,
        prefix_length: int = 10,
        architecture: MapperArchitecture = "mlp",
        hidden_size: int = 512,
        layers: int = 4,
        modalities: tuple[str, ...] | list[str] = (),
        memory: Mapping[str, Any] | None = None,
        common: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        known = get_args(MapperArchitecture)
        expect(architecture in known, "architecture", f"one of {', '.join(known)}", architecture)
        sizes = {"source_dim": source_dim, "target_dim": target_dim, "layers": layers}
        sizes |= {"prefix_length": prefix_length, "hidden_size": hidden_size}
        for name, value in sizes.items():
            is_size = is_integer(value) and 1 <= value <= _LARGEST
            expect(is_size, name, f"a positive whole number up to {_LARGEST:,}", value)
        self.config: dict[str, Any] = {**sizes, "architecture": architecture}
        self.config["modalities"] = list(modalities)
        self.source_dim, self.target_dim, self.prefix_length = source_dim, target_dim, prefix_length
        for modality in modalities:
            self.register_buffer(f"mean_{modality}", torch.zeros(source_dim))
        self.config["memory"] = None if memory is None else _checked_memory(memory)
        if memory is not None:
            self.register_buffer("memory", torch.zeros(memory["count"], source_dim))
        self.config["common"] = None if common is None else _checked_common(common)
        if common is not None:
            self.register_buffer("common", torch.zeros(common["count"], source_dim))
        outputs = prefix_length * target_dim
        if architecture == "mlp":
            hidden, last = nn.Linear(source_dim, hidden_size), nn.Linear(hidden_size, outputs)
            self.layers: nn.Module = nn.Sequential(hidden, nn.Tanh(), last)
        else:
            self.layers = nn.Linear(source_dim, outputs)
        self.transformer = self.queries = None
        if architecture == "transformer":
            expect(target_dim % 8 == 0, "target_dim", "a multiple of 8", target_dim)
            layer = nn.TransformerEncoderLayer(
                target_dim, 8, 2 * target_dim, dropout=0.0, batch_first=True, norm_first=True
            )
            self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.queries = nn.Parameter(0.02 * torch.randn(prefix_length, target_dim))

    def forward(self, embeds: Tensor, modality: str | None = None) -> Tensor:
        """Map embeddings, shape (n, source_dim), to prefixes (n, prefix_length, target_dim)."""
        units = nn.functional.normalize(embeds.float(), dim=-1)
        memory = self.config["memory"]
        if memory is not None and modality == memory["modality"]:
            units = recall(units, self.memory, beta=memory["beta"], mix=memory["mix"])
        centered = units - self.mean(modality)
        scaled = (math.sqrt(self.source_dim) * centered).to(self.dtype)
        prefix = self.layers(scaled).view(-1, self.prefix_length, self.target_dim)
        if self.transformer is None or self.queries is None:
            return prefix
        queries = self.queries.expand(len(prefix), -1, -1)
        mixed = self.transformer(torch.cat([prefix, queries], dim=1))
        return mixed[:, self.prefix_length :]

    def mean(self, modality: str | None) -> Tensor | float:
        """Return the mean that embeddings of a modality are shifted by."""
        known = self.config["modalities"]
        if not known:
            return 0.0
        return getattr(self, f"mean_{modality if modality in known else known[0]}").float()

    def distinct(self, embeds: Tensor, modality: str | None = None) -> Tensor:
        """Return unit vectors (n, source_dim) that tell apart embeddings of similar content.

        Their modality's mean and most of what is in the `common` directions are taken away, as in
        Mu and Viswanath 2018 (https://arxiv.org/abs/1702.01417); without such directions the
        embeddings are only normalized.
        """
        units = nn.functional.normalize(embeds.float(), dim=-1)
        if self.config["common"] is None or modality != self.config["common"]["modality"]:
            return units
        centered, common = units - self.mean(modality), self.common.float()
        return nn.functional.normalize(centered - centered @ common.T @ common, dim=-1)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype


def _checked_memory(memory: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a memory as plain values."""
    _check_buffer("memory", memory, {"modality", "count", "beta", "mix"})
    is_rate = is_number(memory["beta"]) and memory["beta"] > 0
    expect(is_rate, "beta", "above 0", memory["beta"])
    is_share = is_number(memory["mix"]) and 0 <= memory["mix"] <= 1
    expect(is_share, "mix", "from 0 to 1", memory["mix"])
    return dict(memory)


def _checked_common(common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of common directions as plain values."""
    _check_buffer("common", common, {"modality", "count"})
    return dict(common)


def _check_buffer(param: str, settings: Mapping[str, Any], names: set[str]) -> None:
    expect(set(settings) == names, param, f"with {', '.join(sorted(names))}", sorted(settings))
    is_size = is_integer(settings["count"]) and 1 <= settings["count"] <= _LARGEST
    expect(is_size, "count", f"a positive whole number up to {_LARGEST:,}", settings["count"])
