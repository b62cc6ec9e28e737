"""The space an embedding lives in: which model made it, and from what kind of thing."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from clip2clap.core.errors import UserError

Family = Literal["clip", "clap"]
Modality = Literal["image", "text", "audio"]


class SpaceMismatchError(UserError):
    """Two things were joined whose embeddings live in different spaces."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """Where an embedding comes from; two vectors can be compared only if their models agree."""

    family: Family
    """`clip` or `clap`."""

    model_id: str
    """The preset, hub id or folder the model was loaded from; for people, not for comparing."""

    modality: Modality
    """What was embedded: `image`, `text` or `audio`."""

    dim: int
    """Number of values in a vector."""

    unit_norm: bool
    """Whether every vector has L2 norm 1."""

    fingerprint: str
    """What the weights and the preprocessing come down to; see `read_space`."""

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise UserError(f"Expected family to be 'clip' or 'clap', got {self.family!r}.")
        if self.modality not in get_args(Modality):
            raise UserError(
                f"Expected modality to be 'image', 'text' or 'audio', got {self.modality!r}."
            )
        if not isinstance(self.dim, int) or self.dim < 1:
            raise UserError(f"Expected dim to be a positive whole number, got {self.dim!r}.")
        if not self.fingerprint:
            raise UserError(f"The space of {self.model_id!r} has an empty fingerprint.")

    def to_dict(self) -> dict[str, Any]:
        """Give the space as plain values, for JSON and Arrow metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EmbeddingSpace":
        """Rebuild a space from `to_dict`'s values.

        Raises:
            UserError: If a value is missing or makes no sense.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise UserError(
                f"An embedding space needs {', '.join(names)}; {', '.join(missing)} missing. "
                "Write it with EmbeddingSpace.to_dict()."
            )
        return cls(**{name: values[name] for name in names})

    def same_model_as(self, other: "EmbeddingSpace") -> bool:
        """Tell whether both come from one model; its towers share a joint space."""
        return (self.family, self.dim, self.fingerprint) == (
            other.family,
            other.dim,
            other.fingerprint,
        )

    def in_modality(self, modality: Modality) -> "EmbeddingSpace":
        """Give the space of the same model's other tower."""
        return replace(self, modality=modality)

    def __str__(self) -> str:
        family = {"clip": "CLIP", "clap": "CLAP"}[self.family]
        return f"{family} {self.model_id!r} ({self.dim}-d, fingerprint {self.fingerprint})"


def require_same_model(expected: EmbeddingSpace, got: EmbeddingSpace, *, what: str) -> None:
    """Refuse to join two things whose embeddings come from different models.

    Args:
        expected: The space that the receiving side was made for.
        got: The space of what it is given.
        what: What is being joined, to begin the message with, such as "the translator's target".

    Raises:
        SpaceMismatchError: If the models differ; the message names both.
    """
    if expected.same_model_as(got):
        return
    raise SpaceMismatchError(
        f"{what}: expected embeddings of {expected}, got {got}. Two encoders are two spaces, even "
        f"at the same size: load {expected.model_id!r}, or train a translator for {got.model_id!r}."
    )
