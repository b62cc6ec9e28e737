"""AudioCLIP's released checkpoints: a CLIP with a third encoder, of audio, in one space.

As a CLIP it encodes images and texts, as a CLAP audio and texts. Its image and text encoders are
open_clip's.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.embeddings.backends.base import CheckpointSpec, Inputs
from clip2clap.embeddings.backends.open_clip import PREPROCESSING, OpenClipBackend
from clip2clap.embeddings.checkpoint import Checkpoint, import_open_clip
from clip2clap.embeddings.fingerprint import describe_tokenizer, load_legacy_weights
from clip2clap.embeddings.space import Family, Modality
from clip2clap.embeddings.weights import check_weights
from clip2clap.models.esresnext import ESResNeXt

SAMPLING_RATE, WINDOW = 44_100, 220_500
"""Input of the audio encoder: 5 s, as in the published protocol on ESC-50."""

_MODALITIES: dict[Family, tuple[Modality, ...]] = {
    "clip": ("image", "text"),
    "clap": ("audio", "text"),
}
# Logit scales of the model by what it is loaded as; published inference bounds them.
_SCALES = {"clip": "logit_scale", "clap": "logit_scale_at"}
_LARGEST_SCALE = math.log(100)
# Numbers that OpenAI's files keep beside the weights.
_NUMBERS = ("input_resolution", "context_length", "vocab_size")


class AudioClipSpec(CheckpointSpec):
    """Weight file of AudioCLIP, whose shapes give the sizes of the networks."""

    def __init__(self, checkpoint: Checkpoint, family: Family):
        super().__init__(checkpoint, family)
        self.open_clip: Any = import_open_clip(checkpoint.name)
        file = checkpoint.weights[0]
        is_safe = file.suffix == ".safetensors"
        loaded = load_file(file) if is_safe else load_legacy_weights(file)
        # The published transform has an empty bias.
        self.weights = {
            name: value for name, value in loaded.items() if name not in _NUMBERS and value.numel()
        }
        try:
            self.config = {"model_cfg": _read_sizes(self.weights)}
            self.audio = _audio_encoder(self.weights)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.name} is no AudioCLIP with a ResNet image encoder: "
                f"{one_line(error)}. Use a checkpoint of "
                "https://github.com/AndreyGuzhov/AudioCLIP/releases."
            ) from error
        model = self.config["model_cfg"]
        self.dim = model["embed_dim"]
        length = model["text_cfg"]["context_length"]
        self.tokenizer = self.open_clip.SimpleTokenizer(context_length=length)

    def describe(self) -> dict[str, Any]:
        # The same for both families, which share one space.
        return {
            "type": "audioclip",
            "image": PREPROCESSING,
            "audio": {"sampling_rate": SAMPLING_RATE, "window": WINDOW},
            "text": describe_tokenizer(lambda texts: self.tokenizer(texts).tolist()),
        }

    def build(self, dtype: torch.dtype) -> "AudioClipBackend":
        clip = self.open_clip.CLIP(**self.config["model_cfg"], quick_gelu=True)
        clip.logit_scale = nn.Parameter(torch.empty(()))
        towers = nn.Module()
        towers.audio, towers.clip = self.audio, clip
        own = {name for name in self.weights if name.startswith("logit_scale")}
        weights = {
            name if name.startswith("audio.") else f"clip.{name}": value
            for name, value in self.weights.items()
            if name not in own - {"logit_scale"}
        }
        report = towers.load_state_dict(weights, strict=False)
        check_weights(
            f"{self.checkpoint.name} (AudioCLIP)",
            missing=report.missing_keys,
            unexpected=report.unexpected_keys,
            remedy="Fetch the checkpoint again.",
        )
        scale = self.weights[_SCALES[self.family]].clamp(0, _LARGEST_SCALE)
        return AudioClipBackend(towers.to(dtype), scale.to(dtype), self)


class AudioClipBackend(OpenClipBackend):
    """AudioCLIP as a CLIP, or as a CLAP."""

    def __init__(self, towers: Any, scale: Tensor, spec: AudioClipSpec):
        transform = spec.open_clip.image_transform(
            spec.config["model_cfg"]["vision_cfg"]["image_size"],
            is_train=False,
            mean=PREPROCESSING["mean"],
            std=PREPROCESSING["std"],
            interpolation=PREPROCESSING["interpolation"],
            resize_mode=PREPROCESSING["resize_mode"],
        )
        super().__init__(towers.clip, transform, spec)
        self.audio: Any = towers.audio
        self.modalities = _MODALITIES[spec.family]
        # Found before the CLIP's own, which is of images and texts.
        self.logit_scale = nn.Parameter(scale)

    def keep(self, modalities: Sequence[Modality]) -> None:
        super().keep(modalities)
        if "audio" not in self.modalities:
            self.audio = None
        if "image" not in self.modalities:
            self.model.visual = None

    def preprocess_audio(self, windows: Sequence[np.ndarray]) -> Inputs:
        # Shorter audio is put in the middle, and its first and last values continued.
        batch = np.empty((len(windows), WINDOW), np.float32)
        for row, waveform in zip(batch, windows, strict=True):
            missing = WINDOW - len(waveform)
            left = round(0.5 * missing)
            row[:] = np.pad(waveform, (left, missing - left), mode="edge")
        return {"waveforms": torch.from_numpy(batch)}

    @property
    def sampling_rate(self) -> int:
        return SAMPLING_RATE

    @property
    def window(self) -> int:
        return WINDOW

    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        if modality == "audio":
            return self.audio(inputs["waveforms"])
        return super().encode(modality, inputs)

    def save(self, folder: Path) -> None:
        raise UserError(
            "An AudioCLIP cannot be saved as a folder: keep its file and load it as audioclip:FILE."
        )


def _audio_encoder(weights: dict[str, Tensor]) -> ESResNeXt:
    prefix = "audio."
    return ESResNeXt.of(
        {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    )


def _read_sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return open_clip's config of a CLIP with a ResNet, from the shapes of its weights."""

    def blocks(prefix: str) -> int:
        inside = {name for name in weights if name.startswith(prefix)}
        return len({name.removeprefix(prefix).split(".")[0] for name in inside})

    text_width, dim = weights["text_projection"].shape
    width = len(weights["visual.layer1.0.conv1.weight"])
    places = len(weights["visual.attnpool.positional_embedding"]) - 1
    return {
        "embed_dim": dim,
        "vision_cfg": {
            "image_size": 32 * math.isqrt(places),
            "layers": tuple(blocks(f"visual.layer{stage}.") for stage in range(1, 5)),
            "width": width,
            "patch_size": None,
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": len(weights["positional_embedding"]),
            "vocab_size": len(weights["token_embedding.weight"]),
            "width": text_width,
            "heads": text_width // 64,
            "layers": blocks("transformer.resblocks."),
        },
    }
