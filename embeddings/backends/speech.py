"""Speech encoders: a `SpeechModel` with the feature extractor of its backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor

from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.core.hub import quiet
from clip2clap.embeddings.backends.base import Backend, CheckpointSpec, Inputs
from clip2clap.embeddings.backends.transformers import load_strictly
from clip2clap.embeddings.checkpoint import Checkpoint, read_json
from clip2clap.embeddings.fingerprint import describe_processor, digest, fingerprint_tensors
from clip2clap.embeddings.space import EmbeddingSpace, Modality
from clip2clap.models.speech import SpeechConfig, SpeechModel


class SpeechSpec(CheckpointSpec):
    """Folder of a speech encoder, as `SpeechEncoder.save_pretrained` writes it."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint, "clip")
        assert checkpoint.folder is not None
        self.config = _read_config(checkpoint.folder, checkpoint.name)
        self.dim = self.config.projection_dim
        self._space = space_of(self.config, checkpoint.name)
        try:
            self.extractor = AutoFeatureExtractor.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise CheckpointError(
                f"The preprocessing files in {checkpoint.folder} cannot be loaded: "
                f"{one_line(error)}"
            ) from error

    def describe(self) -> dict[str, Any]:
        return _describe(self.config, self.extractor)

    def build(self, dtype: torch.dtype) -> "SpeechBackend":
        model = load_strictly(self.checkpoint, self.config, dtype)
        fingerprint = digest([self.weights_fingerprint, self.describe()])
        return SpeechBackend(model, self.extractor, fingerprint)

    def space(self, modality: Modality) -> EmbeddingSpace:
        """Return the CLIP's space that the encoder was distilled into."""
        return self._space.in_modality(modality)


def _read_config(folder: Path, name: str) -> SpeechConfig:
    file = folder / "config.json"
    model_type = read_json(file).get("model_type")
    if model_type != SpeechConfig.model_type:
        raise CheckpointError(
            f"{name} ({model_type}) is no speech encoder: expected a folder written by "
            "`clip2clap train-speech`."
        )
    try:
        config: Any = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read: {one_line(error)}") from error
    return config


def space_of(config: SpeechConfig, name: str) -> EmbeddingSpace:
    """Return the space in a config, of which a `CheckpointError` names the encoder's fault."""
    try:
        space = EmbeddingSpace.from_dict(config.space or {})
    except (UserError, TypeError, AttributeError) as error:
        raise CheckpointError(f"The space in the config of {name}: {one_line(error)}") from error
    if (space.family, space.dim) != ("clip", config.projection_dim):
        raise CheckpointError(
            f"The config of {name} has the space {space}, and embeddings of "
            f"{config.projection_dim} values: expected a CLIP's space of that dimension."
        )
    return space


def _describe(config: SpeechConfig, extractor: Any) -> dict[str, Any]:
    return {
        "audio": describe_processor(extractor),
        "window": config.window,
        "speeds": config.speeds,
        "space": (config.space or {}).get("fingerprint"),
    }


class SpeechBackend(Backend):
    """Speech model and feature extractor of its backbone."""

    modalities = ("audio",)

    def __init__(self, model: Any, extractor: Any, fingerprint: str | None = None):
        super().__init__()
        self.model: Any = model
        self.extractor = extractor
        self._fingerprint = fingerprint

    @property
    def config(self) -> SpeechConfig:
        """Config of the model."""
        return self.model.config

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the speech encoder's own weights and preprocessing."""
        if self._fingerprint is None:
            weights = fingerprint_tensors(self.model.state_dict().values())
            self._fingerprint = digest([weights, _describe(self.config, self.extractor)])
        return self._fingerprint

    @property
    def sampling_rate(self) -> int:
        return self.config.sampling_rate

    @property
    def window(self) -> int:
        return self.config.window

    def preprocess_audio(self, windows: Sequence[np.ndarray]) -> Inputs:
        options: dict[str, Any] = {}
        if "input_values" in self.extractor.model_input_names and not hasattr(
            self.extractor, "num_mel_bins"
        ):
            # Waveforms: padded to the window, so that no batch changes an embedding, and
            # normalized by the mean and variance of the audio without the padding.
            options = {"padding": "max_length", "max_length": self.window, "truncation": True}
            options["return_attention_mask"] = True
        outputs = self.extractor(
            list(windows), sampling_rate=self.sampling_rate, return_tensors="pt", **options
        )
        lengths = [min(len(window), self.window) for window in windows]
        inputs = outputs[self.extractor.model_input_names[0]]
        return {"inputs": inputs.float(), "lengths": torch.tensor(lengths)}

    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        return self.model(**inputs).pooler_output

    def save(self, folder: Path) -> None:
        with quiet():
            self.model.save_pretrained(folder)
            self.extractor.save_pretrained(folder)


def check_sizes(model: SpeechModel, extractor: Any) -> None:
    """Raise a `UserError` unless a feature extractor makes what a model reads."""
    config: Any = model.config
    if extractor.sampling_rate != config.sampling_rate:
        raise UserError(
            f"The feature extractor reads {extractor.sampling_rate} Hz and the model "
            f"{config.sampling_rate} Hz. Give the extractor of its backbone.",
            param="extractor",
        )
    backbone = config.backbone_config
    if backbone.model_type != "whisper":
        return
    made = extractor.nb_max_frames
    # Each frame of the encoder is two of the spectrogram.
    if made != 2 * backbone.max_source_positions or extractor.n_samples != config.window:
        raise UserError(
            f"The feature extractor makes {made} frames of {extractor.n_samples} samples; a model "
            f"of {backbone.max_source_positions} positions and windows of {config.window_s:g} s "
            f"reads {2 * backbone.max_source_positions} of {config.window}. Set chunk_length and "
            "max_source_positions to the window.",
            param="window_s",
        )
