"""Speech models as training starts them: architectures, and checkpoints of backbones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError, one_line
from clip2clap.core.files import as_path
from clip2clap.core.hub import fetch, quiet
from clip2clap.core.presets import is_hub_id
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.weights import check_weights
from clip2clap.models.speech import SpeechConfig, SpeechModel
from clip2clap.training.speech.config import SpeechTrainingConfig

AST_FRAMES = 512
"""Frames of SAliCLIP's filter banks."""

MODEL_TYPES = {
    "ast": "audio-spectrogram-transformer",
    **{name: name for name in ("wav2vec2", "hubert", "whisper", "moonshine")},
}
"""transformers' model type of each architecture."""

_LAYER_COUNTS = {"whisper": "encoder_layers", "moonshine": "encoder_num_hidden_layers"}
_RATE = 16_000
_HINT = "Give the folder of a checkpoint of transformers, or a hub id (owner/name)."

_SMALL: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
}


def new_speech_model(
    config: SpeechTrainingConfig, space: EmbeddingSpace, **access: Any
) -> tuple[SpeechModel, Any]:
    """Return the model that training starts from, and its feature extractor.

    Args:
        config: Settings, with the architecture and perhaps a backbone's checkpoint.
        space: Space of the CLIP to distill.
        **access: `revision`, `token`, `local_files_only` and `cache_dir`, as in transformers.

    Raises:
        ModelNotFoundError: If there is no such checkpoint.
        CheckpointError: If it cannot be loaded as a backbone.
        UserError: If it is of another architecture, or the window does not fit it.

    Examples:
        >>> from clip2clap import EmbeddingSpace
        >>> from clip2clap.training.speech import SpeechTrainingConfig, new_speech_model
        >>> space = EmbeddingSpace("clip", "my/clip", "text", 8, True, "c37ebb4187e04d1b")
        >>> config = SpeechTrainingConfig(window_s=2)
        >>> model, extractor = new_speech_model(config, space)
        >>> model.config.space["fingerprint"], extractor.sampling_rate
        ('c37ebb4187e04d1b', 16000)
    """
    window_s = AST_FRAMES / 100 if config.architecture == "ast" else config.window_s
    if config.architecture == "whisper" and window_s != int(window_s):
        raise UserError(
            f"Expected window_s to be whole seconds for a whisper, got {window_s:g}.",
            param="window_s",
        )
    weights: dict[str, Tensor] | None = None
    if config.backbone is None:
        backbone, folder = _random(config.architecture), None
    else:
        backbone, weights, folder = _load(config, **access)
    if config.layers is not None:
        _keep_layers(backbone, config.architecture, config.layers)
    _set_window(backbone, config.architecture, window_s)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = SpeechModel(
            SpeechConfig(
                backbone,
                pooling=config.pooling,
                pooling_heads=config.pooling_heads,
                pooling_size=config.pooling_size,
                projection_dim=space.dim,
                window_s=window_s,
                sampling_rate=_RATE,
                space=space.in_modality("audio").to_dict(),
            )
        )
    if weights is not None:
        model.backbone.load_state_dict(_fitted(weights, model.backbone.state_dict(), backbone))
    return model, _new_extractor(config.architecture, window_s, backbone, folder)


def _random(architecture: str) -> Any:
    """Return the config of a small network."""
    import transformers

    encoder: dict[str, Any] = {
        "encoder_layers": 6,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 768,
        "d_model": 192,
    }
    moonshine: dict[str, Any] = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "encoder_num_hidden_layers": 6,
        "encoder_num_attention_heads": 6,
    }
    waveform: dict[str, Any] = {**_SMALL, "conv_dim": [256] * 7}
    makers: dict[str, Callable[[], Any]] = {
        "whisper": lambda: transformers.WhisperConfig(**encoder),
        "moonshine": lambda: transformers.MoonshineConfig(**moonshine),
        "wav2vec2": lambda: transformers.Wav2Vec2Config(**waveform),
        "hubert": lambda: transformers.HubertConfig(**waveform),
        # SAliCLIP's: twelve layers of 768, as AudioSet's AST.
        "ast": lambda: transformers.ASTConfig(),
    }
    return makers[architecture]()


def _load(config: SpeechTrainingConfig, **access: Any) -> tuple[Any, dict[str, Tensor], Path]:
    """Return the config, weights and folder of a backbone's checkpoint."""
    from transformers import AutoConfig, AutoModel

    name = str(config.backbone)
    folder = as_path(name)
    if not folder.is_dir():
        if not is_hub_id(name):
            raise ModelNotFoundError(f"There is no folder {name!r}. {_HINT}")
        folder = fetch(name, lambda _: ["*.json", "*.safetensors"], hint=_HINT, **access)
    try:
        with quiet():
            found: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
            if found.model_type != MODEL_TYPES[config.architecture]:
                raise UserError(
                    f"{name} is a {found.model_type}; expected a {config.architecture}. Name its "
                    "architecture.",
                    param="architecture",
                )
            model, report = AutoModel.from_pretrained(
                folder,
                config=found,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except UserError:
        raise
    except Exception as error:
        raise CheckpointError(f"{name} cannot be loaded: {one_line(error)}") from error
    missing = [key for key in report["missing_keys"] if "masked_spec_embed" not in key]
    check_weights(name, missing=missing, unexpected=())
    encoder = model.encoder if config.architecture in ("whisper", "moonshine") else model
    return found, encoder.state_dict(), folder


def _keep_layers(backbone: Any, architecture: str, layers: int) -> None:
    name = _LAYER_COUNTS.get(architecture, "num_hidden_layers")
    own = getattr(backbone, name)
    if layers > own:
        raise UserError(
            f"Expected layers to be at most {own}, those of the backbone, got {layers}.",
            param="layers",
        )
    setattr(backbone, name, layers)


def _set_window(backbone: Any, architecture: str, window_s: float) -> None:
    if architecture == "ast":
        backbone.max_length = AST_FRAMES
    elif architecture == "whisper":
        most = backbone.max_source_positions
        # Positions of 20 ms.
        if round(50 * window_s) > most:
            raise UserError(
                f"Expected window_s to be at most {most / 50:g}, what the whisper has positions "
                f"for, got {window_s:g}.",
                param="window_s",
            )
        backbone.max_source_positions = round(50 * window_s)


def _fitted(
    weights: dict[str, Tensor], expected: dict[str, Tensor], backbone: Any
) -> dict[str, Tensor]:
    """Return the weights of the layers that are kept, and positions cut to the window."""
    return {
        name: _cut_positions(weights[name], value, backbone) for name, value in expected.items()
    }


def _cut_positions(weights: Tensor, expected: Tensor, backbone: Any) -> Tensor:
    if weights.shape == expected.shape:
        return weights
    if backbone.model_type == MODEL_TYPES["whisper"]:
        return weights[: len(expected)]
    # AST's: two tokens, then lines of time for each frequency, of which SAliCLIP keeps the middle.
    lines = (backbone.num_mel_bins - backbone.patch_size) // backbone.frequency_stride + 1
    grid = weights[:, 2:].unflatten(1, (lines, -1))  # (1, lines, time, width)
    count = (expected.shape[1] - 2) // lines
    start = (grid.shape[2] - count) // 2
    return torch.cat([weights[:, :2], grid[:, :, start : start + count].flatten(1, 2)], dim=1)


def _new_extractor(architecture: str, window_s: float, backbone: Any, folder: Path | None) -> Any:
    import transformers

    if architecture == "whisper":
        return transformers.WhisperFeatureExtractor(
            feature_size=backbone.num_mel_bins, chunk_length=int(window_s)
        )
    if architecture == "ast":
        return transformers.ASTFeatureExtractor(
            num_mel_bins=backbone.num_mel_bins, max_length=AST_FRAMES
        )
    if folder is not None and (folder / "preprocessor_config.json").is_file():
        return transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    is_masked = getattr(backbone, "feat_extract_norm", "layer") == "layer"
    return transformers.Wav2Vec2FeatureExtractor(
        do_normalize=architecture != "moonshine", return_attention_mask=is_masked
    )
