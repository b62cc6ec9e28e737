"""Picture decoders out of published checkpoints: which parts they have, and what these tell."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.embeddings.checkpoint import (
    ModelNotFoundError,
    find_checkpoint,
)
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.fingerprint import holds_weights
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.compatibility import PathOrId, clip_space
from clip2clap.inference.loading.generator import (
    SMALL_PARTS,
    load_scheduler,
    load_strictly,
    part_folder,
    quietly,
)
from clip2clap.models.autoencoders import autoencoder_class
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

HEAVY_PARTS = ("unet", "vae", "text_encoder")
"""The parts that paint, which is where time and memory go."""

KINDS = {
    "KandinskyV22Pipeline": "kandinsky-2-2",
    "KandinskyV22Img2ImgPipeline": "kandinsky-2-2",
    "StableUnCLIPImg2ImgPipeline": "stable-unclip",
    "StableDiffusionPipeline": "ip-adapter",
}
"""The kind of decoder that each of diffusers' pipelines makes."""

GUIDANCE_SCALES = {"kandinsky-2-2": 4.0, "stable-unclip": 10.0, "ip-adapter": 7.5}
"""What diffusers' own pipelines default to."""

STEPS = 25

_FOLDERS = {"kandinsky-2-2": {"vae": "movq"}}
_MODELS = {
    "unet": diffusers.UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "image_normalizer": StableUnCLIPImageNormalizer,
    **SMALL_PARTS,
}
_PLAIN_ADAPTER = "image_proj.proj.weight"


class IPAdapterWeights:
    """The weights of an IP-Adapter, kept as they were published.

    Args:
        tensors: By name, those of `image_proj` and `ip_adapter`.

    Raises:
        CheckpointError: If they are no IP-Adapter that takes an image embedding.
    """

    def __init__(self, tensors: dict[str, Tensor]):
        if _PLAIN_ADAPTER not in tensors:
            raise CheckpointError(
                f"The IP-Adapter has no {_PLAIN_ADAPTER}: it is not one that takes a CLIP image "
                "embedding. Use a plain one, such as ip-adapter_sd15.safetensors; those called "
                "plus, full or face take more than an embedding."
            )
        self.tensors = tensors

    @classmethod
    def from_pretrained(
        cls,
        name_or_file: PathOrId,
        *,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **_: Any,
    ) -> "IPAdapterWeights":
        """Read a safetensors file, a folder that `save_pretrained` wrote, or a file on the hub.

        Args:
            name_or_file: A file, a folder, or OWNER/REPOSITORY/PATH on the hub.
            token: Credentials for a private repository.
            local_files_only: Ask no hub.

        Raises:
            ModelNotFoundError: If there is no such file and none can be fetched.
            CheckpointError: If it can't be read, or as the class says.
        """
        name = os.fspath(name_or_file)
        path = Path(name).expanduser()
        if path.is_dir():
            path = path / _ADAPTER_FILE
        if not path.is_file():
            owner, repository, file = (*name.split("/", 2), "", "")[:3]
            if not file.endswith(".safetensors") or name.startswith((".", "/", "~")):
                raise ModelNotFoundError(
                    f"There is no IP-Adapter {name!r}. Give a .safetensors file, or one on the hub "
                    "such as h94/IP-Adapter/models/ip-adapter_sd15.safetensors."
                )
            try:
                path = Path(
                    hf_hub_download(
                        f"{owner}/{repository}",
                        file,
                        token=token,
                        local_files_only=local_files_only,
                    )
                )
            except Exception as error:
                raise ModelNotFoundError(
                    f"{name!r} is not on this machine and can't be had from the hub "
                    f"({one_line(error, limit=80)}). Give a local file."
                ) from error
        try:
            return cls(load_file(path))
        except UserError:
            raise
        except Exception as error:
            raise CheckpointError(f"{path} can't be read: {one_line(error)}") from error

    def save_pretrained(self, save_directory: PathOrId, **_: Any) -> None:
        """Write the weights into a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / _ADAPTER_FILE)

    @property
    def embed_dim(self) -> int:
        """Values in the image embedding that it takes."""
        return self.tensors[_PLAIN_ADAPTER].shape[1]

    def by_part(self) -> dict[str, dict[str, Tensor]]:
        """Give the weights as diffusers' `load_ip_adapter` takes them."""
        parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for name, value in self.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        return parts


_ADAPTER_FILE = "ip_adapter.safetensors"


def kind_of(index: dict[str, Any], folder: Path) -> str:
    """Tell which decoder a checkpoint of diffusers' own pipelines makes.

    Raises:
        CheckpointError: If it makes none.
    """
    class_name = index.get("_class_name")
    if class_name not in KINDS:
        raise CheckpointError(
            f"{folder} holds a {class_name}. Expected AudioToImagePipeline, or one of "
            f"{', '.join(KINDS)}."
        )
    return KINDS[class_name]


def part_folders(kind: str, index: dict[str, Any]) -> dict[str, str]:
    """Give the folder of each part that a decoder of a kind needs, by a pipeline's index."""
    parts = ["scheduler", "unet", "vae"]
    if kind in ("stable-unclip", "ip-adapter"):
        parts += ["text_encoder", "tokenizer"]
    if kind == "stable-unclip":
        parts += ["image_normalizer", "image_noising_scheduler"]
    optional = (*SMALL_PARTS, "ip_adapter")
    parts += [part for part in optional if index.get(part, [None])[0]]
    renamed = _FOLDERS.get(kind, {}) if index.get("_class_name") in KINDS else {}
    return {part: renamed.get(part, part) for part in parts}


def load_decoder_parts(
    folder: Path,
    index: dict[str, Any],
    kind: str,
    dtypes: Callable[[str], torch.dtype],
    variant: str | None,
) -> dict[str, Any]:
    """Load what a decoder consists of, each part strictly.

    Args:
        folder: The pipeline's folder.
        index: What its `model_index.json` says.
        kind: Which decoder it is.
        dtypes: The dtype of each part.
        variant: The weights' variant.

    Returns:
        The parts by the names that `AudioToImagePipeline` has for them.

    Raises:
        CheckpointError: If one is missing or of another class, or its weights don't fit.
    """
    loaded: dict[str, Any] = {}
    for part, place in part_folders(kind, index).items():
        if part in ("scheduler", "image_noising_scheduler"):
            loaded[part] = load_scheduler(folder, index, part=part)
        elif part == "tokenizer":
            loaded[part] = _load_tokenizer(folder / place)
        elif part == "ip_adapter":
            loaded[part] = IPAdapterWeights.from_pretrained(folder / place)
        else:
            model = autoencoder_class(index, place, folder) if part == "vae" else _MODELS[part]
            loaded[part] = load_strictly(
                model, part_folder(folder, place), dtype=dtypes(part), variant=variant
            )
    return loaded


def own_space(
    name: str, kind: str, clip: ClipEncoder | PathOrId | None, **access: Any
) -> EmbeddingSpace | None:
    """Find out which embeddings a published decoder understands.

    Stable unCLIP brings its CLIP's image tower. A whole CLIP that holds the very weights of that
    tower counts as the same, though its fingerprint is another. The other decoders bring none: the
    CLIP that is named for them is taken at its word.

    Args:
        name: The decoder's checkpoint.
        kind: Which decoder it is.
        clip: What the user gives as its CLIP.
        **access: As for `read_space`.

    Returns:
        The space, or None if it isn't known.
    """
    named = clip_space(clip, **access)
    if kind != "stable-unclip":
        return named
    own = clip_space(name, **access)
    if isinstance(clip, str | os.PathLike):
        whole = find_checkpoint(os.fspath(clip), "clip", **access)
        if holds_weights(whole.weights, find_checkpoint(name, "clip", **access).weights):
            return named
    return own


def embedding_norm(kind: str, parts: dict[str, Any], clip: ClipEncoder | None) -> float:
    """Find the L2 norm of the embeddings that a published decoder was trained on.

    Stable unCLIP's normalizer tells it: what it maps to unit variance has the squared norm
    `|mean|^2 + |std|^2` on average. The others were trained on what their CLIP's image tower gives,
    so that its outputs for three photographs tell it; without that CLIP it is left at 1.
    """
    if kind == "stable-unclip":
        normalizer = parts["image_normalizer"]
        squares = normalizer.mean.float().square().sum() + normalizer.std.float().square().sum()
        return float(squares.detach().sqrt())
    if clip is None or "image" not in clip.modalities:
        return 1.0
    from skimage import data

    photographs = [Image.fromarray(load()) for load in (data.astronaut, data.chelsea, data.coffee)]
    return float(clip.encode_image(photographs, normalize=False).norm(dim=1).mean())


def zero_picture_embedding(clip: ClipEncoder | None) -> LearnedNegativeEmbedding | None:
    """Embed a picture of zeros, which Kandinsky was trained to guide away from."""
    if clip is None or "image" not in clip.modalities:
        return None
    grey = clip.preprocess("image", [Image.new("RGB", (64, 64))])[0]
    pixels = torch.zeros_like(cast(dict[str, Tensor], grey)["pixel_values"])
    with torch.no_grad():
        vector = clip("image", {"pixel_values": pixels})[0].float().cpu()
    return LearnedNegativeEmbedding.from_vector(vector, origin="picture of zeros")


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    try:
        with quietly():
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"The tokenizer in {folder} can't be loaded: {one_line(error)}"
        ) from error
