"""Short names of checkpoints: presets on the hub and the demo models."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clip2clap.core.errors import UserError

DEMO_FOLDER = Path(__file__).parents[1] / "demo_models"
"""Folder of the demo models."""

Kind = Literal["clip", "clap", "generator", "decoder"]


@dataclass(frozen=True)
class Preset:
    """Checkpoint with a short name."""

    id: str
    """Short name."""

    repo_id: str
    """Hub id, or the folder of a demo model."""

    license: str
    """License of the weights, as stated in their model card."""

    note: str
    """Properties in a few words."""

    companions: Mapping[str, str] = field(default_factory=dict)
    """Further checkpoints that it needs, by role: `clip`, `ip_adapter`."""


def _by_id(*presets: Preset) -> dict[str, Preset]:
    return {preset.id: preset for preset in presets}


_DEMO_LICENSE = "see the model card of the demo models"
_OPENAI = "MIT"
_CC_BY_NC_SA = "CC BY-NC-SA 4.0"

CLIP_PRESETS = _by_id(
    Preset(
        "demo",
        str(DEMO_FOLDER / "image_to_audio" / "clip"),
        _DEMO_LICENSE,
        "small, comes with the package, 23 classes",
    ),
    Preset(
        "clip-vit-base-patch32",
        "openai/clip-vit-base-patch32",
        _OPENAI,
        "512-d, the fastest of the real ones",
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
        "1024-d, the strongest and the slowest",
    ),
)

CLAP_PRESETS = _by_id(
    Preset(
        "demo",
        str(DEMO_FOLDER / "clap"),
        _DEMO_LICENSE,
        "small, comes with the package, 23 classes",
    ),
    Preset(
        "clap-htsat-unfused",
        "laion/clap-htsat-unfused",
        "Apache-2.0",
        "512-d, with an audio encoder; not the CLAP inside AudioLDM",
    ),
    Preset(
        "larger-clap-general",
        "laion/larger_clap_general",
        "Apache-2.0",
        "512-d, with an audio encoder; general audio, music and speech",
    ),
)

GENERATOR_PRESETS = _by_id(
    Preset(
        "demo",
        str(DEMO_FOLDER / "image_to_audio"),
        _DEMO_LICENSE,
        "small, comes with the package, 23 classes",
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
        _DEMO_LICENSE,
        "small, comes with the package; its images are blurred sketches",
    ),
    Preset(
        "kandinsky-2-2",
        "kandinsky-community/kandinsky-2-2-decoder",
        "Apache-2.0",
        "conditioned on a CLIP bigG image embedding, no text",
        {"clip": "kandinsky-community/kandinsky-2-2-prior"},
    ),
    Preset(
        "stable-unclip",
        "stabilityai/stable-diffusion-2-1-unclip",
        "CreativeML Open RAIL++-M",
        "conditioned on a CLIP ViT-H image embedding, and text",
    ),
    Preset(
        "stable-unclip-small",
        "stabilityai/stable-diffusion-2-1-unclip-small",
        "CreativeML Open RAIL++-M",
        "conditioned on a CLIP ViT-L image embedding, and text",
    ),
    Preset(
        "stable-diffusion-1-5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CreativeML Open RAIL-M",
        "with an IP-Adapter: conditioned on a CLIP ViT-H image embedding, and text",
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


# A CLAP may be the one in a generator's checkpoint, a CLIP the one in a decoder's.
_CONTAINERS: dict[Kind, Kind] = {"clap": "generator", "clip": "decoder"}
_OTHER_LIBRARIES = ("open_clip:", "laion_clap:")


def resolve(name: str, kind: Kind) -> str:
    """Return the hub id or local folder of a name.

    Args:
        name: Preset, hub id or folder.
        kind: Model type; one name may be a preset of several types ("demo").

    Returns:
        Hub id or demo folder of a preset; any other name as it is.

    Raises:
        ValueError: If `kind` is unknown.
    """
    if kind not in _PRESETS:
        raise ValueError(f"Expected kind to be one of {', '.join(_PRESETS)}, got {kind!r}.")
    preset = _PRESETS[kind].get(name)
    return name if preset is None else preset.repo_id


def check_name(name: str, kind: Kind, *, param: str | None = None) -> None:
    """Check that a name may refer to a model, without loading it or a request to the hub.

    Args:
        name: Preset, hub id or folder.
        kind: Model type.
        param: Name of the parameter, for the error.

    Raises:
        UserError: If it is neither a preset, nor a folder, nor shaped like a hub id.
    """
    containers = _PRESETS[_CONTAINERS[kind]] if kind in _CONTAINERS else {}
    if name in _PRESETS[kind] or name in containers or name.startswith(_OTHER_LIBRARIES):
        return
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    if not is_hub_id and not Path(name).expanduser().is_dir():
        is_path = name.count("/") > 1 or re.match(r"[./~\\]|[A-Za-z]:", name)
        what = "folder" if is_path else "preset or folder"
        raise UserError(
            f"There is no {kind} {what} {name!r}. {suggestion(name, kind)}", param=param
        )


def suggestion(name: str, kind: Kind) -> str:
    """Return a hint with model names similar to one that was not found.

    Args:
        name: The name that was not found; it is never suggested itself.
        kind: Model type.
    """
    presets = [each for each in _PRESETS[kind] if each != name]
    close = difflib.get_close_matches(Path(name).name, presets, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Give a preset ({', '.join(presets)}), a hub id or a folder."


def names_of(kind: Kind) -> tuple[str, ...]:
    """Return the names of the presets of a model type."""
    return tuple(_PRESETS[kind])


def companions_of(repo_id: str, kind: Kind) -> Mapping[str, str]:
    """Return the further checkpoints that a preset's checkpoint needs; none for any other."""
    presets = _PRESETS[kind].values()
    return next((p.companions for p in presets if p.repo_id == repo_id), {})
