"""Base class of all translators: maps of unit vectors from one embedding space to another."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from clip2clap.core.errors import UserError, expect, is_integer
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError, require_same_model
from clip2clap.translator.saving import Provenance, SavedModule


class Translator(SavedModule):
    """Map from one embedding space to another, such as from CLIP image to CLAP embeddings.

    A torch module that is saved, loaded and pushed to the hub as a diffusers model is, and a
    component of a diffusers pipeline. Subclasses implement `translate`.

    Args:
        arguments: The subclass's `locals()`: its provenance, and the options for `config.json`.

    Raises:
        UserError: If a size is not a positive whole number, `dropout` is out of range, or a space
            has another size.

    Examples:
        >>> from clip2clap import AutoTranslator, ClipEncoder
        >>> translator = AutoTranslator.from_pretrained("demo")
        >>> translator(ClipEncoder.from_pretrained("demo").encode_image(["dog.jpg"])).shape
        torch.Size([1, 512])
    """

    objective: ClassVar[Literal["regression", "diffusion"]] = "regression"
    """Training objective: a loss on the translated vectors, or a denoising loss."""

    # Too small to be worth it in a pipeline.
    _supports_group_offloading = False

    source_mean: Tensor | None
    """Mean subtracted from the unit-norm input, shape (source_dim,), or None."""

    target_mean: Tensor | None
    """Mean added to the output before normalization, shape (target_dim,), or None."""

    def __init__(self, arguments: Mapping[str, Any]):
        super().__init__(arguments)
        options = self._options
        self.source_dim = options["source_dim"]
        """Length of the input vectors."""
        self.target_dim = options["target_dim"]
        """Length of the output vectors."""
        for name in ("source_dim", "target_dim", "hidden_size"):
            check_count(name, options.get(name, 1), most=2**16)
        check_count("blocks", options.get("blocks", 1), most=1_000)
        dropout = options.get("dropout", 0)
        is_share = isinstance(dropout, int | float) and 0 <= dropout < 1
        expect(is_share, "dropout", "from 0 to below 1", dropout)
        for name in {"bias", "centered"} & options.keys():
            expect(isinstance(options[name], bool), name, "True or False", options[name])
        self._check_provenance(self.provenance)
        has_means = options.get("centered", False)
        for side, dim in (("source", self.source_dim), ("target", self.target_dim)):
            self.register_buffer(f"{side}_mean", torch.zeros(dim) if has_means else None)

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors (n, source_dim) to vectors of any norm (n, target_dim), in one dtype."""
        raise NotImplementedError

    def forward(self, embeds: Tensor) -> Tensor:
        """Map embeddings from the source space into the target space.

        Args:
            embeds: Source embeddings, shape (n, source_dim), floating point, of any nonzero norm.

        Returns:
            Target embeddings, shape (n, target_dim), unit norm, in the translator's dtype.

        Raises:
            UserError: If the shape or dtype is wrong, or a vector is zero or not finite.
        """
        return self.finish(self.translate(self._checked(embeds))).to(self.dtype)

    def sample(
        self,
        embeds: Tensor,
        *,
        num_samples: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Draw several target embeddings for each source embedding.

        Args:
            embeds: Source embeddings, as in `forward`.
            num_samples: Samples per embedding.
            generator: One for all, or one per embedding. A deterministic translator ignores it
                and repeats its output.

        Returns:
            Target embeddings, shape (n, num_samples, target_dim), unit norm, in the translator's
            dtype.

        Raises:
            UserError: As in `forward`.
        """
        del generator
        return self(embeds)[:, None].expand(-1, num_samples, -1)

    def prepare(self, units: Tensor) -> Tensor:
        """Subtract the source mean, if there is one, and normalize again.

        Unit vectors (n, source_dim) become the input of `translate`, in the same shape and dtype.
        """
        if self.source_mean is None:
            return units
        return unit_norm(units - self.source_mean).to(units.dtype)

    def finish(self, translated: Tensor) -> Tensor:
        """Add the target mean to the output of `translate`, if there is one, and normalize.

        Vectors (..., target_dim) become unit vectors of the same shape, in float32.
        """
        if self.target_mean is not None:
            translated = translated + self.target_mean
        return unit_norm(translated)

    @torch.no_grad()
    def center(self, source_mean: Tensor, target_mean: Tensor | None = None) -> None:
        """Set the means, to close the gap between modalities.

        With the mean of image embeddings, a translator trained on captions maps images as it maps
        captions; see C3 (Zhang et al. 2024), https://arxiv.org/abs/2401.08567.

        Args:
            source_mean: Mean of the unit-norm source embeddings, shape (source_dim,).
            target_mean: Mean of the unit-norm target embeddings, shape (target_dim,); unchanged
                if None.

        Raises:
            UserError: If the translator was created without `centered`, or a shape is wrong.
        """
        for side, mean in (("source", source_mean), ("target", target_mean)):
            own = getattr(self, f"{side}_mean")
            if mean is not None and own is None:
                raise UserError("This translator keeps no means: train it with center=True.")
            if mean is not None and mean.shape != own.shape:
                raise UserError(
                    f"Expected a {side} mean of shape {tuple(own.shape)}, got {tuple(mean.shape)}."
                )
            if mean is not None:
                own.copy_(mean)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Reinitialize all linear layers in order, as `nn.Linear` does by default.

        Equal seeds of the generator, which is on the CPU, give equal weights.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                for weight in layer.parameters(recurse=False):
                    drawn = torch.empty(weight.shape, dtype=torch.float32)
                    weight.copy_(drawn.uniform_(-bound, bound, generator=generator))

    def record(self, **facts: Any) -> None:
        """Replace fields of the provenance, such as `metrics` once they are measured.

        Raises:
            TypeError: If `Provenance` has no such field.
            SpaceMismatchError: If a space has the wrong dimension.
        """
        provenance = dataclasses.replace(self.provenance, **facts)
        self._check_provenance(provenance)
        self._provenance = provenance

    @property
    def source_space(self) -> EmbeddingSpace | None:
        """Space of the input embeddings; None if not recorded."""
        return self.provenance.source_space

    @property
    def target_space(self) -> EmbeddingSpace | None:
        """Space of the output embeddings; None if not recorded."""
        return self.provenance.target_space

    def check_source(self, space: EmbeddingSpace | None) -> None:
        """Raise an error for embeddings of another model than the source's.

        Args:
            space: Space of the embeddings; None if unknown. The modalities of a model count as
                one: a translator trained on captions maps images, too.

        Raises:
            SpaceMismatchError: If the models differ; the message names both. A translator without
                a recorded space compares the dimension only.
        """
        _check_space(self.source_space, self.source_dim, space, "The translator's source")

    def check_target(self, space: EmbeddingSpace | None) -> None:
        """Raise an error, as `check_source`, if the output is to be used in another space."""
        _check_space(self.target_space, self.target_dim, space, "The translator's target")

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def _check_provenance(self, provenance: Provenance) -> None:
        for side in ("source", "target"):
            space, dim = getattr(provenance, f"{side}_space"), getattr(self, f"{side}_dim")
            _check_space(None, dim, space, f"The translator's {side}")

    def _checked(self, embeds: Tensor) -> Tensor:
        """Check the input of `forward`, and return the input of `translate`."""
        if not isinstance(embeds, Tensor):
            raise UserError(
                f"Expected embeds to be a torch.Tensor of shape (n, {self.source_dim}), got a "
                f"{type(embeds).__name__}. Convert a NumPy array with torch.from_numpy."
            )
        if embeds.dim() != 2 or embeds.shape[-1] != self.source_dim:
            one = embeds.dim() == 1 and len(embeds) == self.source_dim
            made_for = f" (made for {self.source_space})" if self.source_space else ""
            raise UserError(
                f"Expected embeds of shape (n, {self.source_dim}){made_for}, got "
                f"{tuple(embeds.shape)}. "
                + ("For one vector give embeds[None]." if one else "Use the encoder it belongs to.")
            )
        if not embeds.is_floating_point():
            raise UserError(f"Expected embeds of a floating dtype, got {embeds.dtype}.")
        norms = embeds.float().norm(dim=-1, keepdim=True)  # (n, 1)
        if not bool(((norms > 0) & norms.isfinite()).all()):
            raise UserError(_describe_bad_rows(embeds, norms))
        return self.prepare((embeds / norms).to(self.dtype))


def check_count(name: str, value: Any, *, most: int) -> None:
    """Raise an error if an option is no whole number from 1 to `most`."""
    is_count = is_integer(value) and 1 <= value <= most
    expect(is_count, name, f"a positive whole number up to {most:,}", value)


def _describe_bad_rows(embeds: Tensor, norms: Tensor) -> str:
    finite = embeds.isfinite().all(dim=-1)
    zero = norms.squeeze(-1) == 0
    if not finite.all():
        bad, fault = ~finite, "hold NaN or infinity"
    elif zero.any():
        bad, fault = zero, "are all zeros, which have no direction"
    else:
        bad, fault = ~norms.squeeze(-1).isfinite(), "are too large: their norm overflows"
    rows = bad.nonzero().flatten().tolist()
    return (
        f"{len(rows)} of {len(embeds)} embeds {fault} (the first is row {rows[0]}). Leave them "
        "out, or compute them again."
    )


def _check_space(
    expected: EmbeddingSpace | None, dim: int, got: EmbeddingSpace | None, what: str
) -> None:
    if got is not None and expected is not None:
        require_same_model(expected, got, what=what)
    elif got is not None and got.dim != dim:
        raise SpaceMismatchError(f"{what}: expected vectors of {dim} values, got {got}.")
