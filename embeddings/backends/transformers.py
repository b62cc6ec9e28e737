"""CLIP and CLAP models of transformers, and the demo CLAP, which follows their interface."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

from clip2clap.core.errors import CheckpointError, UserError, one_line, with_article
from clip2clap.core.hub import quiet
from clip2clap.embeddings.backends.base import (
    Backend,
    CheckpointSpec,
    Inputs,
    PixelTransform,
    TextProcessor,
)
from clip2clap.embeddings.checkpoint import Checkpoint, read_json
from clip2clap.embeddings.fingerprint import describe_processor, describe_tokenizer
from clip2clap.embeddings.space import Family, Modality
from clip2clap.embeddings.weights import check_weights

_PE_AUDIO_TYPES = {"pe_audio", "pe_audio_video"}
_CLAP_TYPES = {"clap", "clap_text_model", "clap_audio_model", "yamnet_clap", *_PE_AUDIO_TYPES}
# AutoModel would build these encoders without their projection into the joint space.
_SINGLE_ENCODERS = (
    "CLIPTextModelWithProjection",
    "CLIPVisionModelWithProjection",
    "ClapAudioModelWithProjection",
    "ClapTextModelWithProjection",
    "SiglipTextModel",
    "SiglipVisionModel",
)
# PIL's numbers of the modes that torch has as well.
_INTERPOLATIONS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
_OUTPUTS = {"image": "image_embeds", "text": "text_embeds", "audio": "audio_embeds"}
_MODULES: dict[Modality, tuple[str, ...]] = {
    "image": ("vision_model", "visual_projection"),
    "audio": ("audio_model", "audio_projection"),
    "text": ("text_model", "text_projection"),
}
# SigLIP was trained on texts padded to the full length, without a mask.
_FULL_LENGTH_TYPES = {"siglip", "siglip2", "siglip_text_model"}
# RoBERTa's positions start after the padding token's.
_OFFSET_TYPES = {"clap_text_model", "roberta", "xlm-roberta", "camembert"}


def _load_processors(checkpoint: Checkpoint, config: Any) -> dict[Modality, Any]:
    """Load the image processor, feature extractor and tokenizer that a checkpoint has."""
    loaded: dict[Modality, Any] = {}
    options = {"local_files_only": True, "trust_remote_code": False}
    for folder in checkpoint.processor_folders:
        found = _processor_modalities(folder)
        try:
            if "image" in found:
                # PIL's resizing with or without torchvision: the same embedding everywhere.
                loaded["image"] = AutoImageProcessor.from_pretrained(
                    folder, backend="pil", **options
                )
            if "audio" in found:
                loaded["audio"] = AutoFeatureExtractor.from_pretrained(folder, **options)
            if "text" in found:
                loaded["text"] = _text_processor(
                    AutoTokenizer.from_pretrained(folder, **options), config
                )
        except Exception as error:
            raise CheckpointError(
                f"The preprocessing files in {folder} cannot be loaded: {one_line(error)}"
            ) from error
    return loaded


def _processor_modalities(folder: Path) -> set[str]:
    """Return the modalities that a folder has preprocessing files for."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
    found = {"text"} if any((folder / name).is_file() for name in names) else set()
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values = read_json(folder / name)
            if {"image_processor", "image_processor_type", "image_mean"} & values.keys():
                found.add("image")
            if "sampling_rate" in {*values, *values.get("feature_extractor", {})}:
                found.add("audio")
    return found


def _text_processor(tokenizer: Any, config: Any) -> TextProcessor:
    text_config = getattr(config, "text_config", config)
    length = getattr(text_config, "max_position_embeddings", None) or 512
    if text_config.model_type in _OFFSET_TYPES:
        length -= text_config.pad_token_id + 1
    length = min(length, getattr(tokenizer, "model_max_length", length))
    if config.model_type in _FULL_LENGTH_TYPES:
        return TextProcessor(tokenizer, length, "max_length", ("input_ids",))
    return TextProcessor(tokenizer, length)


class TransformersSpec(CheckpointSpec):
    """Folder in transformers' format."""

    def __init__(self, checkpoint: Checkpoint, family: Family):
        super().__init__(checkpoint, family)
        self.config = _read_config(checkpoint, family)
        self.processors = _load_processors(checkpoint, self.config)
        self.dim = getattr(self.config, "projection_dim", 0)
        if self.config.model_type.startswith("siglip"):
            self.dim = getattr(self.config, "vision_config", self.config).hidden_size
        if self.config.model_type in _PE_AUDIO_TYPES:
            self.dim = self.config.text_config.hidden_size
        if not self.dim:
            raise CheckpointError(
                f"{checkpoint.name} ({self.config.model_type}) has no projection into a joint "
                "space of images and texts, or of audio and texts: it is no CLIP and no CLAP."
            )

    def describe(self) -> dict[str, Any]:
        return {
            name: describe_tokenizer(each.tokenize) if name == "text" else describe_processor(each)
            for name, each in self.processors.items()
        }

    def build(self, dtype: torch.dtype) -> "TransformersBackend":
        if self.config.model_type in _PE_AUDIO_TYPES:
            from clip2clap.embeddings.backends.pe_audio import load_pe_audio

            backend: Any = load_pe_audio(self, dtype)
        else:
            model = load_strictly(self.checkpoint, self.config, dtype)
            backend = TransformersBackend(model, self.processors)
        backend.keep(self.checkpoint.note.get("modalities", backend.modalities))
        if not backend.modalities:
            raise CheckpointError(
                f"{self.checkpoint.name} holds {with_article(type(backend.model).__name__)} but no "
                "preprocessing for it: expected a preprocessor_config.json or a tokenizer beside "
                "the weights."
            )
        return backend


def _read_config(checkpoint: Checkpoint, family: Family) -> Any:
    assert checkpoint.folder is not None
    file = checkpoint.folder / "config.json"
    model_type = read_json(file).get("model_type")
    if model_type == "yamnet_clap":
        from clip2clap.models import yamnet_clap as yamnet_clap  # registers the demo CLAP's classes
    if model_type == "speech_encoder":
        raise CheckpointError(
            f"{checkpoint.name} is a speech encoder; expected a {family.upper()}. "
            "SpeechEncoder.from_pretrained loads it."
        )
    other = {"clip": "CLAP", "clap": "CLIP"}[family]
    if isinstance(model_type, str) and (model_type in _CLAP_TYPES) != (family == "clap"):
        raise CheckpointError(
            f"{checkpoint.name} ({model_type}) is a {other}; expected a {family.upper()}."
        )
    try:
        return AutoConfig.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read: {one_line(error)}") from error


class TransformersBackend(Backend):
    """Model of transformers, or the demo CLAP."""

    def __init__(self, model: nn.Module, processors: Mapping[Modality, Any]):
        super().__init__()
        self.model: Any = model
        self.processors = processors
        self.text_processor = processors.get("text")
        self.modalities = tuple(m for m in _MODULES if m in processors and self._encoder(m))
        if self._vision_config.model_type == "efficientnet":
            from clip2clap.models.efficientnet import shorten

            shorten(model)

    def _encoder(self, modality: Modality) -> Callable[..., Any] | None:
        """Return the function that encodes a modality, None if its weights are absent."""
        features = getattr(self.model, f"get_{modality}_features", None)
        if features is not None:
            module = _MODULES[modality][0]
            return features if getattr(self.model, module, None) is not None else None
        word = {"image": "Vision", "text": "Text", "audio": "Audio"}[modality]
        is_single = word in type(self.model).__name__ and not hasattr(self.model, "logit_scale")
        return self.model if is_single else None

    def keep(self, modalities: Sequence[Modality]) -> None:
        super().keep(modalities)
        for name in _modules_outside(modalities):
            if isinstance(getattr(self.model, name, None), nn.Module):
                setattr(self.model, name, None)

    def preprocess_images(self, images: Sequence[Image.Image]) -> Inputs:
        # Rescales and normalizes in one step; transformers' processor needs several passes.
        processor = self.processors["image"]
        # SigLIP 2 with flexible resolution reads patches, their number and their grid.
        names: list[str] = processor.model_input_names
        if len(names) > 1 or not (processor.do_rescale and processor.do_normalize):
            outputs = processor(list(images), return_tensors="pt")
            return {name: torch.as_tensor(outputs[name]) for name in names}
        outputs = processor(list(images), do_rescale=False, do_normalize=False, return_tensors="pt")
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        pixels = outputs["pixel_values"].float()
        return {"pixel_values": pixels.mul_(processor.rescale_factor / std).sub_(mean / std)}

    @property
    def pixel_transform(self) -> PixelTransform:
        processor = self.processors["image"]
        interpolation = _INTERPOLATIONS.get(int(processor.resample))
        size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
        short_side = getattr(size, "shortest_edge", None)
        seen = crop or size
        height, width = getattr(seen, "height", None), getattr(seen, "width", None)
        plain = processor.do_resize and processor.do_rescale and processor.do_normalize
        if not plain or interpolation is None or not (height and width):
            raise UserError(
                "The image preprocessing of this CLIP has no differentiable form here: "
                "expected it to resize (bilinear or bicubic), rescale and normalize."
            )
        scale = 255 * processor.rescale_factor
        return PixelTransform(
            height=height,
            width=width,
            short_side=short_side,
            interpolation=interpolation,
            mean=tuple(value / scale for value in processor.image_mean),
            std=tuple(value / scale for value in processor.image_std),
            any_size=self._is_convolutional,
        )

    @property
    def _vision_config(self) -> Any:
        return getattr(self.model.config, "vision_config", self.model.config)

    @property
    def _is_convolutional(self) -> bool:
        """True if the image encoder has no patch grid with position embeddings."""
        return not hasattr(self._vision_config, "patch_size")

    def preprocess_audio(self, windows: Sequence[np.ndarray]) -> Inputs:
        outputs = self.processors["audio"](
            list(windows), sampling_rate=self.sampling_rate, return_tensors="pt"
        )
        inputs = {"input_features": outputs["input_features"]}
        if "is_longer" in outputs:
            # ClapFeatureExtractor marks a random item as longer if none is. No window is longer:
            # longer audio was split.
            inputs["is_longer"] = torch.zeros(len(windows), 1, dtype=torch.bool)
        return inputs

    def waveform_inputs(self, windows: Sequence[Tensor]) -> Inputs:
        processor = self.processors["audio"]
        if hasattr(processor, "features"):
            return {"input_features": processor.features(list(windows))}
        if getattr(processor, "truncation", None) != "rand_trunc":
            raise UserError(
                "The audio preprocessing of this CLAP has no differentiable form here: expected "
                "the demo's, or a ClapFeatureExtractor of an unfused CLAP."
            )
        rows = [_clap_features(window, processor) for window in windows]
        is_longer = torch.zeros(len(rows), 1, dtype=torch.bool)
        return {"input_features": torch.stack(rows)[:, None], "is_longer": is_longer}

    @property
    def sampling_rate(self) -> int:
        return self.processors["audio"].sampling_rate

    @property
    def window(self) -> int:
        return int(self.processors["audio"].nb_max_samples)

    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        encoder = self._encoder(modality)
        assert encoder is not None
        if modality == "image" and self._is_convolutional:
            # Depthwise convolutions are faster in channels-last memory format.
            inputs = {
                name: value.contiguous(memory_format=torch.channels_last)
                for name, value in inputs.items()
            }
        outputs = encoder(**inputs)
        if isinstance(outputs, Tensor):
            return outputs
        embeds = getattr(outputs, _OUTPUTS[modality], None)
        return outputs.pooler_output if embeds is None else embeds

    def save(self, folder: Path) -> None:
        with quiet():
            self.model.save_pretrained(folder)
            for processor in self.processors.values():
                processor.save_pretrained(folder)


def _clap_features(waveform: Tensor, processor: Any) -> Tensor:
    """Compute `ClapFeatureExtractor`'s log-mel spectrogram in dB, shape (frames, bins)."""
    length = int(processor.nb_max_samples)
    repeats = 1 if processor.padding == "pad" else max(1, length // len(waveform))
    if processor.padding == "repeat" and len(waveform) < length:
        repeats += 1
    waveform = waveform.repeat(repeats)[:length]
    padded = torch.nn.functional.pad(waveform, (0, length - len(waveform)))
    size = processor.fft_window_size
    window = torch.hann_window(size, device=padded.device)
    spectra = torch.stft(padded, size, processor.hop_length, window=window, return_complex=True)
    filters = torch.from_numpy(processor.mel_filters_slaney).to(padded)
    power = torch.view_as_real(spectra).square().sum(-1).T @ filters
    return 10 * power.clamp(min=1e-10).log10()


def _modules_outside(modalities: Sequence[Modality]) -> list[str]:
    """Return the names of the modules of all other modalities."""
    return [name for other in _MODULES if other not in modalities for name in _MODULES[other]]


def load_strictly(
    checkpoint: Checkpoint,
    config: Any,
    dtype: torch.dtype,
    *,
    is_own: Callable[[str], bool] = lambda name: True,
) -> nn.Module:
    """Load a model with exactly the weights of its checkpoint, of any dtype; else raise.

    Further weights are no fault if `is_own` says of their names that they are another model's.
    """
    import transformers

    names = [name for name in config.architectures or [] if name in _SINGLE_ENCODERS]
    model_class = getattr(transformers, names[0] if names else "AutoModel")
    assert checkpoint.folder is not None
    _, _, variant = checkpoint.weights[0].stem.partition(".")
    try:
        model, report = model_class.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            variant=variant or None,
            **({} if names else {"trust_remote_code": False}),
        )
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {checkpoint.name} cannot be loaded: {one_line(error)}"
        ) from error
    mismatched = [
        entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]
    ]
    # An encoder saved with some of its modalities lacks the weights of the others.
    saved = checkpoint.note.get("modalities")
    absent = _modules_outside(saved) if saved is not None else []
    missing = [key for key in report["missing_keys"] if key.split(".")[0] not in absent]
    check_weights(
        f"{checkpoint.name} ({type(model).__name__})",
        missing=missing,
        unexpected=filter(is_own, report["unexpected_keys"]),
        mismatched=mismatched,
    )
    return model
