"""Embedding spaces: the model and modality that embeddings come from."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from clip2clap.core.errors import UserError, expect, is_integer

Family = Literal["clip", "clap"]
Modality = Literal["image", "text", "audio"]


class SpaceMismatchError(UserError):
    """Error of embeddings of different models used together."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """Embedding space of one modality of a model; embeddings compare only within one model.

    Examples:
        >>> space = EmbeddingSpace("clip", "my/clip", "image", 512, True, "c37ebb4187e04d1b")
        >>> space.same_model_as(space.in_modality("text"))
        True
        >>> print(space)
        CLIP 'my/clip' (512-d, fingerprint c37ebb4187e04d1b)
    """

    family: Family
    """Encoder family, `"clip"` or `"clap"`."""

    model_id: str
    """Preset, hub id or folder of the model; informative, not compared."""

    modality: Modality
    """Modality, `"image"`, `"text"` or `"audio"`."""

    dim: int
    """Dimension of the embeddings."""

    unit_norm: bool
    """True if every embedding has L2 norm 1."""

    fingerprint: str
    """Fingerprint of the weights and the preprocessing."""

    def __post_init__(self) -> None:
        families, modalities = get_args(Family), get_args(Modality)
        expect(self.family in families, "family", "'clip' or 'clap'", self.family)
        expected = "'image', 'text' or 'audio'"
        expect(self.modality in modalities, "modality", expected, self.modality)
        is_positive = is_integer(self.dim) and self.dim > 0
        expect(is_positive, "dim", "a positive whole number", self.dim)
        if not self.fingerprint:
            raise UserError(f"The space of {self.model_id!r} has an empty fingerprint.")

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain values, for JSON and Arrow metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EmbeddingSpace":
        """Create a space from the values of `to_dict`; raise if one is missing or invalid."""
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise UserError(
                f"An embedding space needs {', '.join(names)}; {', '.join(missing)} missing. "
                "Write it with EmbeddingSpace.to_dict()."
            )
        return cls(**{name: values[name] for name in names})

    def same_model_as(self, other: "EmbeddingSpace") -> bool:
        """Return True if both spaces belong to one model, whose modalities share a joint space.

        A model of images, audio and texts, such as AudioCLIP, is one model as a CLIP and as a CLAP.
        """
        return (self.dim, self.fingerprint) == (other.dim, other.fingerprint)

    def in_modality(self, modality: Modality) -> "EmbeddingSpace":
        """Return the space of another modality of the same model."""
        return replace(self, modality=modality)

    def __str__(self) -> str:
        family = {"clip": "CLIP", "clap": "CLAP"}[self.family]
        return f"{family} {self.model_id!r} ({self.dim}-d, fingerprint {self.fingerprint})"


def require_same_model(expected: EmbeddingSpace, got: EmbeddingSpace, *, what: str) -> None:
    """Raise a `SpaceMismatchError` if embeddings of different models are used together.

    Its message begins with `what`, such as "the translator's target", and names both models.
    """
    if expected.same_model_as(got):
        return
    raise SpaceMismatchError(
        f"{what}: expected embeddings of {expected}, got {got}. Two encoders are two spaces, even "
        f"at the same size: load {expected.model_id!r}, or train a translator for {got.model_id!r}."
    )
