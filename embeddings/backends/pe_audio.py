"""Audio and text encoders of Perception Encoder Audio-Visual (PE-AV) in transformers' format.

Of a checkpoint with a video encoder, that is not loaded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.embeddings.backends.base import Backend, Inputs
from clip2clap.embeddings.backends.transformers import (
    TransformersBackend,
    load_strictly,
)
from clip2clap.embeddings.space import Modality

# The model has no longest input; embeddings of windows are averaged, as for any CLAP.
_WINDOW_S = 10
_JOINT_TYPE = "pe_audio_video"


def load_pe_audio(spec: Any, dtype: torch.dtype) -> Any:
    """Load the audio and text encoders of a `TransformersSpec` as a `PeAudioBackend`."""
    config, is_joint = spec.config, spec.config.model_type == _JOINT_TYPE
    if is_joint:
        config = config.audio_config
    model = load_strictly(
        spec.checkpoint,
        config,
        dtype,
        is_own=lambda name: not is_joint or name.startswith("audio_model."),
    )
    return PeAudioBackend(model, spec.processors)


class PeAudioBackend(TransformersBackend):
    """`PeAudioModel` with its feature extractor and tokenizer."""

    def keep(self, modalities: Sequence[Modality]) -> None:
        Backend.keep(self, modalities)

    def _encoder(self, modality: Modality) -> Any:
        return {"audio": self._embed_audio, "text": self._embed_text}.get(modality)

    def _embed_audio(self, input_values: Tensor, padding_mask: Tensor) -> Tensor:
        return self.model.get_audio_embeds(input_values, padding_mask)

    def _embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        outputs = self.model.text_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        return self.model.text_audio_head(outputs.hidden_states[-1][:, 0])

    def preprocess_audio(self, windows: Sequence[np.ndarray]) -> Inputs:
        outputs = self.processors["audio"](
            list(windows),
            sampling_rate=self.sampling_rate,
            padding="max_length",
            max_length=self.window,
            return_tensors="pt",
        )
        return {name: outputs[name] for name in ("input_values", "padding_mask")}

    @property
    def window(self) -> int:
        hop = self.processors["audio"].hop_length
        return _WINDOW_S * self.sampling_rate // hop * hop
