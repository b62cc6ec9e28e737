"""The demo CLAP: YAMNet and a small BERT, with the interface of `ClapModel`.

YAMNet is Google's MobileNet-v1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861) of the sounds
of AudioSet. Importing this module registers the classes with transformers' Auto classes, so that a
demo checkpoint loads like any other.
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
    MobileNetV1Config,
    MobileNetV1Model,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clap.modeling_clap import ClapOutput

from clip2clap.core.errors import UserError


class YamnetClapConfig(PreTrainedConfig):
    """Sizes of a `YamnetClapModel`.

    Args:
        text_config: Configuration of the BERT text encoder.
        audio_width: Channels of the audio encoder, relative to YAMNet's.
        audio_layers: Layers of YAMNet whose outputs are features, counted from the one after the
            first convolution.
        patch_frames: Frames of a patch, half of which overlap with the next; 96 in YAMNet (1 s).
        projection_dim: Dimension of the joint space.
        logit_scale_init_value: Logarithm of the scale of similarities.
    """

    model_type = "yamnet_clap"

    def __init__(
        self,
        text_config: dict[str, Any] | BertConfig | None = None,
        audio_width: float = 1.0,
        audio_layers: tuple[int, ...] = (11, 21, 23, 25),
        patch_frames: int = 96,
        projection_dim: int = 512,
        logit_scale_init_value: float = 3.0,
        **kwargs: Any,
    ):
        if not isinstance(text_config, BertConfig):
            text_config = BertConfig(**(text_config or {}))
        self.text_config = text_config
        self.audio_width = audio_width
        self.audio_layers = list(audio_layers)
        self.patch_frames = patch_frames
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON types."""
        return {**super().to_dict(), "text_config": self.text_config.to_dict()}


class YamnetModel(nn.Module):
    """YAMNet over patches of a log-mel spectrogram, with features of several of its layers.

    Lower layers tell apart sounds that are one class to AudioSet.
    """

    def __init__(self, config: YamnetClapConfig):
        super().__init__()
        self.layers, self.patch_frames = config.audio_layers, config.patch_frames
        self.network: Any = MobileNetV1Model(
            MobileNetV1Config(
                num_channels=1,
                depth_multiplier=config.audio_width,
                hidden_act="relu",
                layer_norm_eps=1e-4,
            )
        )
        self.width = sum(self.network.layer[n].convolution.out_channels for n in self.layers)

    def forward(self, input_features: Tensor) -> Tensor:
        """Map windows (n, frames, mel bins) to features (n, width), roots of mean activations."""
        patches = input_features.unfold(1, self.patch_frames, self.patch_frames // 2)
        images = patches.transpose(2, 3).flatten(0, 1).unsqueeze(1)  # (patches, 1, frames, bins)
        maps = self.network.conv_stem(images)
        pooled = []
        for number, layer in enumerate(self.network.layer):
            maps = layer(maps)
            if number in self.layers:
                pooled.append(maps.mean(dim=(2, 3)))
        means = torch.cat(pooled, dim=1)  # (patches, width)
        means = means.unflatten(0, patches.shape[:2]).mean(dim=1)
        # The root has no slope at 0, where a channel is silent.
        return torch.where(means > 0, means, 1).sqrt() * (means > 0)


class ClapProjection(nn.Module):
    """CLAP's two-layer projection into the joint space."""

    def __init__(self, in_dim: int, projection_dim: int):
        super().__init__()
        self.linear1 = nn.Linear(in_dim, projection_dim)
        self.linear2 = nn.Linear(projection_dim, projection_dim)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (n, in_dim) to (n, projection_dim)."""
        return self.linear2(F.relu(self.linear1(hidden_states)))


class YamnetClapModel(PreTrainedModel):
    """Audio and text encoders of a joint space, with the interface of `ClapModel`."""

    config_class = YamnetClapConfig
    base_model_prefix = "yamnet_clap"
    main_input_name = "input_features"

    def __init__(self, config: YamnetClapConfig):
        super().__init__(config)
        self.audio_model = YamnetModel(config)
        self.text_model = BertModel(config.text_config)
        self.audio_projection = nn.Linear(self.audio_model.width, config.projection_dim)
        self.text_projection = ClapProjection(config.text_config.hidden_size, config.projection_dim)
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


class YamnetFeatureExtractor(SequenceFeatureExtractor):
    """Feature extractor of YAMNet: `log(x + 0.001)` of a mel magnitude spectrogram.

    A waveform is scaled to a peak of 1 without silence at its ends, then repeated or cut to
    `max_length_s` seconds.

    Args:
        feature_size: Mel bins.
        sampling_rate: Sampling rate of the audio, in Hz.
        hop_length: Samples between frames.
        window_size: Samples of a frame.
        fft_size: Samples of a Fourier transform.
        max_length_s: Seconds of a window.
    """

    model_input_names: ClassVar[list[str]] = ["input_features"]

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16_000,
        hop_length: int = 160,
        window_size: int = 400,
        fft_size: int = 512,
        max_length_s: float = 5.0,
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.hop_length = hop_length
        self.window_size = window_size
        self.fft_size = fft_size
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
        rows = [torch.from_numpy(np.asarray(each, np.float32)) for each in waveforms]
        return BatchFeature({"input_features": self.features(rows)}, tensor_type=return_tensors)

    def features(self, waveforms: list[Tensor]) -> Tensor:
        """Compute the model's input, shape (n, frames, feature_size), with its gradient."""
        windows = torch.stack([self._window(waveform) for waveform in waveforms])
        frames = windows.unfold(1, self.window_size, self.hop_length)
        window = torch.hann_window(self.window_size, device=frames.device)
        spectra = torch.fft.rfft(frames * window, self.fft_size)
        filters = _mel_filters(self.fft_size, self.feature_size, self.sampling_rate)
        return (spectra.abs() @ filters.to(frames.device) + 1e-3).log()

    def _window(self, waveform: Tensor) -> Tensor:
        peak = waveform.abs().max()
        if peak > 0:
            loud = (waveform.abs() > 1e-3 * peak).nonzero()
            waveform = waveform[int(loud[0]) : int(loud[-1]) + 1] / peak
        places = torch.arange(self.nb_max_samples, device=waveform.device) % len(waveform)
        return waveform[places]


@cache
def _mel_filters(fft_size: int, feature_size: int, sampling_rate: int) -> Tensor:
    """Return YAMNet's filter bank, shape (fft_size // 2 + 1, feature_size)."""
    filters = mel_filter_bank(
        fft_size // 2 + 1,
        feature_size,
        min_frequency=125.0,
        max_frequency=7500.0,
        sampling_rate=sampling_rate,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return torch.from_numpy(filters).float()


AutoConfig.register("yamnet_clap", YamnetClapConfig, exist_ok=True)
AutoModel.register(YamnetClapConfig, YamnetClapModel, exist_ok=True)
AutoFeatureExtractor.register(YamnetClapConfig, YamnetFeatureExtractor, exist_ok=True)
