"""CLAP models of the laion_clap package, which needs a separate environment (numpy<2)."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import CheckpointError, MissingExtraError, UserError, one_line
from clip2clap.embeddings.backends.base import Backend, CheckpointSpec, Inputs, TextProcessor
from clip2clap.embeddings.fingerprint import load_legacy_weights
from clip2clap.embeddings.space import Modality
from clip2clap.embeddings.weights import check_weights

_HTSAT = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}


class LaionClapSpec(CheckpointSpec):
    """Weight file of laion_clap."""

    dim = 512

    def describe(self) -> dict[str, Any]:
        return {"type": "laion_clap"}

    def build(self, dtype: torch.dtype) -> "LaionClapBackend":
        try:
            laion_clap: Any = importlib.import_module("laion_clap")
        except ImportError as error:
            raise MissingExtraError(
                f"{self.checkpoint.name!r} needs laion_clap: pip install 'clip2clap[laion-clap]' "
                f"in a separate environment, as it requires numpy<2 ({one_line(error)})."
            ) from error
        weights = {
            key.removeprefix("module."): value
            for key, value in load_legacy_weights(self.checkpoint.weights[0]).items()
        }
        patches = weights.get("audio_branch.patch_embed.proj.weight")
        if patches is None or patches.shape[0] not in _HTSAT:
            raise CheckpointError(
                f"{self.checkpoint.name} holds no HTSAT audio encoder of laion_clap. Use one of "
                "the checkpoints of https://huggingface.co/lukewys/laion_clap."
            )
        clap = laion_clap.CLAP_Module(
            enable_fusion=any("fusion_model" in key for key in weights),
            device="cpu",
            amodel=_HTSAT[patches.shape[0]],
        )
        report = clap.model.load_state_dict(weights, strict=False)
        check_weights(
            f"{self.checkpoint.name} (CLAP_Module)",
            missing=report.missing_keys,
            unexpected=report.unexpected_keys,
        )
        return LaionClapBackend(clap.to(dtype))


class LaionClapBackend(Backend):
    """Model of laion_clap; its windows fit, so that it never crops at random."""

    def __init__(self, module: Any):
        super().__init__()
        self.module: Any = module
        self.modalities = ("audio", "text")
        self.text_processor = TextProcessor(module.tokenize, 77, "max_length")

    def preprocess_audio(self, windows: Sequence[np.ndarray]) -> Inputs:
        # Short windows are repeated, then padded, as laion_clap does.
        batch = np.zeros((len(windows), self.window), np.float32)
        for row, waveform in zip(batch, windows, strict=True):
            repeated = np.tile(waveform, self.window // len(waveform))
            row[: len(repeated)] = repeated
        return {"waveforms": torch.from_numpy(batch)}

    @property
    def sampling_rate(self) -> int:
        return 48_000

    @property
    def window(self) -> int:
        return 480_000

    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        if modality == "text":
            return self.module.model.get_text_embedding(inputs)
        waveforms = inputs["waveforms"].cpu().numpy()
        return torch.from_numpy(self.module.get_audio_embedding_from_data(x=waveforms))

    def save(self, folder: Path) -> None:
        raise UserError(
            "A laion_clap checkpoint cannot be saved as a folder: keep its file and load it as "
            "laion_clap:FILE, or use the same model in transformers' format."
        )
