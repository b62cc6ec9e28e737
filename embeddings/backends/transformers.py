"""CLIPs and CLAPs of transformers, and the demo CLAP, which is made like one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
)

import clip2clap.models.sfx_clap  # noqa: F401 - registers the demo CLAP with AutoModel
from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.embeddings.backends.base import Backend, Inputs, PixelRecipe, Recipe
from clip2clap.embeddings.checkpoint import (
    Checkpoint,
    quiet,
    read_json,
    refuse_misfits,
)
from clip2clap.embeddings.fingerprint import describe_processor, describe_tokenizer
from clip2clap.embeddings.space import Family, Modality
from clip2clap.models import sfx_clap as sfx_clap  # registers the demo CLAP with AutoModel
from clip2clap.models.efficientnet import shorten

_CLAP_TYPES = {"clap", "clap_text_model", "clap_audio_model", "sfx_clap"}
# AutoModel would build these towers without their projection into the joint space.
_SINGLE_TOWERS = (
    "CLIPTextModelWithProjection",
    "CLIPVisionModelWithProjection",
    "ClapAudioModelWithProjection",
    "ClapTextModelWithProjection",
    "SiglipTextModel",
    "SiglipVisionModel",
)
# PIL's numbers for what torch can do as well.
_INTERPOLATIONS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
_OUTPUTS = {"image": "image_embeds", "text": "text_embeds", "audio": "audio_embeds"}
_TOWER_MODULES: dict[Modality, tuple[str, ...]] = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
    "audio": ("audio_model", "audio_projection"),
}
# SigLIP was trained on texts padded to the full length, without a mask.
_FULL_LENGTH_TYPES = {"siglip", "siglip2", "siglip_text_model"}
# RoBERTa counts positions from the one after the padding token's.
_OFFSET_TYPES = {"clap_text_model", "roberta", "xlm-roberta", "camembert"}


class _Processors:
    """The preprocessing files of a transformers checkpoint, whichever there are."""

    def __init__(self, checkpoint: Checkpoint, config: Any):
        self.image = self.feature_extractor = self.tokenizer = None
        for folder in checkpoint.processor_folders:
            options = {"local_files_only": True, "trust_remote_code": False}
            kinds = _processor_kinds(folder)
            try:
                if "image" in kinds:
                    # PIL's way, whether or not torchvision is there: the same vector everywhere.
                    self.image = AutoImageProcessor.from_pretrained(
                        folder, backend="pil", **options
                    )
                if "audio" in kinds:
                    self.feature_extractor = AutoFeatureExtractor.from_pretrained(folder, **options)
                if "text" in kinds:
                    self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            except Exception as error:
                raise CheckpointError(
                    f"The preprocessing files in {folder} can't be loaded: {one_line(error)}"
                ) from error
        self.text_length = self._text_length(config)
        self.full_length = config.model_type in _FULL_LENGTH_TYPES

    def _text_length(self, config: Any) -> int:
        text_config = getattr(config, "text_config", config)
        length = getattr(text_config, "max_position_embeddings", None) or 512
        if text_config.model_type in _OFFSET_TYPES:
            length -= text_config.pad_token_id + 1
        return min(length, getattr(self.tokenizer, "model_max_length", length))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        assert self.tokenizer is not None
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.text_length)
        return encoded["input_ids"]

    def describe(self) -> dict[str, Any]:
        """Give what changes a vector, for the fingerprint."""
        described: dict[str, Any] = {}
        if self.image is not None:
            described["image"] = describe_processor(self.image)
        if self.feature_extractor is not None:
            described["audio"] = describe_processor(self.feature_extractor)
        if self.tokenizer is not None:
            described["text"] = describe_tokenizer(self.tokenize)
        return described


def _processor_kinds(folder: Path) -> set[str]:
    """Tell from the files which of the three kinds of preprocessing a folder holds."""
    kinds = set()
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
    if any((folder / name).is_file() for name in names):
        kinds.add("text")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values = read_json(folder / name)
            if {"image_processor", "image_processor_type", "image_mean"} & values.keys():
                kinds.add("image")
            if "sampling_rate" in {*values, *values.get("feature_extractor", {})}:
                kinds.add("audio")
    return kinds


class TransformersRecipe(Recipe):
    """A folder of transformers' format."""

    def __init__(self, checkpoint: Checkpoint, family: Family):
        super().__init__(checkpoint)
        self.config = _read_config(checkpoint, family)
        self.processors = _Processors(checkpoint, self.config)
        self.dim = getattr(self.config, "projection_dim", 0)
        if self.config.model_type.startswith("siglip"):
            self.dim = getattr(self.config, "vision_config", self.config).hidden_size
        if not self.dim:
            raise CheckpointError(
                f"{checkpoint.name} ({self.config.model_type}) has no projection into a joint "
                "space of pictures and texts, or of sounds and texts: it is no CLIP and no CLAP."
            )

    def describe(self) -> dict[str, Any]:
        """Give the preprocessing that changes a vector."""
        return self.processors.describe()

    def build(self, dtype: torch.dtype) -> "TransformersBackend":
        """Build the model with exactly the weights of the checkpoint."""
        towers = TransformersBackend(
            _load_strictly(self.checkpoint, self.config, dtype), self.processors
        )
        towers.keep([m for m in towers.modalities if m in self.checkpoint.note.get("towers", [m])])
        if not towers.modalities:
            raise CheckpointError(
                f"{self.checkpoint.name} holds a {type(towers.model).__name__} but no "
                "preprocessing for it: expected a preprocessor_config.json or a tokenizer beside "
                "the weights."
            )
        return towers


def _read_config(checkpoint: Checkpoint, family: Family) -> Any:
    assert checkpoint.folder is not None
    file = checkpoint.folder / "config.json"
    model_type = read_json(file).get("model_type")
    other = {"clip": "CLAP", "clap": "CLIP"}[family]
    if isinstance(model_type, str) and (model_type in _CLAP_TYPES) != (family == "clap"):
        raise CheckpointError(
            f"{checkpoint.name} ({model_type}) is no {family.upper()}: give it as the {other}, and "
            f"a {family.upper()} here."
        )
    try:
        return AutoConfig.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise CheckpointError(f"{file} is not understood: {one_line(error)}") from error


class TransformersBackend(Backend):
    """A model of transformers, or the demo CLAP."""

    def __init__(self, model: nn.Module, processors: _Processors):
        super().__init__()
        self.model: Any = model
        self.processors = processors
        self.modalities = tuple(self._modalities())
        if self._vision_config.model_type == "efficientnet":
            shorten(model)

    def _modalities(self) -> Iterator[Modality]:
        for modality, processor in (
            ("image", self.processors.image),
            ("audio", self.processors.feature_extractor),
            ("text", self.processors.tokenizer),
        ):
            if processor is not None and self._tower(modality) is not None:
                yield cast(Modality, modality)

    def _tower(self, modality: str) -> Callable[..., Any] | None:
        whole = getattr(self.model, f"get_{modality}_features", None)
        if whole is not None:
            tower = _TOWER_MODULES[cast(Modality, modality)][0]
            return whole if getattr(self.model, tower, None) is not None else None
        kind = {"image": "Vision", "text": "Text", "audio": "Audio"}[modality]
        is_tower = kind in type(self.model).__name__ and not hasattr(self.model, "logit_scale")
        return self.model if is_tower else None

    def keep(self, towers: Sequence[Modality]) -> None:
        """Let go of all but the given towers."""
        for name in _parts_without(towers):
            if isinstance(getattr(self.model, name, None), nn.Module):
                setattr(self.model, name, None)
        self.modalities = tuple(m for m in self.modalities if m in towers)

    def prepare_images(self, images: Sequence[Image.Image]) -> Inputs:
        """Preprocess RGB pictures.

        The scaling of values is ours: the processor's goes over every picture several times.
        """
        processor = self.processors.image
        assert processor is not None
        if not (processor.do_rescale and processor.do_normalize):
            return {"pixel_values": processor(list(images), return_tensors="pt")["pixel_values"]}
        outputs = processor(list(images), do_rescale=False, do_normalize=False, return_tensors="pt")
        mean, std = (
            torch.tensor(v).view(-1, 1, 1) for v in (processor.image_mean, processor.image_std)
        )
        pixels = outputs["pixel_values"].float()
        return {"pixel_values": pixels.mul_(processor.rescale_factor / std).sub_(mean / std)}

    @property
    def pixel_recipe(self) -> PixelRecipe:
        """The preprocessing of pictures, for those that are tensors with a gradient."""
        processor = self.processors.image
        assert processor is not None
        interpolation = _INTERPOLATIONS.get(int(processor.resample))
        size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
        short_side = getattr(size, "shortest_edge", None)
        seen = crop or size
        plain = processor.do_resize and processor.do_rescale and processor.do_normalize
        if not plain or interpolation is None or not (seen.height and seen.width):
            raise UserError(
                "This CLIP prepares pictures in a way that can't be followed for a gradient: "
                "expected it to resize (bilinear or bicubic), rescale and normalize them."
            )
        scale = 255 * processor.rescale_factor
        return PixelRecipe(
            height=seen.height,
            width=seen.width,
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
        """Whether the image tower has no grid of patches with a position embedding for each."""
        return not hasattr(self._vision_config, "patch_size")

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids, cut to the length that the tower takes."""
        return self.processors.tokenize(texts)

    def pad(self, ids: Sequence[list[int]]) -> Inputs:
        """Make a batch of tokenized texts."""
        assert self.processors.tokenizer is not None
        padded = self.processors.tokenizer.pad(
            {"input_ids": list(ids)},
            padding="max_length" if self.processors.full_length else "longest",
            max_length=self.processors.text_length,
            return_tensors="pt",
        )
        names = ("input_ids",) if self.processors.full_length else ("input_ids", "attention_mask")
        return {name: padded[name] for name in names}

    def prepare_audios(self, windows: Sequence[np.ndarray]) -> Inputs:
        """Preprocess windows of sound at the tower's own rate, each at most `window` long."""
        assert self.processors.feature_extractor is not None
        outputs = self.processors.feature_extractor(
            list(windows), sampling_rate=self.sampling_rate, return_tensors="pt"
        )
        inputs = {"input_features": outputs["input_features"]}
        if "is_longer" in outputs:
            # Without a long sound in the batch, ClapFeatureExtractor calls a random one long. No
            # window is: what is long was cut.
            inputs["is_longer"] = torch.zeros(len(windows), 1, dtype=torch.bool)
        return inputs

    @property
    def sampling_rate(self) -> int:
        """The rate that the audio tower takes, in Hz."""
        assert self.processors.feature_extractor is not None
        return self.processors.feature_extractor.sampling_rate

    @property
    def window(self) -> int:
        """Samples that the audio tower takes at once."""
        assert self.processors.feature_extractor is not None
        return int(self.processors.feature_extractor.nb_max_samples)

    def embed(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Run a tower, shape (n, dim), of any norm."""
        tower = self._tower(modality)
        assert tower is not None
        if modality == "image" and self._is_convolutional:
            # Depthwise convolutions are faster on pixels whose channels lie side by side.
            inputs = {
                name: value.contiguous(memory_format=torch.channels_last)
                for name, value in inputs.items()
            }
        outputs = tower(**inputs)
        if isinstance(outputs, Tensor):
            return outputs
        embeds = getattr(outputs, _OUTPUTS[modality], None)
        return outputs.pooler_output if embeds is None else embeds

    def save(self, folder: Path) -> None:
        """Write weights and preprocessing so that they load again."""
        with quiet():
            self.model.save_pretrained(folder)
            for processor in (
                self.processors.image,
                self.processors.feature_extractor,
                self.processors.tokenizer,
            ):
                if processor is not None:
                    processor.save_pretrained(folder)


def _parts_without(towers: Sequence[Modality]) -> list[str]:
    """Name the modules of all towers but the given ones."""
    return [
        name
        for modality, names in _TOWER_MODULES.items()
        if modality not in towers
        for name in names
    ]


def _load_strictly(checkpoint: Checkpoint, config: Any, dtype: torch.dtype) -> nn.Module:
    names = [name for name in config.architectures or [] if name in _SINGLE_TOWERS]
    model_class = getattr(transformers, names[0]) if names else AutoModel
    assert checkpoint.folder is not None
    try:
        model, report = model_class.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **({} if names else {"trust_remote_code": False}),
        )
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {checkpoint.name} can't be loaded: {one_line(error)}"
        ) from error
    mismatched = [
        entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]
    ]
    # An encoder that was saved without one of its towers has none of its weights either.
    absent = _parts_without(checkpoint.note["towers"]) if "towers" in checkpoint.note else []
    missing = [key for key in report["missing_keys"] if key.split(".")[0] not in absent]
    refuse_misfits(
        checkpoint,
        type(model).__name__,
        missing=missing,
        extra=report["unexpected_keys"],
        mismatched=mismatched,
    )
    return model
