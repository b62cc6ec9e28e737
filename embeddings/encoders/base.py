"""The encoders: the only place where a CLIP or a CLAP is called."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast, get_args

import numpy as np
import soxr
import torch
from PIL import Image
from torch import Tensor, nn

from clip2clap.core.concurrency import batched, map_ahead
from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.embeddings.backends.base import Backend, Inputs, Recipe
from clip2clap.embeddings.backends.laion_clap import LaionClapRecipe
from clip2clap.embeddings.backends.open_clip import OpenClipRecipe
from clip2clap.embeddings.backends.transformers import TransformersRecipe
from clip2clap.embeddings.checkpoint import NOTE_FILE, Checkpoint, find_checkpoint, quiet
from clip2clap.embeddings.fingerprint import fingerprint_weights
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    Family,
    Modality,
)
from clip2clap.media.images import load_image

Item = TypeVar("Item")

Prepared = list[int] | Inputs
"""One thing made ready for a tower: a text's token ids, a picture's inputs, or a sound's inputs, of
which there is a row for every window."""

_RECIPES: dict[str, Callable[[Checkpoint, Family], Recipe]] = {
    "transformers": TransformersRecipe,
    "open_clip": OpenClipRecipe,
    "laion_clap": LaionClapRecipe,
}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# A batch is preprocessed by as many threads as torch has, or fewer: beyond these the threads wait
# for one another.
_MOST_WORKERS = 8


def read_space(
    name: str | Path,
    *,
    family: Family,
    modality: Modality,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> EmbeddingSpace:
    """Give the space of a model's embeddings without building the model.

    Args:
        name: Anything that the encoder's `from_pretrained` takes.
        family: Whether it is a CLIP or a CLAP.
        modality: The tower that is meant.
        revision: Branch, tag or commit on the hub.
        token: Access token for the hub.
        local_files_only: Never go to the network.

    Returns:
        The same space as the loaded encoder's.

    Raises:
        UserError: If the checkpoint can't be found or understood.
    """
    checkpoint = find_checkpoint(
        name, family, revision=revision, token=token, local_files_only=local_files_only
    )
    with quiet():
        return _space(_RECIPES[checkpoint.library](checkpoint, family), family, modality)


def _space(recipe: Recipe, family: Family, modality: Modality) -> EmbeddingSpace:
    """Give the recipe's space; a folder that we wrote tells where its weights came from."""
    model_id, fingerprint = recipe.checkpoint.name, recipe.fingerprint
    if DEMO_FOLDER in Path(model_id).absolute().parents:
        model_id = "demo"
    note = recipe.checkpoint.note
    # The note holds for the weights it was written with, not for any that replaced them.
    if note.get("saved_weights") == recipe.weights_fingerprint:
        model_id, fingerprint = note["model_id"] or model_id, note["fingerprint"]
    return EmbeddingSpace(
        family=family,
        model_id=model_id,
        modality=modality,
        dim=recipe.dim,
        unit_norm=True,
        fingerprint=fingerprint,
    )


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.removeprefix("torch."), dtype)
    if dtype is None:
        return torch.float32
    if dtype not in _DTYPES:
        raise UserError(f"Expected dtype float32, float16 or bfloat16, got {dtype!r}.")
    return dtype


class _Encoder(nn.Module):
    """What CLIP and CLAP encoders share: loading, saving, batching."""

    family: ClassVar[Family]

    def __init__(self, towers: Backend, space: EmbeddingSpace):
        super().__init__()
        self.towers = towers
        self._space = space

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        towers: Sequence[Modality] | None = None,
    ) -> Self:
        """Load an encoder with exactly the weights of its checkpoint.

        Args:
            name_or_folder: A preset's name ("demo" is one), a hub id, a local folder of
                transformers' or open_clip's format, `open_clip:ARCH/TAG_OR_FILE` for a CLIP, or
                for a CLAP `laion_clap:FILE` or an AudioLDM or MusicLDM pipeline, whose text
                encoder is a CLAP of its own.
            device: Where to compute; the processor if not given.
            dtype: Of the weights: float32 if not given. Embeddings are float32 in any case.
            torch_dtype: The same under the name by which diffusers passes it.
            revision: Branch, tag or commit on the hub.
            token: Access token for the hub.
            local_files_only: Never go to the network.
            towers: The towers to keep in memory; all if not given.

        Returns:
            The encoder, in evaluation mode; gradients go through it and not to its weights, until
            `requires_grad_` says so.

        Raises:
            UserError: If the checkpoint can't be found (`ModelNotFoundError`), does not fit
                together (`CheckpointError`) or needs a package that isn't installed
                (`MissingExtraError`); the message says what to do.
        """
        weights_dtype = _as_dtype(torch_dtype if dtype is None else dtype)
        if towers is not None and not set(towers) <= set(get_args(Modality)):
            raise UserError(f"Expected towers among {get_args(Modality)}, got {tuple(towers)}.")
        checkpoint = find_checkpoint(
            name_or_folder,
            cls.family,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
        )
        with quiet():
            recipe = _RECIPES[checkpoint.library](checkpoint, cls.family)
            loaded = recipe.build(weights_dtype)
        kept: tuple[Modality, ...] = tuple(
            m for m in loaded.modalities if towers is None or m in towers
        )
        if not kept:
            raise UserError(
                f"{checkpoint.name} embeds {' and '.join(loaded.modalities)}, not "
                f"{' and '.join(towers or ())}."
            )
        loaded.keep(kept)
        encoder = cls(loaded, _space(recipe, cls.family, kept[0])).eval().requires_grad_(False)
        return encoder if device is None else encoder.to(device)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write a folder that `from_pretrained` loads, of the same space.

        Args:
            save_directory: Where to write weights, preprocessing and the space.

        Raises:
            UserError: If the model's library has no folder format (laion_clap).
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.towers.save(folder)
        saved = find_checkpoint(folder, self.family, local_files_only=True)
        model_id = self._space.model_id
        note = {
            # A folder on this machine says nothing on another.
            "model_id": None if Path(model_id).expanduser().exists() else model_id,
            "fingerprint": self._space.fingerprint,
            "towers": list(self.modalities),
            "saved_weights": fingerprint_weights(saved.weights),
        }
        (folder / NOTE_FILE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What this encoder embeds."""
        return self.towers.modalities

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; embeddings are float32 in any case."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def space(self, modality: Modality) -> EmbeddingSpace:
        """Give the space of the embeddings of one modality.

        Raises:
            UserError: If this encoder doesn't embed it.
        """
        self._require(modality)
        return self._space.in_modality(modality)

    def forward(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Run one tower on preprocessed inputs.

        Args:
            modality: The tower.
            inputs: The model's own inputs by name.

        Returns:
            Embeddings, shape (n, d), in the weights' dtype, of any norm.
        """
        device, dtype = self.device, self.dtype
        moved = {
            # Weights that are offloaded are "meta" until the hooks below fetch them.
            name: value if device.type == "meta" else value.to(device, non_blocking=True)
            for name, value in inputs.items()
        }
        return self.towers.embed(
            modality,
            {n: v.to(dtype) if v.is_floating_point() else v for n, v in moved.items()},
        )

    def encode_text(
        self, texts: Sequence[str], *, batch_size: int = 64, normalize: bool = True
    ) -> Tensor:
        """Embed texts.

        Args:
            texts: Any number of them; what exceeds the model's length is cut.
            batch_size: Texts in a batch; it changes speed and memory, not the embeddings.
            normalize: Scale to unit norm; otherwise the tower's output as it is.

        Returns:
            Embeddings, shape (n, d), float32, unit norm, on the CPU, in the order given.

        Raises:
            UserError: If something else than texts is given, or there is no text tower.
        """
        self._check(texts, "text", batch_size)
        return self.embed(
            "text", self.prepare("text", texts), batch_size=batch_size, normalize=normalize
        )

    def prepare(self, modality: Modality, items: Sequence[Any]) -> list[Prepared]:
        """Preprocess things one by one, so that `embed` can put any of them into one batch.

        Preparing needs the processor, embedding the device: what does both prepares in threads,
        and loses no more than the one thing that can't be prepared.

        Args:
            modality: What they are.
            items: Texts; pictures as PIL images, paths or a file's bytes; or sounds as pairs of a
                waveform and its sampling rate.

        Returns:
            What `embed` takes, on the CPU, in the order given.

        Raises:
            UserError: If one of them can't be used or this encoder doesn't embed such things.
        """
        self._require(modality)
        if modality == "text":
            for position, text in enumerate(items):
                if not isinstance(text, str):
                    raise UserError(
                        f"Expected texts, got {type(text).__name__} as text {position}."
                    )
            return list(self.towers.tokenize(items)) if len(items) else []
        if modality == "image":
            return [self.towers.prepare_images([load_image(image)]) for image in items]
        cut = [self._windows(*_check_audio(audio, at)) for at, audio in enumerate(items)]
        return [self.towers.prepare_audios(windows) for windows in cut]

    @torch.no_grad()
    def embed(
        self,
        modality: Modality,
        prepared: Sequence[Prepared],
        *,
        batch_size: int = 64,
        normalize: bool = True,
    ) -> Tensor:
        """Embed what `prepare` made ready.

        Args:
            modality: What it is.
            prepared: Any number of things.
            batch_size: Things in a batch, for sounds windows; it changes speed and memory, not the
                embeddings.
            normalize: Scale to unit norm; otherwise as `texts`, `images` and `audios` do.

        Returns:
            Embeddings, shape (n, d), float32, unit norm, on the CPU, in the order given.

        Raises:
            UserError: If this encoder doesn't embed such things.
        """
        self._check(prepared, modality, batch_size)
        if modality == "text":
            ids = cast(Sequence[list[int]], prepared)
            # Texts of one length share a batch: less padding, so less work.
            order = sorted(range(len(ids)), key=lambda position: len(ids[position]))
            embeds = self._encode(
                [ids[position] for position in order],
                "text",
                batch_size,
                self.towers.pad,
                normalize=normalize,
            )
            return embeds[torch.tensor(order, dtype=torch.long).argsort()]
        inputs = cast(Sequence[Inputs], prepared)
        counts = [len(next(iter(thing.values()))) for thing in inputs]
        rows = [
            {name: values[row : row + 1] for name, values in thing.items()}
            for thing, count in zip(inputs, counts, strict=True)
            for row in range(count)
        ]
        outputs = torch.empty(len(rows), self._space.dim)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            outputs[start : start + len(batch)] = self(modality, _joined(batch)).float().cpu()
        return _averaged(outputs, counts, normalize=normalize)

    def _windows(self, waveform: np.ndarray, sampling_rate: int) -> list[np.ndarray]:
        if sampling_rate != self.towers.sampling_rate:
            waveform = soxr.resample(waveform, sampling_rate, self.towers.sampling_rate)
        length = self.towers.window
        count = math.ceil(len(waveform) / length)
        if count <= 1:
            return [waveform]
        starts = np.linspace(0, len(waveform) - length, count).round().astype(int)
        return [waveform[start : start + length] for start in starts]

    def _require(self, modality: Modality) -> None:
        if modality not in self.modalities:
            raise UserError(
                f"{self._space.model_id!r} embeds {' and '.join(self.modalities)} only, not "
                f"{modality}. Load a {self.family.upper()} with that tower and its preprocessing."
            )

    def _check(self, items: Any, modality: Modality, batch_size: int) -> None:
        self._require(modality)
        if isinstance(items, str | bytes | Path | Image.Image) or not isinstance(items, Sequence):
            raise UserError(f"Expected a list, got a {type(items).__name__}. Put it in a list.")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"Expected a batch_size of at least 1, got {batch_size!r}.")

    @torch.no_grad()
    def _encode(
        self,
        items: Sequence[Item],
        modality: Modality,
        batch_size: int,
        prepare: Callable[[Sequence[Item]], Inputs],
        *,
        normalize: bool,
    ) -> Tensor:
        """Embed batch by batch, while threads prepare the batch to come."""
        embeds = torch.empty(len(items), self._space.dim)
        batches = list(batched(items, batch_size))
        position = 0
        for inputs in _prepared(batches, prepare, in_pieces=modality != "text"):
            batch = self(modality, inputs)
            batch = unit_norm(batch) if normalize else batch.float()
            embeds[position : position + len(batch)] = batch.cpu()
            position += len(batch)
        return embeds


def _prepared(
    batches: Sequence[Sequence[Item]],
    prepare: Callable[[Sequence[Item]], Inputs],
    *,
    in_pieces: bool,
) -> Iterator[Inputs]:
    """Preprocess batches in threads, one batch ahead of the one yielded."""
    workers = min(torch.get_num_threads(), _MOST_WORKERS)
    count = workers if in_pieces else 1
    pieces = [list(batched(batch, math.ceil(len(batch) / count))) for batch in batches]
    with ThreadPoolExecutor(workers) as pool:
        ready = map_ahead(prepare, itertools.chain.from_iterable(pieces), pool, ahead=count)
        try:
            for group in pieces:
                yield _joined(list(itertools.islice(ready, len(group))))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _joined(inputs: Sequence[Inputs]) -> Inputs:
    if len(inputs) == 1:
        return inputs[0]
    return {name: torch.cat([part[name] for part in inputs]) for name in inputs[0]}


class ClipEncoder(_Encoder):
    """A CLIP: pictures and texts into one space.

    Example:
        >>> clip = ClipEncoder.from_pretrained("demo")
        >>> embeds = clip.encode_image(["dog.jpg", "rain.png"])  # (2, 512)
    """

    family = "clip"

    def encode_image(
        self,
        images: Sequence[Image.Image | str | Path],
        *,
        batch_size: int = 64,
        normalize: bool = True,
    ) -> Tensor:
        """Embed pictures, preprocessed as the checkpoint says.

        Args:
            images: PIL images or paths. Pictures are turned upright by their EXIF tag and put on
                white where they are transparent.
            batch_size: Pictures in a batch; it changes speed and memory, not the embeddings.
            normalize: Scale to unit norm; otherwise the tower's output as it is.

        Returns:
            Embeddings, shape (n, d), float32, unit norm, on the CPU, in the order given.

        Raises:
            UnreadableImageError: If a picture can't be read; the message names it.
            UserError: If something else than a list of pictures is given.
        """
        self._check(images, "image", batch_size)
        return self._encode(images, "image", batch_size, self._prepare_images, normalize=normalize)

    def pixels(self, pixels: Tensor, *, size: int | None = None, normalize: bool = True) -> Tensor:
        """Embed pictures that are tensors, so that a gradient reaches their pixels.

        The preprocessing is the checkpoint's own, done in torch: the embeddings are those of
        `images` but for rounding to 8 bits.

        Args:
            pixels: RGB pictures, shape (n, 3, h, w), floating point, in [0, 1].
            size: Side in pixels of the square that the tower shall see, if it takes other sizes
                than its own (`takes_any_size`): a smaller one is faster, and sees less.
            normalize: Scale to unit norm; otherwise the tower's output as it is.

        Returns:
            Embeddings, shape (n, d), float32, unit norm, on the encoder's device.

        Raises:
            UserError: If the shape or dtype is wrong, there is no image tower, or it does not take
                that size.
        """
        self._require("image")
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise UserError(
                "Expected pixels of shape (n, 3, h, w), floating point in [0, 1], got "
                f"{pixels.dtype} of shape {tuple(pixels.shape)}."
            )
        recipe = self.towers.pixel_recipe
        if size is not None and not recipe.any_size and size != recipe.height:
            raise UserError(
                f"{self._space.model_id!r} takes pictures of {recipe.width} x {recipe.height} "
                f"pixels only, not of {size}. Leave the size out."
            )
        embeds = self("image", {"pixel_values": recipe(pixels, size)})
        return unit_norm(embeds) if normalize else embeds.float()

    @property
    def takes_any_size(self) -> bool:
        """Whether the image tower takes pictures of other sizes than its own."""
        self._require("image")
        return self.towers.pixel_recipe.any_size

    @property
    def image_size(self) -> int:
        """Rows of the pictures that the image tower sees, in pixels."""
        self._require("image")
        return self.towers.pixel_recipe.height

    def _prepare_images(self, images: Sequence[Image.Image | str | Path]) -> Inputs:
        return self.towers.prepare_images([load_image(image) for image in images])


class ClapEncoder(_Encoder):
    """A CLAP: sounds and texts into one space.

    Example:
        >>> clap = ClapEncoder.from_pretrained("demo")
        >>> embeds = clap.encode_audio([(waveform, 16_000)])  # (1, 512)
    """

    family = "clap"

    def encode_audio(
        self,
        audios: Sequence[tuple[np.ndarray | Tensor, int]],
        *,
        batch_size: int = 16,
        normalize: bool = True,
    ) -> Tensor:
        """Embed sounds; the same sound always gives the same vector.

        A sound longer than the model's window is cut into the fewest windows that cover it, spread
        evenly from its start to its end; their unit-norm embeddings are averaged, and the average
        is scaled back to unit norm.

        Args:
            audios: Pairs of a mono waveform, shape (samples,), floats in [-1, 1], and its sampling
                rate in Hz; it is resampled to the model's rate.
            batch_size: Windows in a batch; it changes speed and memory, not the embeddings.
            normalize: Scale to unit norm; otherwise to the length of the tower's output, which
                for a sound of several windows is the mean of their lengths.

        Returns:
            Embeddings, shape (n, d), float32, unit norm, on the CPU, in the order given.

        Raises:
            UserError: If a waveform is empty, not mono, not of floats, or holds NaN, or the model
                has no audio tower.
        """
        self._check(audios, "audio", batch_size)
        windows: list[np.ndarray] = []
        counts: list[int] = []
        for position, audio in enumerate(audios):
            cut = self._windows(*_check_audio(audio, position))
            windows += cut
            counts.append(len(cut))
        outputs = self._encode(
            windows, "audio", batch_size, self.towers.prepare_audios, normalize=False
        )
        return _averaged(outputs, counts, normalize=normalize)


def _averaged(outputs: Tensor, counts: Sequence[int], *, normalize: bool) -> Tensor:
    """Average the directions of every thing's windows; alone, a window stays as it is."""
    if all(count == 1 for count in counts):
        return unit_norm(outputs) if normalize else outputs
    means = [part.mean(dim=0) for part in unit_norm(outputs).split(list(counts))]
    embeds = unit_norm(torch.stack(means))
    if normalize:
        return embeds
    lengths = [part.mean() for part in outputs.norm(dim=-1).split(list(counts))]
    return embeds * torch.stack(lengths).unsqueeze(-1)


def _check_audio(audio: Any, position: int) -> tuple[np.ndarray, int]:
    where = f"sound {position}"
    if not isinstance(audio, tuple | list) or len(audio) != 2:
        raise UserError(
            f"Expected (waveform, sampling_rate) for {where}, got {type(audio).__name__}."
        )
    waveform, sampling_rate = audio
    waveform = waveform.detach().cpu().numpy() if isinstance(waveform, Tensor) else waveform
    if not isinstance(waveform, np.ndarray) or not np.issubdtype(waveform.dtype, np.floating):
        raise UserError(
            f"Expected {where} as an array of floats in [-1, 1], got "
            f"{getattr(waveform, 'dtype', type(waveform).__name__)}. Divide whole numbers by their "
            "type's maximum."
        )
    if waveform.ndim != 1 or not waveform.size:
        raise UserError(
            f"Expected {where} with shape (samples,), got {waveform.shape}. Average the channels "
            "of a stereo sound first."
        )
    if not isinstance(sampling_rate, int | np.integer) or sampling_rate < 1:
        raise UserError(f"Expected {where}'s sampling rate in whole Hz, got {sampling_rate!r}.")
    waveform = waveform.astype(np.float32)
    if not np.isfinite(waveform).all():
        raise UserError(f"Expected {where} to hold numbers, got NaN or infinity in it.")
    return waveform, int(sampling_rate)
