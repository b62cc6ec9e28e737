"""Provenance of a translator: its spaces, training settings, data and metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import Any, Self

from clip2clap.core.version import __version__
from clip2clap.embeddings.space import EmbeddingSpace


def library_versions() -> dict[str, str]:
    """Return the versions of clip2clap and of the libraries that a translator depends on."""
    import torch

    versions = {"torch": torch.__version__, "diffusers": metadata.version("diffusers")}
    return {"clip2clap": __version__, **versions}


@dataclass(frozen=True)
class Provenance:
    """Facts about a translator that do not change what it computes.

    Examples:
        >>> from clip2clap.translator import MLPTranslator, Provenance
        >>> translator = MLPTranslator(provenance=Provenance(recipe={"method": "mlp"}))
        >>> translator.config["recipe"]
        {'method': 'mlp'}
    """

    source_space: EmbeddingSpace | None = None
    """Space of the input embeddings."""

    target_space: EmbeddingSpace | None = None
    """Space of the output embeddings."""

    recipe: dict[str, Any] | None = None
    """Training or fitting settings."""

    metrics: dict[str, Any] | None = None
    """Retrieval metrics on held-out pairs."""

    data: str | None = None
    """Fingerprint of the training pairs."""

    versions: dict[str, str] = field(default_factory=library_versions)
    """Library versions at training."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the facts from a translator's config; other keys are ignored.

        Raises:
            UserError: If a space is broken.
        """
        known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        for side in ("source_space", "target_space"):
            if side in known:
                known[side] = EmbeddingSpace.from_dict(known[side])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain values, for `config.json`."""
        return asdict(self)
