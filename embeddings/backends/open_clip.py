"""CLIP models of open_clip."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_model
from torch import Tensor

from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.embeddings.backends.base import Backend, CheckpointSpec, Inputs, PixelTransform
from clip2clap.embeddings.checkpoint import Checkpoint, import_open_clip, read_json
from clip2clap.embeddings.fingerprint import describe_tokenizer
from clip2clap.embeddings.space import Family, Modality

_PRECISIONS = {torch.float32: "fp32", torch.float16: "pure_fp16", torch.bfloat16: "pure_bf16"}
PREPROCESSING: dict[str, Any] = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""open_clip's default image preprocessing, which a checkpoint's config may override."""


class OpenClipSpec(CheckpointSpec):
    """Architecture with a weight file, or a folder with an open_clip_config.json."""

    def __init__(self, checkpoint: Checkpoint, family: Family):
        super().__init__(checkpoint, family)
        if family != "clip":
            raise CheckpointError(f"{checkpoint.name} is a CLIP; expected a CLAP.")
        self.open_clip = import_open_clip(checkpoint.name)
        if checkpoint.folder is not None:
            self.source = f"local-dir:{checkpoint.folder}"
            file = checkpoint.folder / "open_clip_config.json"
            self.config = read_json(file)
            if "model_cfg" not in self.config:
                raise CheckpointError(f"{file} has no model_cfg. Fetch the checkpoint again.")
        else:
            assert checkpoint.architecture is not None
            self.source = checkpoint.architecture
            self.config = self._named_config(checkpoint.architecture, checkpoint.tag)
        self.dim = self.config["model_cfg"]["embed_dim"]
        try:
            self.tokenizer = self.open_clip.get_tokenizer(self.source)
        except Exception as error:
            raise CheckpointError(
                f"open_clip cannot load the tokenizer of {checkpoint.name}: {one_line(error)}"
            ) from error

    def _named_config(self, architecture: str, tag: str | None) -> dict[str, Any]:
        model = self.open_clip.get_model_config(architecture)
        weights = self.open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
        # open_clip only warns when weights trained with one activation run with the other.
        if tag and model.get("quick_gelu") and not weights.get("quick_gelu"):
            raise UserError(
                f"The weights {tag} were trained without QuickGELU. Load them as "
                f"open_clip:{architecture.removesuffix('-quickgelu')}/{tag}."
            )
        if weights.get("quick_gelu"):
            model["quick_gelu"] = True
        preprocessing = {key: weights[key] for key in PREPROCESSING if key in weights}
        return {"model_cfg": model, "preprocess_cfg": preprocessing}

    def describe(self) -> dict[str, Any]:
        model = self.config["model_cfg"]
        given = self.config.get("preprocess_cfg", {})
        return {
            "image": {key: given.get(key, default) for key, default in PREPROCESSING.items()},
            "image_size": model.get("vision_cfg", {}).get("image_size", 224),
            "quick_gelu": bool(model.get("quick_gelu")),
            "text": describe_tokenizer(lambda texts: self.tokenizer(texts).tolist()),
        }

    def build(self, dtype: torch.dtype) -> "OpenClipBackend":
        preprocessing = self.config.get("preprocess_cfg", {})
        try:
            model, transform = self.open_clip.create_model_from_pretrained(
                self.source,
                pretrained=None if self.checkpoint.folder else str(self.checkpoint.weights[0]),
                precision=_PRECISIONS[dtype],
                force_quick_gelu=bool(self.config["model_cfg"].get("quick_gelu")),
                image_mean=preprocessing.get("mean"),
                image_std=preprocessing.get("std"),
                image_interpolation=preprocessing.get("interpolation"),
                image_resize_mode=preprocessing.get("resize_mode"),
                weights_only=True,
            )
        except Exception as error:
            raise CheckpointError(
                f"open_clip cannot load {self.checkpoint.name}: {one_line(error)} Fetch the "
                "checkpoint again, or name the architecture it was trained with."
            ) from error
        return OpenClipBackend(model, transform, self)


class OpenClipBackend(Backend):
    """Model of open_clip with its own transform and tokenizer."""

    def __init__(self, model: Any, transform: Callable[[Image.Image], Tensor], spec: Any):
        super().__init__()
        self.model: Any = model
        self.transform = transform
        self.tokenizer, self.config = spec.tokenizer, spec.config
        self.modalities = ("image", "text")

    def preprocess_images(self, images: Sequence[Image.Image]) -> Inputs:
        return {"pixel_values": torch.stack([self.transform(image) for image in images])}

    @property
    def pixel_transform(self) -> PixelTransform:
        preprocessing = {**PREPROCESSING, **self.config.get("preprocess_cfg", {})}
        mode, interpolation = preprocessing["resize_mode"], preprocessing["interpolation"]
        if mode not in ("shortest", "squash") or interpolation not in ("bilinear", "bicubic"):
            raise UserError(
                "The image preprocessing of this CLIP has no differentiable form here: "
                f"expected resize_mode shortest or squash, got {mode!r}, and bilinear or bicubic "
                f"interpolation, got {interpolation!r}."
            )
        size = self.model.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return PixelTransform(
            height=height,
            width=width,
            short_side=min(height, width) if mode == "shortest" else None,
            interpolation=interpolation,
            mean=tuple(preprocessing["mean"]),
            std=tuple(preprocessing["std"]),
            any_size=False,
        )

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts)).tolist()

    def pad(self, ids: Sequence[list[int]]) -> Inputs:
        return {"input_ids": torch.tensor(ids)}

    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        if modality == "image":
            return self.model.encode_image(inputs["pixel_values"])
        return self.model.encode_text(inputs["input_ids"])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / "open_clip_model.safetensors"))
        (folder / "open_clip_config.json").write_text(json.dumps(self.config, indent=2))
        # Some tokenizers of open_clip have no files of their own.
        getattr(self.tokenizer, "save_pretrained", lambda _: None)(folder)
