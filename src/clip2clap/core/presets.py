"""Short names of checkpoints: presets on the hub and the demo models."""

import difflib
import re
from pathlib import Path
from typing import Literal

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path

DEMO_FOLDER = Path(__file__).parents[1] / "demo_models"
"""Folder of the demo models."""

Kind = Literal[
    "clip",
    "clap",
    "generator",
    "decoder",
    "captioner",
    "language_model",
    "speech_encoder",
    "text_model",
]


_CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

PRESETS: dict[Kind, dict[str, str]] = {
    "generator": {
        "demo": str(DEMO_FOLDER / "image_to_audio"),
        "audioldm-s-full-v2": "cvssp/audioldm-s-full-v2",
        "audioldm-m-full": "cvssp/audioldm-m-full",
        "audioldm-l-full": "cvssp/audioldm-l-full",
        "musicldm": "ucsd-reach/musicldm",
    },
    "decoder": {
        "demo": str(DEMO_FOLDER / "audio_to_image"),
        "kandinsky-2-2": "kandinsky-community/kandinsky-2-2-decoder",
        "stable-unclip": "stabilityai/stable-diffusion-2-1-unclip",
        "stable-unclip-small": "stabilityai/stable-diffusion-2-1-unclip-small",
        "stable-diffusion-1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    },
    "clip": {
        "demo": str(DEMO_FOLDER / "image_to_audio/clip"),
        "clip-vit-base-patch32": "openai/clip-vit-base-patch32",
        "clip-vit-base-patch16": "openai/clip-vit-base-patch16",
        "clip-vit-large-patch14": "openai/clip-vit-large-patch14",
        "clip-vit-h-14": _CLIP_H,
    },
    "clap": {
        "demo": str(DEMO_FOLDER / "clap"),
        "clap-htsat-unfused": "laion/clap-htsat-unfused",
        "larger-clap-general": "laion/larger_clap_general",
    },
    "captioner": {
        "demo": str(DEMO_FOLDER / "captioner/clip"),
        "demo-clap": str(DEMO_FOLDER / "captioner/clap"),
    },
    "language_model": {
        "demo": str(DEMO_FOLDER / "captioner/language_model"),
        "gpt2": "openai-community/gpt2",
        "gpt2-medium": "openai-community/gpt2-medium",
    },
    "speech_encoder": {"demo": str(DEMO_FOLDER / "speech")},
    "text_model": {
        "stable-diffusion-1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
        "sdxl-turbo": "stabilityai/sdxl-turbo",
    },
}
"""Hub ids, or folders of demo models, by model type and short name."""

DEFAULT_CLIP, DEFAULT_GENERATOR = "clip-vit-base-patch32", "audioldm-s-full-v2"
"""Presets that translators are made for by default."""

COMPANIONS: dict[str, dict[str, str]] = {
    PRESETS["decoder"]["kandinsky-2-2"]: {"clip": "kandinsky-community/kandinsky-2-2-prior"},
    PRESETS["decoder"]["stable-diffusion-1-5"]: {
        "clip": _CLIP_H,
        "ip_adapter": "h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
    },
}
"""Further checkpoints that a preset's checkpoint needs, by its hub id and their role."""

# A CLAP may be the one in a generator's checkpoint, a CLIP the one in a decoder's.
_CONTAINERS: dict[Kind, Kind] = {"clap": "generator", "clip": "decoder"}
_OTHER_LIBRARIES = ("open_clip:", "laion_clap:", "audioclip:")


def resolve(name: str, kind: Kind) -> str:
    """Return the hub id or demo folder of a preset; any other name as it is."""
    return PRESETS[kind].get(name, name)


def check_name(name: str, kind: Kind, *, param: str | None = None) -> None:
    """Raise unless a name is a preset, a folder or shaped like a hub id; nothing is requested."""
    containers = PRESETS[_CONTAINERS[kind]] if kind in _CONTAINERS else {}
    if name in PRESETS[kind] or name in containers or name.startswith(_OTHER_LIBRARIES):
        return
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    if not is_hub_id and not as_path(name).is_dir():
        is_path = name.count("/") > 1 or re.match(r"[./~\\]|[A-Za-z]:", name)
        what = "folder" if is_path else "preset or folder"
        raise UserError(
            f"There is no {kind.replace('_', ' ')} {what} {name!r}. {suggestion(name, kind)}",
            param=param,
        )


def public_name(name: str) -> str:
    """Return the name of a model, `demo` in place of the installed folder of a demo model."""
    return "demo" if DEMO_FOLDER in Path(name).absolute().parents else name


def is_hub_id(name: str) -> bool:
    """Return whether a name that is no folder may be a repository's on the hub: owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def suggestion(name: str, kind: Kind) -> str:
    """Return a hint with a name similar to one that was not found, or with all presets."""
    presets = [each for each in PRESETS[kind] if each != name]
    close = difflib.get_close_matches(Path(name).name, presets, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Give a preset ({', '.join(presets)}), a hub id or a folder."
