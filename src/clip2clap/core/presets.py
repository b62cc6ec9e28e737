"""Presets: short names of checkpoints on the hub, and of the demo models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DEMO_FOLDER = Path(__file__).parents[1] / "demo_models"
"""Folder of the demo models in the installed package."""

Kind = Literal["clip", "clap", "generator", "decoder"]


@dataclass(frozen=True)
class Preset:
    """Checkpoint with a short name."""

    id: str
    """Short name."""

    repo_id: str
    """Id on the model hub, or for the demo models their folder."""

    licence: str
    """License of the weights, as their model card states it."""

    note: str
    """Description in a few words."""

    companions: Mapping[str, str] = field(default_factory=dict)
    """Further checkpoints that it needs, by component: `clip`, `ip_adapter`."""


def _by_id(*presets: Preset) -> dict[str, Preset]:
    return {preset.id: preset for preset in presets}


_DEMO_LICENCE = "see the model card of the demo models"
_OPENAI = "MIT"
_CC_BY_NC_SA = "CC BY-NC-SA 4.0"

CLIP_PRESETS = _by_id(
    Preset(
        "demo",
        str(DEMO_FOLDER / "image_to_audio" / "clip"),
        _DEMO_LICENCE,
        "small, comes with the package, knows 23 classes",
    ),
    Preset(
        "clip-vit-base-patch32",
        "openai/clip-vit-base-patch32",
        _OPENAI,
        "512-d, the fastest",
    ),
    Preset(
        "clip-vit-base-patch16",
        "openai/clip-vit-base-patch16",
        _OPENAI,
        "512-d, four times the patches",
    ),
    Preset("clip-vit-large-patch14", "openai/clip-vit-large-patch14", _OPENAI, "768-d"),
    Preset(
        "clip-vit-h-14",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "MIT",
        "1024-d, the most accurate and the slowest",
    ),
)

CLAP_PRESETS = _by_id(
    Preset(
        "demo",
        str(DEMO_FOLDER / "clap"),
        _DEMO_LICENCE,
        "small, comes with the package, knows 23 classes",
    ),
    Preset(
        "clap-htsat-unfused",
        "laion/clap-htsat-unfused",
        "Apache-2.0",
        "512-d, with an audio tower; not the CLAP inside AudioLDM",
    ),
    Preset(
        "larger-clap-general",
        "laion/larger_clap_general",
        "Apache-2.0",
        "512-d, with an audio tower; general audio, music and speech",
    ),
)

GENERATOR_PRESETS = _by_id(
    Preset(
        "demo",
        str(DEMO_FOLDER / "image_to_audio"),
        _DEMO_LICENCE,
        "small, comes with the package, knows 23 classes",
    ),
    Preset("audioldm-s-full-v2", "cvssp/audioldm-s-full-v2", _CC_BY_NC_SA, "the smallest AudioLDM"),
    Preset("audioldm-m-full", "cvssp/audioldm-m-full", _CC_BY_NC_SA, "the medium AudioLDM"),
    Preset("audioldm-l-full", "cvssp/audioldm-l-full", _CC_BY_NC_SA, "the large AudioLDM"),
    Preset("musicldm", "ucsd-reach/musicldm", _CC_BY_NC_SA, "music only"),
)

DECODER_PRESETS = _by_id(
    Preset(
        "demo",
        str(DEMO_FOLDER / "audio_to_image"),
        _DEMO_LICENCE,
        "small, comes with the package; its images are blurred sketches",
    ),
    Preset(
        "kandinsky-2-2",
        "kandinsky-community/kandinsky-2-2-decoder",
        "Apache-2.0",
        "takes a CLIP bigG image embedding and no text",
        {"clip": "kandinsky-community/kandinsky-2-2-prior"},
    ),
    Preset(
        "stable-unclip",
        "stabilityai/stable-diffusion-2-1-unclip",
        "CreativeML Open RAIL++-M",
        "takes a CLIP ViT-H image embedding, and text",
    ),
    Preset(
        "stable-unclip-small",
        "stabilityai/stable-diffusion-2-1-unclip-small",
        "CreativeML Open RAIL++-M",
        "takes a CLIP ViT-L image embedding, and text",
    ),
    Preset(
        "stable-diffusion-1-5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CreativeML Open RAIL-M",
        "with an IP-Adapter: takes a CLIP ViT-H image embedding, and text",
        {
            "clip": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            "ip_adapter": "h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
        },
    ),
)

_PRESETS: dict[Kind, dict[str, Preset]] = {
    "clip": CLIP_PRESETS,
    "clap": CLAP_PRESETS,
    "generator": GENERATOR_PRESETS,
    "decoder": DECODER_PRESETS,
}


def resolve(name: str, kind: Kind) -> str:
    """Resolve a preset's name to its hub id or local folder.

    Args:
        name: A preset's name, a hub id, or a folder.
        kind: Type of model, since one name may stand for several ("demo").

    Returns:
        The preset's hub id or folder; any other name unchanged.

    Raises:
        ValueError: If `kind` is none of the four.

    Examples:
        >>> resolve("clip-vit-base-patch32", "clip")
        'openai/clip-vit-base-patch32'
    """
    if kind not in _PRESETS:
        raise ValueError(f"Expected kind to be one of {', '.join(_PRESETS)}, got {kind!r}.")
    preset = _PRESETS[kind].get(name)
    return name if preset is None else preset.repo_id


def names_of(kind: Kind) -> tuple[str, ...]:
    """Return the names of the presets of one type."""
    return tuple(_PRESETS[kind])


def companions_of(repo_id: str, kind: Kind) -> Mapping[str, str]:
    """Return the further checkpoints that a preset needs; none for other checkpoints."""
    presets = _PRESETS[kind].values()
    return next((p.companions for p in presets if p.repo_id == repo_id), {})
