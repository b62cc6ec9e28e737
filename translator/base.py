"""What every translator is: a map of unit vectors from one embedding space to another."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

import clip2clap
from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    SpaceMismatchError,
    require_same_model,
)
from clip2clap.translator.checkpoint import (
    FORMAT_VERSION,
    check_weights,
    find_folder,
    read_config,
    upgrade_config,
    weights_file,
)


class Translator(ModelMixin, ConfigMixin):
    """Carries the embeddings of one space into another.

    A diffusers model: saved, loaded and pushed to the hub like any other, and a component of a
    pipeline. Its config also says which two spaces it joins, how it was trained and how well it
    did on pairs it had not seen. Subclasses give the map itself in `translate`.
    """

    # Too small for it to be worth anything, and it would complicate `to`.
    _supports_group_offloading = False

    source_mean: Tensor | None
    """What is taken off every unit vector that goes in, shape (source_dim,); None for nothing."""

    target_mean: Tensor | None
    """What is added to every vector that comes out, shape (target_dim,); None for nothing."""

    def translate(self, embeds: Tensor) -> Tensor:
        """Map vectors; what comes in has unit norm and what goes out need not.

        Args:
            embeds: Shape (n, source_dim), unit norm, in the translator's own dtype.

        Returns:
            Vectors, shape (n, target_dim).
        """
        raise NotImplementedError

    def forward(self, embeds: Tensor) -> Tensor:
        """Carry embeddings from the source space into the target space.

        Args:
            embeds: Embeddings of the source space, shape (n, source_dim), floating point, of any
                norm but zero: only their direction counts.

        Returns:
            Embeddings of the target space, shape (n, target_dim), unit norm, in the translator's
            dtype.

        Raises:
            UserError: If the shape or dtype is wrong, or a vector is zero or not finite.
        """
        return self.finish(self.translate(self._prepared(embeds))).to(self.dtype)

    def sample(
        self,
        embeds: Tensor,
        *,
        num_samples: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Give several answers to each embedding, where the translator knows several.

        Args:
            embeds: Embeddings of the source space, as in `forward`.
            num_samples: How many answers for each.
            generator: What they are drawn with: one for all, or one for each of `embeds`. A
                translator that has one answer only draws nothing and repeats it.

        Returns:
            Embeddings of the target space, shape (n, num_samples, target_dim), unit norm, in the
            translator's dtype.

        Raises:
            UserError: As in `forward`.
        """
        del generator
        return self(embeds)[:, None].expand(-1, num_samples, -1)

    def prepare(self, units: Tensor) -> Tensor:
        """Take the source's mean off unit vectors, if there is one, and scale to unit norm again.

        Args:
            units: Shape (n, source_dim), unit norm.

        Returns:
            What `translate` takes: shape (n, source_dim), unit norm, of the same dtype.
        """
        if self.source_mean is None:
            return units
        return unit_norm(units - self.source_mean).to(units.dtype)

    def finish(self, translated: Tensor) -> Tensor:
        """Add the target's mean to what `translate` gives, if there is one, and scale to unit norm.

        Args:
            translated: Shape (..., target_dim).

        Returns:
            Shape (..., target_dim), unit norm, float32.
        """
        if self.target_mean is not None:
            translated = translated + self.target_mean
        return unit_norm(translated)

    @torch.no_grad()
    def centre(self, source_mean: Tensor, target_mean: Tensor | None = None) -> None:
        """Set the means, to close the gap between modalities.

        A translator trained on captions sees pictures where it saw captions if it is given the mean
        of pictures' unit vectors; see C3 (Zhang et al. 2024), https://arxiv.org/abs/2401.08567.

        Args:
            source_mean: Mean of the source's unit vectors, shape (source_dim,).
            target_mean: Mean of the target's unit vectors, shape (target_dim,); as it was if None.

        Raises:
            UserError: If the translator was made without `centred`, or a shape is wrong.
        """
        for side, own, mean in (
            ("source", self.source_mean, source_mean),
            ("target", self.target_mean, target_mean),
        ):
            if mean is None:
                continue
            if own is None:
                raise UserError("This translator keeps no means: train it with centring.")
            if mean.shape != own.shape:
                raise UserError(
                    f"Expected a {side} mean of shape {tuple(own.shape)}, got {tuple(mean.shape)}."
                )
            own.copy_(mean)

    @property
    def source_dim(self) -> int:
        """Length of the vectors that go in."""
        return self.config["source_dim"]

    @property
    def target_dim(self) -> int:
        """Length of the vectors that come out."""
        return self.config["target_dim"]

    @property
    def source_space(self) -> EmbeddingSpace | None:
        """The space of the vectors that go in; None if it was not recorded."""
        space = self.config["source_space"]
        return None if space is None else EmbeddingSpace.from_dict(space)

    @property
    def target_space(self) -> EmbeddingSpace | None:
        """The space of the vectors that come out; None if it was not recorded."""
        space = self.config["target_space"]
        return None if space is None else EmbeddingSpace.from_dict(space)

    def check_source(self, space: EmbeddingSpace) -> None:
        """Refuse embeddings of another model than the one this translator was trained on.

        Args:
            space: Where the embeddings come from. The towers of one model count as one: a
                translator trained on captions takes pictures.

        Raises:
            SpaceMismatchError: If the models differ; the message names both. Where the translator
                doesn't know its own space, only the length of the vectors can be compared.
        """
        _check_space(self.source_space, self.source_dim, space, "The translator's source")

    def check_target(self, space: EmbeddingSpace) -> None:
        """Refuse a use of the output in another model's space than it was trained for.

        Args:
            space: Where the output is to be used, such as a generator's CLAP.

        Raises:
            SpaceMismatchError: If the models differ; the message names both. Where the translator
                doesn't know its own space, only the length of the vectors can be compared.
        """
        _check_space(self.target_space, self.target_dim, space, "The translator's target")

    def record(self, **facts: Any) -> None:
        """Write facts into the config that only became known after the translator was made.

        Args:
            **facts: `source_space` or `target_space` (an `EmbeddingSpace`), `recipe`, `metrics` or
                `data`.

        Raises:
            UserError: If a fact is none of these, or a space has the wrong length.
        """
        known = ("source_space", "target_space", "recipe", "metrics", "data")
        for name in facts:
            if name not in known:
                raise UserError(f"Expected one of {', '.join(known)}, got {name!r}.")
        self._register(facts)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any
    ) -> Self:
        """Load a translator, with its weights checked one by one.

        Args:
            pretrained_model_name_or_path: A folder written by `save_pretrained`, a hub id, or
                `"demo"`, or `"demo-back"` for the demo's from CLAP to CLIP.
            **kwargs: As in diffusers: `torch_dtype`, `subfolder`, `variant`, `revision`, `token`,
                `local_files_only`, `cache_dir`, `force_download`, `device_map`.

        Returns:
            The translator, in evaluation mode.

        Raises:
            ModelNotFoundError: If there is no such translator, or the hub can't be reached.
            CheckpointError: If it is of another kind, a weight is missing, unknown or wrongly
                sized, or its config is broken.
        """
        if pretrained_model_name_or_path is None:
            raise UserError("Expected a translator's folder or hub id, got None.")
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise UserError(f"Expected torch_dtype to be such as torch.float16, got {dtype!r}.")
        places = {name: kwargs.pop(name, None) for name in ("subfolder", "revision", "token")}
        for name in ("local_files_only", "force_download"):
            places[name] = bool(kwargs.pop(name, False))
        places["cache_dir"] = kwargs.pop("cache_dir", None)
        folder = find_folder(pretrained_model_name_or_path, variant=kwargs.get("variant"), **places)
        config = read_config(folder)
        cls._check_config(config, folder)
        with torch.device("meta"):
            blank: Any = cls.from_config({**config})
        expected = {key: tuple(weight.shape) for key, weight in blank.state_dict().items()}
        check_weights(folder / weights_file(kwargs.get("variant")), expected)
        loaded: Any = super().from_pretrained(folder, **{**kwargs, "use_safetensors": True})
        translator = loaded[0] if kwargs.get("output_loading_info") else loaded
        translator.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        return loaded

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a config as diffusers does, and bring it into the present format."""
        loaded = super().load_config(*args, **kwargs)
        if isinstance(loaded, tuple):
            return upgrade_config(loaded[0], cls.__name__), *loaded[1:]
        return upgrade_config(loaded, cls.__name__)

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: str | os.PathLike[str],
        *,
        variant: str | None = None,
        safe_serialization: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write `config.json` and one safetensors file.

        Args:
            save_directory: The folder; made if it isn't there.
            variant: Marks the weights' file, such as `"fp16"`.
            safe_serialization: Must stay True: a translator is never pickled.
            **kwargs: As in diffusers, such as `push_to_hub` and `repo_id`.

        Raises:
            UserError: If the folder's name belongs to a file, or a pickle is asked for.
        """
        if Path(save_directory).is_file():
            raise UserError(f"{save_directory} is a file; give the folder to save into.")
        if not safe_serialization:
            raise UserError("A translator is saved as safetensors only: leave safe_serialization.")
        super().save_pretrained(str(save_directory), variant=variant, **kwargs)

    def to(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, *args: Any, **kwargs: Any
    ) -> Self:
        """Move or cast the translator, as `torch.nn.Module.to` does."""
        with _without_cast_warning():
            return super().to(*args, **kwargs)

    def _prepared(self, embeds: Tensor) -> Tensor:
        """Check what comes in, and bring it into the form that `translate` takes."""
        self._check_embeds(embeds)
        norms = embeds.float().norm(dim=-1, keepdim=True)
        if not bool(((norms > 0) & norms.isfinite()).all()):
            raise UserError(_describe_bad_rows(embeds, norms))
        return self.prepare((embeds / norms).to(self.dtype))

    def _register(self, facts: Mapping[str, Any]) -> None:
        """Bring facts into the form that goes into `config.json`, and keep them."""
        facts = dict(facts)
        for side in ("source", "target"):
            space = facts.get(f"{side}_space")
            if space is None:
                continue
            if not isinstance(space, EmbeddingSpace):
                space = EmbeddingSpace.from_dict(space)
            _check_space(None, self.config[f"{side}_dim"], space, f"The translator's {side}")
            facts[f"{side}_space"] = space.to_dict()
        self.register_to_config(**facts)

    def _finish_config(self) -> None:
        """Check what `register_to_config` has taken down, and add the library's version."""
        self.register_buffer("source_mean", None)
        self.register_buffer("target_mean", None)
        for name in ("source_dim", "target_dim", "hidden", "blocks"):
            size = self.config.get(name, 1)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise UserError(f"Expected {name} to be a positive whole number, got {size!r}.")
        dropout = self.config.get("dropout", 0)
        if not 0 <= dropout < 1:
            raise UserError(f"Expected dropout to be a share from 0 to below 1, got {dropout!r}.")
        self._register(
            {
                "source_space": self.config["source_space"],
                "target_space": self.config["target_space"],
                "versions": self.config["versions"]
                or {
                    "clip2clap": clip2clap.__version__,
                    "torch": torch.__version__,
                    "diffusers": diffusers.__version__,
                },
                "_format_version": FORMAT_VERSION,
                # diffusers lists positional arguments here too, and from_config then drops them.
                "_use_default_values": [],
            }
        )

    def _keep_means(self) -> None:
        """Make room for both means among the weights; they are zero until `centre` sets them."""
        self.source_mean = torch.zeros(self.source_dim)
        self.target_mean = torch.zeros(self.target_dim)

    @classmethod
    def _check_config(cls, config: Mapping[str, Any], folder: Path) -> None:
        if config["_class_name"] != cls.__name__:
            raise CheckpointError(
                f"{folder} holds a {config['_class_name']}, not a {cls.__name__}. Load it with "
                "AutoTranslator.from_pretrained."
            )
        known = cls._get_init_keys(cls)
        unknown = [key for key in config if not key.startswith("_") and key not in known]
        if unknown:
            raise CheckpointError(
                f"{folder} has settings that this version of clip2clap "
                f"({clip2clap.__version__}) doesn't know: {', '.join(unknown)}. It was written by "
                f"version {config['versions'].get('clip2clap')}: install that one."
            )

    def _check_embeds(self, embeds: Tensor) -> None:
        if not isinstance(embeds, Tensor):
            raise UserError(
                f"Expected embeds to be a torch.Tensor of shape (n, {self.source_dim}), got a "
                f"{type(embeds).__name__}. A NumPy array becomes one with torch.from_numpy."
            )
        if embeds.dim() != 2 or embeds.shape[-1] != self.source_dim:
            got = tuple(embeds.shape)
            one = embeds.dim() == 1 and len(embeds) == self.source_dim
            made_for = f" (made for {self.source_space})" if self.source_space else ""
            raise UserError(
                f"Expected embeds of shape (n, {self.source_dim}){made_for}, got {got}. "
                + ("For one vector give embeds[None]." if one else "Use the encoder it belongs to.")
            )
        if not embeds.is_floating_point():
            raise UserError(f"Expected embeds of a floating dtype, got {embeds.dtype}.")


def _describe_bad_rows(embeds: Tensor, norms: Tensor) -> str:
    finite = embeds.isfinite().all(dim=-1)
    zero = norms.squeeze(-1) == 0
    if not finite.all():
        bad, fault = ~finite, "hold NaN or infinity"
    elif zero.any():
        bad, fault = zero, "are all zeros, which point nowhere"
    else:
        bad, fault = ~norms.squeeze(-1).isfinite(), "are too large for their norm to be computed"
    rows = bad.nonzero().flatten().tolist()
    return (
        f"{len(rows)} of {len(embeds)} embeds {fault} (the first is row {rows[0]}). Leave them "
        "out, or embed what they came from again."
    )


def _check_space(expected: EmbeddingSpace | None, dim: int, got: EmbeddingSpace, what: str) -> None:
    if expected is not None:
        require_same_model(expected, got, what=what)
    elif got.dim != dim:
        raise SpaceMismatchError(f"{what}: expected vectors of {dim} values, got {got}.")


@contextmanager
def _without_cast_warning() -> Iterator[None]:
    """Drop diffusers' warning, at every cast, about weights that must stay float32: none must."""
    log = logging.getLogger(ModelMixin.__module__)

    def is_about_something_else(record: logging.LogRecord) -> bool:
        return "should be kept in float32" not in record.getMessage()

    log.addFilter(is_about_something_else)
    try:
        yield
    finally:
        log.removeFilter(is_about_something_else)
