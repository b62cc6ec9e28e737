"""Model card of a speech encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip2clap.core.card import table, write_sections
from clip2clap.embeddings.space import EmbeddingSpace

_TAGS = ["clip", "speech", "cross-modal", "retrieval"]


def write_card(encoder: Any, folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Write the model card of a speech encoder beside its files.

    Args:
        encoder: `SpeechEncoder`.
        folder: Folder that it was saved to.
        name: Title.
        facts: `recipe`, `data` and `metrics` of its training.
    """
    from huggingface_hub import ModelCardData

    space = encoder.space("audio")
    config = encoder.backend.config
    usage = (
        "from clip2clap import SpeechEncoder\n\n"
        f"speech = SpeechEncoder.from_pretrained({json.dumps(name)})\n"
        'embeds = speech.encode_audio(["say.wav"])'
    )
    settings = {**(facts.get("recipe") or {})}
    if "data" in facts:
        settings["data"] = facts["data"]
    sections = {
        "Usage": f"```python\n{usage}\n```",
        "Space": f"That of {space}: compare only with images and texts of this CLIP.",
        "Network": table(
            ["Part", "Value"],
            {
                "backbone": config.backbone_config.model_type,
                "window": f"{config.window_s:g} s at {config.sampling_rate} Hz",
                "pooling": f"attention of {config.pooling_heads} heads",
                "fingerprint": encoder.fingerprint,
            }.items(),
        ),
        "Training": table(["Setting", "Value"], settings.items()),
        "Metrics": table(["Metric", "Value"], (facts.get("metrics") or {}).items()),
        "License": f"Not stated. The licenses of {space.model_id} and of the training data apply.",
    }
    data = ModelCardData(library_name="clip2clap", tags=_TAGS, base_model=_on_hub(space))
    opening = f"Speech encoder of clip2clap: maps speech to {space.dim} values of {space.model_id}."
    write_sections(folder, name, data.to_yaml(), opening, sections)


def _on_hub(space: EmbeddingSpace) -> str | None:
    return space.model_id if space.model_id.count("/") == 1 else None
