"""Speech encoder: a speech backbone of transformers and attention pooling into a CLIP's space.

Importing this module registers the classes with transformers' Auto classes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from clip2clap.core.errors import UserError, expect, is_number
from clip2clap.core.math import recall, retrieve

_AST = "audio-spectrogram-transformer"
BACKBONES = (_AST, "wav2vec2", "hubert", "whisper", "moonshine")
"""Model types of transformers that are backbones."""


class SpeechConfig(PreTrainedConfig):
    """Sizes of a `SpeechModel`, and the space that it embeds into.

    Args:
        backbone_config: Configuration of the backbone: AST, wav2vec 2.0, HuBERT, Whisper or
            Moonshine; of the last two the encoder alone is built.
        pooling: `"attention"`, or `"mean"` with SAliCLIP's head.
        pooling_heads: Heads of the attention over frames.
        pooling_size: Width of the pooling's hidden layer.
        projection_dim: Dimension of the embeddings.
        window_s: Length of a window in s, which shorter audio is padded to.
        sampling_rate: Sampling rate of the audio, in Hz.
        memory: `count` of texts' embeddings that embeddings are pulled towards, `beta` and `mix`
            as in `clip2clap.core.math.recall`; none if None. With one, the norm of an embedding is
            the mean similarity of the texts that it is pulled towards: how sure it is.
        speeds: Speeds, with their pitch, of the copies of the audio whose embeddings are averaged.
        calibration: `Calibration` of `SpeechEncoder.fit_probability` as plain values; none if None.
        space: `EmbeddingSpace` of the embeddings as plain values: a CLIP's, of modality `"audio"`.
    """

    model_type = "speech_encoder"

    def __init__(
        self,
        backbone_config: dict[str, Any] | PreTrainedConfig | None = None,
        pooling: str = "attention",
        pooling_heads: int = 4,
        pooling_size: int = 512,
        projection_dim: int = 512,
        window_s: float = 4.0,
        sampling_rate: int = 16_000,
        memory: dict[str, Any] | None = None,
        speeds: Sequence[float] = (1.0,),
        calibration: dict[str, Any] | None = None,
        space: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(backbone_config, PreTrainedConfig):
            backbone_config = _new_config(backbone_config or {"model_type": "whisper"})
        self.backbone_config: Any = backbone_config
        self.pooling = pooling
        self.pooling_heads = pooling_heads
        self.pooling_size = pooling_size
        self.projection_dim = projection_dim
        self.window_s = window_s
        self.sampling_rate = sampling_rate
        self.memory = memory
        are_speeds = len(speeds) > 0 and all(
            is_number(speed) and 0.5 <= speed <= 2 for speed in speeds
        )
        expect(are_speeds, "speeds", "numbers from 0.5 to 2, at least one", speeds)
        self.speeds = list(speeds)
        self.calibration = calibration
        self.space = space
        super().__init__(**kwargs)

    @property
    def window(self) -> int:
        """Length of a window, in samples."""
        return round(self.window_s * self.sampling_rate)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON types."""
        return {**super().to_dict(), "backbone_config": self.backbone_config.to_diff_dict()}


def _new_config(values: dict[str, Any]) -> Any:
    kept = {name: value for name, value in values.items() if name != "model_type"}
    return AutoConfig.for_model(values.get("model_type", ""), **kept)


class AttentionPooling(nn.Module):
    """Weighted means of frames, one for each head, and two layers into the joint space.

    Args:
        width: Width of the frames.
        heads: Number of weighted means.
        hidden_size: Width of the hidden layer.
        dim: Dimension of the embeddings.
    """

    def __init__(self, width: int, heads: int, hidden_size: int, dim: int):
        super().__init__()
        self.scores = nn.Linear(width, heads)
        self.norm = nn.LayerNorm(heads * width)
        self.hidden = nn.Linear(heads * width, hidden_size)
        self.projection = nn.Linear(hidden_size, dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Pool frames (n, frames, width), those where `mask` (n, frames) is True, to (n, dim)."""
        return self.projection(F.gelu(self.hidden(self.means(frames, mask))))

    def means(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return normalized means of frames, shape (n, heads * width)."""
        scores = self.scores(frames).masked_fill(~mask.unsqueeze(-1), -math.inf)
        weights = scores.float().softmax(dim=1).to(frames.dtype)  # (n, frames, heads)
        return self.norm(torch.einsum("nfh,nfw->nhw", weights, frames).flatten(1))


class MeanPooling(nn.Module):
    """Mean of the frames, and SAliCLIP's residual projection.

    Args:
        width: Width of the frames.
        dim: Dimension of the embeddings.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.projection = nn.Linear(width, dim)
        self.hidden = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Pool frames (n, frames, width), those where `mask` (n, frames) is True, to (n, dim)."""
        weights = mask.to(frames.dtype) / mask.sum(1, keepdim=True)
        projected = self.projection(torch.einsum("nf,nfw->nw", weights, frames))
        return self.norm(projected + self.dropout(self.hidden(F.gelu(projected))))


class SpeechModel(PreTrainedModel):
    """Speech backbone and a pooling of the frames that hold audio.

    Examples:
        >>> from transformers import WhisperConfig
        >>> backbone = WhisperConfig(
        ...     d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8,
        ...     max_source_positions=50,
        ... )
        >>> model = SpeechModel(SpeechConfig(backbone, projection_dim=4, window_s=1.0))
        >>> model(torch.zeros(2, 80, 100), torch.tensor([16_000, 800])).pooler_output.shape
        torch.Size([2, 4])
    """

    config_class = SpeechConfig
    base_model_prefix = "speech_encoder"
    main_input_name = "inputs"

    def __init__(self, config: SpeechConfig):
        super().__init__(config)
        self.backbone: Any = _new_backbone(config.backbone_config)
        width, dim = config.backbone_config.hidden_size, config.projection_dim
        self.pooling = (
            AttentionPooling(width, config.pooling_heads, config.pooling_size, dim)
            if config.pooling == "attention"
            else MeanPooling(width, dim)
        )
        if config.memory is not None:
            self.memory = nn.Parameter(torch.zeros(config.memory["count"], dim))
        self.post_init()

    def forward(self, inputs: Tensor, lengths: Tensor) -> BaseModelOutputWithPooling:
        """Embed windows as `pooler_output`, (n, projection_dim), unit norm without a memory.

        Args:
            inputs: Output of the backbone's feature extractor for windows padded to `window_s`.
            lengths: Samples of each window that hold audio, shape (n,).
        """
        frames = self.backbone(inputs, **self._attention_mask(inputs, lengths)).last_hidden_state
        embeds = self.pooling(frames, self._frame_mask(frames, lengths))
        embeds, memory = F.normalize(embeds, dim=-1), self.config.memory
        if memory is not None:
            beta, mix = memory["beta"], memory["mix"]
            sureness = retrieve(embeds, self.memory, beta=beta).square().sum(dim=-1, keepdim=True)
            embeds = recall(embeds, self.memory, beta=beta, mix=mix) * sureness
        return BaseModelOutputWithPooling(last_hidden_state=frames, pooler_output=embeds)

    def _attention_mask(self, inputs: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Return the mask of the samples that hold audio, for backbones trained with one."""
        backbone = self.config.backbone_config
        is_masked = getattr(backbone, "feat_extract_norm", None) == "layer"
        if not is_masked and backbone.model_type != "moonshine":
            return {}
        places = torch.arange(inputs.shape[-1], device=inputs.device)
        return {"attention_mask": (places < lengths.unsqueeze(-1)).long()}

    def _frame_mask(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return a mask, shape (n, frames), True for those that hold audio, at least one."""
        count, extra, backbone = frames.shape[1], 0, self.config.backbone_config
        if backbone.model_type == _AST:
            # Two tokens of the whole window, then patches: lines of time for each frequency.
            extra = 2
            count = (backbone.max_length - backbone.patch_size) // backbone.time_stride + 1
        held = (lengths * count / self.config.window).ceil().clamp(1, count)  # (n,)
        mask = torch.arange(count, device=frames.device) < held.unsqueeze(-1)
        if not extra:
            return mask
        patches = mask.repeat(1, (frames.shape[1] - extra) // count)
        return torch.cat([mask.new_ones(len(mask), extra), patches], dim=1)


def _new_backbone(config: Any) -> nn.Module:
    builders: dict[str, Callable[[Any], nn.Module]] = {
        "whisper": _whisper_encoder,
        "moonshine": _moonshine_encoder,
    }
    if config.model_type not in BACKBONES:
        raise UserError(
            f"A {config.model_type} is no backbone of a speech encoder: expected one of "
            f"{', '.join(BACKBONES)}."
        )
    return builders.get(config.model_type, AutoModel.from_config)(config)


def _whisper_encoder(config: Any) -> nn.Module:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(config)


def _moonshine_encoder(config: Any) -> nn.Module:
    from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

    return MoonshineEncoder(config)


AutoConfig.register("speech_encoder", SpeechConfig, exist_ok=True)
AutoModel.register(SpeechConfig, SpeechModel, exist_ok=True)
