"""Short names of checkpoints: presets on the hub and the demo models."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path

DEMO_FOLDER = Path(__file__).parents[1] / "demo_models"
"""Folder of the demo models."""

Kind = Literal["clip", "clap", "generator", "decoder"]


@dataclass(frozen=True)
class Preset:
    """Checkpoint with a short name.

    `repo_id` is a hub id, or the folder of a demo model; `license` that of the weights, as stated
    in their model card. `companions` are further checkpoints that it needs, by role: `clip`,
    `ip_adapter`.
    """

    id: str
    repo_id: str
    license: str
    note: str
    companions: Mapping[str, str] = field(default_factory=dict)


def _demo(folder: str, note: str = "small, comes with the package, 23 classes") -> Preset:
    return Preset("demo", str(DEMO_FOLDER / folder), "see the model card of the demo models", note)


def _audioldm(repo_id: str, note: str) -> Preset:
    return Preset(repo_id.split("/")[1], repo_id, "CC BY-NC-SA 4.0", note)


_ALL: dict[Kind, tuple[Preset, ...]] = {
    "generator": (
        _demo("image_to_audio"),
        _audioldm("cvssp/audioldm-s-full-v2", "the smallest AudioLDM"),
        _audioldm("cvssp/audioldm-m-full", "the medium AudioLDM"),
        _audioldm("cvssp/audioldm-l-full", "the large AudioLDM"),
        _audioldm("ucsd-reach/musicldm", "music only"),
    ),
    "decoder": (
        _demo("audio_to_image", "small, comes with the package; its images are blurred sketches"),
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
    ),
    "clip": (
        _demo("image_to_audio/clip"),
        Preset(
            "clip-vit-base-patch32",
            "openai/clip-vit-base-patch32",
            "MIT",
            "512-d, the fastest of the real ones",
        ),
        Preset(
            "clip-vit-base-patch16",
            "openai/clip-vit-base-patch16",
            "MIT",
            "512-d, four times the patches",
        ),
        Preset("clip-vit-large-patch14", "openai/clip-vit-large-patch14", "MIT", "768-d"),
        Preset(
            "clip-vit-h-14",
            "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            "MIT",
            "1024-d, the strongest and the slowest",
        ),
    ),
    "clap": (
        _demo("clap"),
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
    ),
}

PRESETS = {kind: {preset.id: preset for preset in presets} for kind, presets in _ALL.items()}
"""Presets by model type and short name."""

# A CLAP may be the one in a generator's checkpoint, a CLIP the one in a decoder's.
_CONTAINERS: dict[Kind, Kind] = {"clap": "generator", "clip": "decoder"}
_OTHER_LIBRARIES = ("open_clip:", "laion_clap:")


def resolve(name: str, kind: Kind) -> str:
    """Return the hub id or demo folder of a preset; any other name as it is."""
    preset = PRESETS[kind].get(name)
    return name if preset is None else preset.repo_id


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
            f"There is no {kind} {what} {name!r}. {suggestion(name, kind)}", param=param
        )


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


def companions_of(repo_id: str, kind: Kind) -> Mapping[str, str]:
    """Return the further checkpoints that a preset's checkpoint needs; none for any other."""
    presets = PRESETS[kind].values()
    return next((p.companions for p in presets if p.repo_id == repo_id), {})
