"""CLAPs of the laion_clap package, which needs an environment of its own (it wants numpy<2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import CheckpointError, MissingExtraError, UserError, one_line
from clip2clap.embeddings.backends.base import Backend, Inputs, Recipe
from clip2clap.embeddings.checkpoint import (
    Checkpoint,
    refuse_misfits,
)
from clip2clap.embeddings.fingerprint import load_legacy_weights
from clip2clap.embeddings.space import Family, Modality

_HTSAT = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}
_TEXT_LENGTH = 77


class LaionClapRecipe(Recipe):
    """A file of laion_clap's weights."""

    dim = 512

    def __init__(self, checkpoint: Checkpoint, family: Family):
        super().__init__(checkpoint)

    def describe(self) -> dict[str, Any]:
        """Give the preprocessing that changes a vector: it is the package's, always the same."""
        return {"type": "laion_clap"}

    def build(self, dtype: torch.dtype) -> "LaionClapBackend":
        """Build the model with exactly the weights of the checkpoint."""
        module = _import_laion_clap(self.checkpoint.name)
        weights = {
            key.removeprefix("module."): value
            for key, value in load_legacy_weights(self.checkpoint.weights[0]).items()
        }
        patches = weights.get("audio_branch.patch_embed.proj.weight")
        if patches is None or patches.shape[0] not in _HTSAT:
            raise CheckpointError(
                f"{self.checkpoint.name} holds no HTSAT audio tower of laion_clap. Give one of "
                "the checkpoints of https://huggingface.co/lukewys/laion_clap."
            )
        clap = module.CLAP_Module(
            enable_fusion=any("fusion_model" in key for key in weights),
            device="cpu",
            amodel=_HTSAT[patches.shape[0]],
        )
        report = clap.model.load_state_dict(weights, strict=False)
        refuse_misfits(
            self.checkpoint,
            "CLAP_Module",
            missing=report.missing_keys,
            extra=report.unexpected_keys,
        )
        return LaionClapBackend(clap.to(dtype))


def _import_laion_clap(name: str) -> Any:
    try:
        import laion_clap  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            f"{name!r} needs laion_clap: pip install 'clip2clap[laion-clap]' in an environment of "
            f"its own, as it wants numpy<2 ({one_line(error)})."
        ) from error
    return laion_clap


class LaionClapBackend(Backend):
    """A model of laion_clap, given windows that fit, so that it draws no random crop."""

    def __init__(self, module: Any):
        super().__init__()
        self.module: Any = module
        self.modalities = ("audio", "text")

    def keep(self, towers: Sequence[Modality]) -> None:
        """Offer the given towers only; laion_clap's model can't be taken apart."""
        self.modalities = tuple(m for m in self.modalities if m in towers)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids, cut to laion_clap's 77."""
        encoded = self.module.tokenize(list(texts), truncation=True, max_length=_TEXT_LENGTH)
        return encoded["input_ids"]

    def pad(self, ids: Sequence[list[int]]) -> Inputs:
        """Make a batch of tokenized texts."""
        padded = self.module.tokenize.pad(
            {"input_ids": list(ids)},
            padding="max_length",
            max_length=_TEXT_LENGTH,
            return_tensors="pt",
        )
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def prepare_audios(self, windows: Sequence[np.ndarray]) -> Inputs:
        """Stack the windows, short ones repeated and then padded as laion_clap itself does."""
        batch = np.zeros((len(windows), self.window), np.float32)
        for row, sound in zip(batch, windows, strict=True):
            repeated = np.tile(sound, self.window // len(sound))
            row[: len(repeated)] = repeated
        return {"waveforms": torch.from_numpy(batch)}

    @property
    def sampling_rate(self) -> int:
        """The rate that the audio tower takes, in Hz."""
        return 48_000

    @property
    def window(self) -> int:
        """Samples that the audio tower takes at once."""
        return 480_000

    def embed(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Run a tower, shape (n, dim), of any norm."""
        if modality == "text":
            return self.module.model.get_text_embedding(inputs)
        sounds = inputs["waveforms"].cpu().numpy()
        return torch.from_numpy(self.module.get_audio_embedding_from_data(x=sounds))

    def save(self, folder: Path) -> None:
        """Refuse: laion_clap has no folder format.

        Raises:
            UserError: Always; the message says what to do instead.
        """
        raise UserError(
            "A laion_clap checkpoint can't be saved as a folder: keep its file and load it as "
            "laion_clap:FILE, or use the same model in transformers' format."
        )
