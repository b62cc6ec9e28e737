"""The demo CLAP: a convolutional audio encoder and a small BERT, with the interface of `ClapModel`.

The audio encoder is aiSFX's network (Ma and Lerch, "Representation Learning for the Automatic
Indexing of Sound Effects Libraries", ISMIR 2022, https://arxiv.org/abs/2208.09096). Importing this
module registers the classes with transformers' Auto classes, so that a demo checkpoint loads like
any other.
"""

from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    BertConfig,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clap.modeling_clap import ClapOutput

from clip2clap.core.errors import UserError
from clip2clap.media.spectrogram import mel_filters


class SfxClapConfig(PreTrainedConfig):
    """Sizes of a `SfxClapModel`.

    Args:
        text_config: Configuration of the BERT text encoder.
        audio_channels: Channels of the audio encoder's convolution blocks.
        num_mel_bins: Mel bins of the input.
        block_frames: Frames of a block; 100 in aiSFX (2.3 s).
        num_blocks: Blocks, spread evenly over the window, whose features are averaged.
        projection_dim: Dimension of the joint space.
    """

    model_type = "sfx_clap"

    def __init__(
        self,
        text_config: dict[str, Any] | BertConfig | None = None,
        audio_channels: tuple[int, ...] = (64, 128, 256, 512),
        num_mel_bins: int = 96,
        block_frames: int = 100,
        num_blocks: int = 3,
        projection_dim: int = 512,
        logit_scale_init_value: float = 3.0,
        **kwargs: Any,
    ):
        if not isinstance(text_config, BertConfig):
            text_config = BertConfig(**(text_config or {}))
        self.text_config = text_config
        self.audio_channels = list(audio_channels)
        self.num_mel_bins = num_mel_bins
        self.block_frames = block_frames
        self.num_blocks = num_blocks
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON types."""
        return {**super().to_dict(), "text_config": self.text_config.to_dict()}


class SfxConvBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization, then max pooling."""

    def __init__(self, in_channels: int, out_channels: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (n, in_channels, t, f) to (n, out_channels, t / pool, f / pool)."""
        hidden_states = F.relu(self.bn1(self.conv1(hidden_states)))
        hidden_states = F.relu(self.bn2(self.conv2(hidden_states)))
        return F.max_pool2d(hidden_states, self.pool) if self.pool > 1 else hidden_states


def pool_maps(maps: Tensor) -> Tensor:
    """Average maps (n, channels, t, f) over f, then max-pool over t: (n, channels)."""
    return maps.mean(dim=3).amax(dim=2)


class SfxAudioModel(nn.Module):
    """aiSFX's network over blocks of a log-mel spectrogram."""

    def __init__(self, config: SfxClapConfig):
        super().__init__()
        channels = [1, *config.audio_channels]
        pools = [2] * (len(channels) - 2) + [1]
        self.blocks = nn.ModuleList(map(SfxConvBlock, channels, channels[1:], pools))
        self.block_frames = config.block_frames
        self.num_blocks = config.num_blocks

    def lower_maps(self, input_features: Tensor) -> Tensor:
        """Map windows (n, frames, num_mel_bins) to the features of all blocks but the last.

        Returns:
            Shape (n, num_blocks, channels, block_frames / 8, num_mel_bins / 8) for four blocks.
        """
        starts = torch.linspace(0, input_features.shape[1] - self.block_frames, self.num_blocks)
        windows = torch.stack(
            [input_features[:, s : s + self.block_frames] for s in starts.round().int().tolist()], 1
        )
        hidden_states = windows.flatten(0, 1).unsqueeze(1)
        for block in self.blocks[:-1]:
            hidden_states = block(hidden_states)
        return hidden_states.unflatten(0, windows.shape[:2])

    def upper_features(self, maps: Tensor) -> Tensor:
        """Map features of the lower blocks (n, channels, t, f) to features (n, channels)."""
        return pool_maps(self.blocks[-1](maps))

    def forward(self, input_features: Tensor) -> Tensor:
        """Map windows (n, frames, num_mel_bins) to features (n, audio_channels[-1])."""
        maps = self.lower_maps(input_features)
        return self.upper_features(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]).mean(1)


class SfxProjection(nn.Module):
    """CLAP's two-layer projection into the joint space."""

    def __init__(self, in_dim: int, projection_dim: int):
        super().__init__()
        self.linear1 = nn.Linear(in_dim, projection_dim)
        self.linear2 = nn.Linear(projection_dim, projection_dim)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (n, in_dim) to (n, projection_dim)."""
        return self.linear2(F.relu(self.linear1(hidden_states)))


class SfxClapModel(PreTrainedModel):
    """Audio and text encoders of a joint space, with the interface of `ClapModel`."""

    config_class = SfxClapConfig
    base_model_prefix = "sfx_clap"
    main_input_name = "input_features"

    def __init__(self, config: SfxClapConfig):
        super().__init__(config)
        self.audio_model = SfxAudioModel(config)
        self.text_model = BertModel(config.text_config)
        self.audio_projection = SfxProjection(config.audio_channels[-1], config.projection_dim)
        self.text_projection = SfxProjection(config.text_config.hidden_size, config.projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    def get_audio_features(self, input_features: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Embed windows (n, frames, mel bins) as unit-norm `pooler_output` (n, projection_dim)."""
        embeds = self.audio_projection(self.audio_model(input_features))
        return BaseModelOutputWithPooling(pooler_output=F.normalize(embeds, dim=-1))

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPooling:
        """Embed tokens (n, tokens) as unit-norm `pooler_output` (n, projection_dim)."""
        outputs = self.text_model(input_ids, attention_mask, token_type_ids)
        embeds = self.text_projection(outputs.pooler_output)
        return BaseModelOutputWithPooling(pooler_output=F.normalize(embeds, dim=-1))

    def forward(
        self,
        input_ids: Tensor,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> ClapOutput:
        """Compare texts with audio; `logits_per_audio` has shape (n audio, n texts)."""
        audio: Any = self.get_audio_features(input_features).pooler_output
        text: Any = self.get_text_features(input_ids, attention_mask, token_type_ids).pooler_output
        logits = self.logit_scale.exp() * audio @ text.T
        return ClapOutput(
            logits_per_audio=logits, logits_per_text=logits.T, text_embeds=text, audio_embeds=audio
        )


class SfxClapFeatureExtractor(SequenceFeatureExtractor):
    """Feature extractor of aiSFX: `log10(10000 x + 1) / 9.4578` of an HTK mel power spectrogram.

    A waveform is scaled to a peak of 1, then repeated or cut to `max_length_s` seconds.

    Args:
        feature_size: Mel bins.
        sampling_rate: Sampling rate of the audio, in Hz.
        hop_length: Samples between frames.
        fft_window_size: Samples of a Fourier transform's window.
        max_length_s: Seconds of a window.
    """

    model_input_names: ClassVar[list[str]] = ["input_features"]
    # The largest log-mel value of aiSFX's training data.
    log_mel_range = 9.457798957824707

    def __init__(
        self,
        feature_size: int = 96,
        sampling_rate: int = 44_100,
        hop_length: int = 1024,
        fft_window_size: int = 2048,
        max_length_s: float = 5.0,
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.hop_length = hop_length
        self.fft_window_size = fft_window_size
        self.max_length_s = max_length_s
        self.nb_max_samples = round(max_length_s * sampling_rate)

    def __call__(
        self,
        raw_speech: np.ndarray | list[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **_: Any,
    ) -> BatchFeature:
        """Compute the model's input.

        Args:
            raw_speech: One mono waveform or a list of them, float arrays in [-1, 1].
            sampling_rate: Their sampling rate, in Hz.
            return_tensors: `"pt"` or `"np"` for `input_features`, shape (n, frames, feature_size).

        Raises:
            UserError: If the sampling rate is not the model's, or a waveform is empty.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise UserError(
                f"Expected audio at {self.sampling_rate} Hz, got {sampling_rate} Hz. Resample it "
                "first, or call ClapEncoder.encode_audio, which does."
            )
        waveforms = [raw_speech] if getattr(raw_speech, "ndim", 2) == 1 else list(raw_speech)
        if not waveforms or any(np.size(waveform) == 0 for waveform in waveforms):
            raise UserError("Expected waveforms of at least one sample, got an empty one.")
        windows = torch.stack([self._window(np.asarray(r, np.float32)) for r in waveforms])
        spectra = torch.stft(
            windows,
            self.fft_window_size,
            self.hop_length,
            window=torch.hann_window(self.fft_window_size, dtype=torch.float32),
            return_complex=True,
        )
        filters = _mel_filters(self.fft_window_size, self.feature_size, self.sampling_rate)
        mels = spectra.abs().square().transpose(1, 2) @ filters
        features = torch.log10(mels * 10_000 + 1) / self.log_mel_range
        return BatchFeature({"input_features": features}, tensor_type=return_tensors)

    def _window(self, waveform: np.ndarray) -> Tensor:
        peak = np.abs(waveform).max()
        window = np.resize(waveform, self.nb_max_samples)
        return torch.from_numpy(window / peak if peak > 0 else window)


@cache
def _mel_filters(fft_window_size: int, feature_size: int, sampling_rate: int) -> Tensor:
    """Return the filter bank, shape (fft_window_size // 2 + 1, feature_size)."""
    filters = mel_filters(fft_window_size, feature_size, sampling_rate)
    return torch.from_numpy(filters / filters.sum(axis=0).clip(min=1e-10)).float()


AutoConfig.register("sfx_clap", SfxClapConfig, exist_ok=True)
AutoModel.register(SfxClapConfig, SfxClapModel, exist_ok=True)
AutoFeatureExtractor.register(SfxClapConfig, SfxClapFeatureExtractor, exist_ok=True)
