"""Encoder base class: loading, saving, preprocessing and batching shared by CLIP and CLAP."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self, cast, get_args

import torch
from PIL import Image
from torch import Tensor, nn

from clip2clap.core.concurrency import batched, map_ahead
from clip2clap.core.errors import (
    UserError,
    expect,
    is_integer,
    is_utf8,
    one_line,
    with_article,
)
from clip2clap.core.files import as_path
from clip2clap.core.hub import quiet
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.backends.base import Backend, CheckpointSpec, Inputs
from clip2clap.embeddings.checkpoint import NOTE_FILE, Checkpoint, EncoderKind, find_checkpoint
from clip2clap.embeddings.fingerprint import fingerprint_weights
from clip2clap.embeddings.space import EmbeddingSpace, Family, Modality

Preprocessed = list[int] | Inputs
"""One preprocessed item: a text's token ids, or the model inputs of an image or an audio (one row
per window)."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def read_space(
    pretrained_model_name_or_path: str | Path,
    *,
    family: EncoderKind,
    modality: Modality,
    **access: Any,
) -> EmbeddingSpace:
    """Read the embedding space of a checkpoint without building the model.

    Args:
        pretrained_model_name_or_path: As for the encoder's `from_pretrained`.
        family: `"clip"` or `"clap"`; `"speech_encoder"` for the CLIP space that its
            embeddings are in.
        modality: `"image"`, `"text"` or `"audio"`.
        **access: `revision`, `token`, `local_files_only` and `cache_dir`, as in transformers.

    Returns:
        The space that the loaded encoder reports.

    Raises:
        UserError: If the checkpoint cannot be found or read.

    Examples:
        >>> read_space("demo", family="clip", modality="image").dim
        512
    """
    checkpoint = find_checkpoint(pretrained_model_name_or_path, family, **access)
    with quiet():
        return _read_spec(checkpoint, family).space(modality)


def _read_spec(checkpoint: Checkpoint, kind: EncoderKind) -> CheckpointSpec:
    """Read a checkpoint's metadata with the library that loads it, imported only now."""
    if kind == "speech_encoder":
        from clip2clap.embeddings.backends.speech import SpeechSpec

        return SpeechSpec(checkpoint)
    if checkpoint.library == "open_clip":
        from clip2clap.embeddings.backends.open_clip import OpenClipSpec as Spec
    elif checkpoint.library == "laion_clap":
        from clip2clap.embeddings.backends.laion_clap import LaionClapSpec as Spec
    elif checkpoint.library == "audioclip":
        from clip2clap.embeddings.backends.audioclip import AudioClipSpec as Spec
    else:
        from clip2clap.embeddings.backends.transformers import TransformersSpec as Spec
    return Spec(checkpoint, kind)


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    found: Any = dtype
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), dtype)
    if found is None:
        return torch.float32
    expect(found in _DTYPES, "torch_dtype", "float32, float16 or bfloat16", found)
    return found


class Encoder(nn.Module):
    """Base class of the CLIP, CLAP and speech encoders."""

    family: ClassVar[Family]
    """Family of the space of the embeddings."""

    kind: ClassVar[EncoderKind]
    """Kind of the checkpoints."""

    weighs_windows: ClassVar[bool] = False
    """True if windows count by the norms of their embeddings in an item's average."""

    def __init__(self, backend: Backend, space: EmbeddingSpace):
        super().__init__()
        self.backend = backend
        self._space = space

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: torch.device | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        modalities: Sequence[Modality] | None = None,
        **access: Any,
    ) -> Self:
        """Load an encoder with exactly the weights of its checkpoint.

        Args:
            pretrained_model_name_or_path: A preset (`"demo"` is one), a hub id, a local folder in
                transformers' or open_clip's format, `open_clip:ARCH/TAG_OR_FILE` for CLIP,
                `laion_clap:FILE` or an AudioLDM or MusicLDM pipeline for CLAP, or
                `audioclip:FILE` for both.
            device: Device of the model; the CPU by default.
            torch_dtype: Dtype of the weights; float32 by default. Embeddings are always float32.
            modalities: Modalities whose weights are kept in memory; all by default.
            **access: `revision`, `token`, `local_files_only` and `cache_dir`, as in transformers.

        Returns:
            The encoder in evaluation mode, with frozen weights; gradients reach its inputs.

        Raises:
            UserError: If the checkpoint cannot be found (`ModelNotFoundError`), does not fit
                together (`CheckpointError`) or needs a package that is not installed
                (`MissingExtraError`).
        """
        weights_dtype = _as_dtype(torch_dtype)
        known = get_args(Modality)
        expect(set(modalities or ()) <= set(known), "modalities", f"some of {known}", modalities)
        checkpoint = find_checkpoint(pretrained_model_name_or_path, cls.kind, **access)
        with quiet():
            spec = _read_spec(checkpoint, cls.kind)
            backend = spec.build(weights_dtype)
        kept: tuple[Modality, ...] = tuple(
            m for m in backend.modalities if modalities is None or m in modalities
        )
        if not kept:
            raise UserError(
                f"{checkpoint.name} embeds {' and '.join(backend.modalities)}, not "
                f"{' and '.join(modalities or ())}.",
                param="modalities",
            )
        backend.keep(kept)
        encoder = cls(backend, spec.space(kept[0])).eval().requires_grad_(False)
        return encoder if device is None else encoder.to(device)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Save weights, preprocessing and space to a folder that `from_pretrained` loads.

        Args:
            save_directory: Output folder.

        Raises:
            UserError: If the model's library has no folder format (laion_clap).
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(folder)
        saved = find_checkpoint(folder, self.kind, local_files_only=True)
        model_id = self._space.model_id
        note = {
            # A local folder means nothing on another machine.
            "model_id": None if as_path(model_id).exists() else model_id,
            "fingerprint": self._space.fingerprint,
            "modalities": list(self.modalities),
            "saved_weights": fingerprint_weights(saved.weights),
        }
        (folder / NOTE_FILE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities that this encoder embeds."""
        return self.backend.modalities

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights; embeddings are always float32."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def logit_scale(self) -> float:
        """Factor of cosine similarities in the model's softmax; 1 / 0.07 if it records none."""
        found = self._scalar("logit_scale", "logit_scale_a")
        return 1 / 0.07 if found is None else math.exp(found)

    @property
    def logit_bias(self) -> float | None:
        """Bias of the logits of a SigLIP, whose probabilities are sigmoids; else None."""
        return self._scalar("logit_bias")

    def _scalar(self, *names: str) -> float | None:
        for name, value in self.named_parameters():
            if name.rpartition(".")[2] in names:
                return float(value)
        return None

    def space(self, modality: Modality) -> EmbeddingSpace:
        """Return the space of one modality's embeddings.

        Raises:
            UserError: If this encoder does not embed the modality.
        """
        self._require(modality)
        return self._space.in_modality(modality)

    def forward(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Encode inputs by name, shape (n, d), in the weights' dtype, not normalized."""
        device, dtype = self.device, self.dtype
        moved = {
            # Offloaded weights are on "meta" until accelerate's hooks fetch them.
            name: value if device.type == "meta" else value.to(device, non_blocking=True)
            for name, value in inputs.items()
        }
        return self.backend.encode(
            modality,
            {n: v.to(dtype) if v.is_floating_point() else v for n, v in moved.items()},
        )

    def encode_text(
        self, texts: Sequence[str], *, batch_size: int = 64, normalize: bool = True
    ) -> Tensor:
        """Encode texts, grouped into batches by length.

        Args:
            texts: Any number of texts, truncated to the model's maximum length.
            batch_size: Texts per batch; it does not change the embeddings.
            normalize: Scale embeddings to unit norm.

        Returns:
            Embeddings, shape (n, d), float32, on the CPU, in input order; unit norm by default.

        Raises:
            UserError: If an item is not a text, or the model has no text encoder.
        """
        self._check(texts, "text", batch_size)
        return self.encode_preprocessed(
            "text", self.preprocess("text", texts), batch_size=batch_size, normalize=normalize
        )

    def preprocess(self, modality: Modality, items: Sequence[Any]) -> list[Preprocessed]:
        """Preprocess items one by one on the CPU, for batches of any composition.

        Texts, and images and audio as in `encode_image` and `encode_audio` or as a file's bytes,
        become inputs of `encode_preprocessed`, which can run beside this in another thread. Raises
        a `UserError` if an item is unusable, or this encoder does not embed the modality.
        """
        self._require(modality)
        if modality != "text":
            return [self._preprocess_item(numbered) for numbered in enumerate(items)]
        for position, text in enumerate(items):
            if not isinstance(text, str):
                raise UserError(f"Expected texts, got {type(text).__name__} as text {position}.")
            if not is_utf8(text):
                raise UserError(
                    f"Text {position} holds bytes that are not UTF-8: {text!r}. Decode it with its "
                    "own encoding."
                )
        return list(self.backend.tokenize(items)) if len(items) else []

    def encode_preprocessed(
        self,
        modality: Modality,
        preprocessed: Sequence[Preprocessed],
        *,
        batch_size: int = 64,
        normalize: bool = True,
    ) -> Tensor:
        """Encode the outputs of `preprocess`, as the `encode_...` methods do.

        The embeddings do not depend on the batch size: items, or windows of audio.
        """
        self._check(preprocessed, modality, batch_size)
        if modality == "text":
            ids = cast(Sequence[list[int]], preprocessed)
            # Texts of one length share a batch: less padding, so less work.
            order = sorted(range(len(ids)), key=lambda position: len(ids[position]))
            batches = ([ids[position] for position in part] for part in batched(order, batch_size))
            outputs = self._run("text", map(self.backend.pad, batches))
            embeds = outputs[torch.tensor(order, dtype=torch.long).argsort()]
            return unit_norm(embeds) if normalize else embeds
        return self._encode(modality, cast(Sequence[Inputs], preprocessed), batch_size, normalize)

    def encode_readable(
        self, modality: Modality, items: Sequence[Any], *, batch_size: int = 64
    ) -> tuple[Tensor, dict[int, str]]:
        """Encode the images or audio that can be read.

        Args:
            modality: `"image"` or `"audio"`.
            items: As in `encode_image` and `encode_audio`.
            batch_size: Images, or windows of audio, per batch.

        Returns:
            Embeddings, shape (n, d), unit norm, zero where an item cannot be read; and the reasons
            by position.
        """
        self._check(items, modality, batch_size)
        with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
            found = list(pool.map(self._try_item, enumerate(items)))
        reasons = {place: each for place, each in enumerate(found) if isinstance(each, str)}
        embeds = torch.zeros(len(found), self._space.dim)
        read = [(place, each) for place, each in enumerate(found) if not isinstance(each, str)]
        if read:
            inputs = [each for _, each in read]
            places = torch.tensor([place for place, _ in read])
            embeds[places] = self.encode_preprocessed(modality, inputs, batch_size=batch_size)
        return embeds, reasons

    def _try_item(self, numbered: tuple[int, Any]) -> Inputs | str:
        """Return an item's preprocessed input, or the reason why it cannot be read."""
        try:
            return self._preprocess_item(numbered)
        except (UserError, OSError) as error:
            return one_line(error, limit=None)

    def _encode(
        self, modality: Modality, inputs: Iterable[Inputs], batch_size: int, normalize: bool
    ) -> Tensor:
        counts: list[int] = []

        def rows() -> Iterator[Inputs]:
            for item in inputs:
                counts.append(len(next(iter(item.values()))))
                for row in range(counts[-1]):
                    yield {name: values[row : row + 1] for name, values in item.items()}

        outputs = self._run(modality, map(_concatenate, batched(rows(), batch_size)))
        return average_windows(outputs, counts, normalize=normalize, weigh=self.weighs_windows)

    @torch.no_grad()
    def _run(self, modality: Modality, batches: Iterable[Inputs]) -> Tensor:
        """Encode batches, shape (n, d), float32, on the CPU, not normalized."""
        outputs = [self(modality, batch).float().cpu() for batch in batches]
        return torch.cat([torch.empty(0, self._space.dim), *outputs])

    def _encode_items(
        self, modality: Modality, items: Sequence[Any], batch_size: int, normalize: bool
    ) -> Tensor:
        """Encode images or audio, while threads preprocess the next ones."""
        self._check(items, modality, batch_size)
        # More threads wait for one another.
        with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
            inputs = map_ahead(self._preprocess_item, enumerate(items), pool, ahead=2 * batch_size)
            try:
                return self._encode(modality, inputs, batch_size, normalize)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _preprocess_item(self, numbered: tuple[int, Any]) -> Inputs:
        """Preprocess one image or audio, given with its position."""
        raise NotImplementedError

    def _require(self, modality: Modality) -> None:
        if modality not in self.modalities:
            raise UserError(
                f"{self._space.model_id!r} embeds {' and '.join(self.modalities)} only, not "
                f"{modality}. Load a {self.family.upper()} with {modality} weights and "
                "preprocessing."
            )

    def _check(self, items: Any, modality: Modality, batch_size: int) -> None:
        self._require(modality)
        if isinstance(items, str | bytes | Path | Image.Image) or not isinstance(items, Sequence):
            is_image = getattr(items, "ndim", 1) in (0, 2, 3)
            is_one = is_image or isinstance(items, str | bytes | Mapping)
            is_many = isinstance(items, Iterable) and not is_one
            how = "Give list(...) of it" if is_many else "Put it in a list"
            raise UserError(f"Expected a list, got {with_article(type(items).__name__)}. {how}.")
        expect(is_integer(batch_size) and batch_size > 0, "batch_size", "at least 1", batch_size)


def average_windows(
    outputs: Tensor, counts: Sequence[int], *, normalize: bool, weigh: bool = False
) -> Tensor:
    """Average the unit-norm embeddings of each item's windows; single windows stay as they are.

    All windows have shape (windows, d), and the result has shape (items, d). Without `normalize`,
    its norms are the mean norms of the items' windows. With `weigh`, windows count by their norms.
    """
    if all(count == 1 for count in counts):
        return unit_norm(outputs) if normalize else outputs
    summands = outputs if weigh else unit_norm(outputs)
    means = [part.mean(dim=0) for part in summands.split(list(counts))]
    embeds = unit_norm(torch.stack(means))
    if normalize:
        return embeds
    lengths = [part.mean() for part in outputs.norm(dim=-1).split(list(counts))]
    return embeds * torch.stack(lengths).unsqueeze(-1)


def _concatenate(inputs: Sequence[Inputs]) -> Inputs:
    return {name: torch.cat([part[name] for part in inputs]) for name in inputs[0]}
