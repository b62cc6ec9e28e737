"""Fingerprints of models from a sample of their weights and their preprocessing.

A fingerprint is the same for float32 and float16 copies, also of float8 weights, for any sharding,
and after a `save_pretrained` round trip; it differs for other training, architectures or
preprocessing.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clip2clap.core.errors import CheckpointError, one_line, with_article

# Enough to detect any training step, few enough to read a large checkpoint in under a second.
_RUNS = 8
_RUN_LENGTH = 16
_DIGITS = 16

_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn}

# Processor settings that do not change embeddings. Conversion to RGB is among them since every
# image is converted before preprocessing.
_IGNORED_FIELDS = {
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "model_input_names",
    "padding_side",
    "processor_class",
    "return_attention_mask",
    "return_tensors",
}
# Settings that count only while their switch is on.
_SWITCHES = {
    "size": "do_resize",
    "resample": "do_resize",
    "crop_size": "do_center_crop",
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
    "pad_size": "do_pad",
}
# A tokenizer is identified by its ids for these texts; the last one shows where it truncates.
_PROBES = ("a photo of a dog", "Rain on a tin roof; 3 cars, naïve café!", "bark " * 600)

# Training scripts save NumPy numbers (a best score, a step) beside the weights; rebuilding a
# number runs no code from the file.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS = [
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8")),
]


def fingerprint_weights(files: Iterable[Path]) -> str:
    """Compute the fingerprint of weight files, hexadecimal, from a sample of every tensor.

    Integer tensors (position ids, counters) and tensor names are ignored: they change between
    library versions while the model stays the same. Legacy PyTorch files are read without
    unpickling. A file that is damaged or holds anything but tensors is a `CheckpointError`.
    """
    files = list(files)
    digests = _digests(files)
    if not digests:
        raise CheckpointError(
            f"There are no weights in {', '.join(str(file) for file in files)}. Fetch or save the "
            "checkpoint again."
        )
    return digest(sorted(digests))


def holds_weights(whole: Iterable[Path], part: Iterable[Path]) -> bool:
    """Return True if a checkpoint holds every weight of another, as a CLIP its image encoder's.

    Both are given by their weight files, as in `fingerprint_weights`, which raises the same errors.
    """
    return _digests(part) <= _digests(whole)


def fingerprint_tensors(tensors: Iterable[Tensor]) -> str:
    """Compute the fingerprint of loaded weights, hexadecimal; see `fingerprint_weights`.

    Of weights that are offloaded to the disk only the shapes count.
    """
    return digest(sorted(_tensor_digests(tensors)))


def _digests(files: Iterable[Path]) -> set[str]:
    """Return a digest of each tensor in weight files."""
    digests = set()
    for file in files:
        is_safe = file.suffix == ".safetensors"
        digests |= _tensor_digests(
            _safetensors(file) if is_safe else load_legacy_weights(file).values()
        )
    return digests


def _tensor_digests(tensors: Iterable[Tensor]) -> set[str]:
    digests = set()
    for tensor in tensors:
        if tensor.dtype in _FLOATS and tensor.numel():
            values = b""
            if not tensor.is_meta:
                flat = tensor.detach().reshape(-1)
                starts = _run_starts(flat.numel())
                runs = [flat[s : s + _RUN_LENGTH].to("cpu", torch.float16) for s in starts]
                values = torch.cat(runs).numpy().tobytes()
            shape = repr(list(tensor.shape)).encode()
            digests.add(hashlib.sha256(shape + values).hexdigest())
    return digests


def digest(value: Any) -> str:
    """Return a digest of plain values."""
    encoded = json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(encoded).hexdigest()[:_DIGITS]


def describe_processor(processor: Any) -> dict[str, Any]:
    """Return the settings of an image processor or feature extractor that change embeddings."""
    fields = processor.to_dict()
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    kept = {
        key: _plain(value)
        for key, value in fields.items()
        if not key.startswith("_")
        and key not in _IGNORED_FIELDS
        and value is not None
        and fields.get(_SWITCHES.get(key, ""), True)
    }
    # A switch that is off equals one that is absent.
    kept = {key: value for key, value in kept.items() if value is not None and value is not False}
    return {"type": name, **kept}


def describe_tokenizer(tokenize: Any) -> list[list[int]]:
    """Return the token ids of a few probe texts, given a function from texts to token ids."""
    return [[int(token) for token in ids] for ids in tokenize(list(_PROBES))]


def _plain(value: Any) -> Any:
    """Return a value with one JSON form; None for values without."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in sorted(value.items()) if v is not None}
    return None


def _run_starts(count: int) -> list[int]:
    """Return the start of each sampled run of a flat tensor."""
    if count <= _RUNS * _RUN_LENGTH:
        return list(range(0, count, _RUN_LENGTH))
    last = count - _RUN_LENGTH
    return [run * last // (_RUNS - 1) for run in range(_RUNS)]


def _safetensors(file: Path) -> Iterator[Tensor]:
    """Yield the tensors, mapped: only the sampled pages are read."""
    try:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                yield weights.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a complete safetensors file ({one_line(error)}). Fetch it again."
        ) from error


def load_legacy_weights(file: Path) -> dict[str, Tensor]:
    """Load a PyTorch checkpoint without unpickling, memory-mapped if possible.

    The tensors are those under "state_dict" if the file holds more than the weights.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except Exception as error:
        raise CheckpointError(
            f"{file} cannot be read as plain weights ({one_line(error, limit=160)}). Files that "
            "need unpickling may run code and are refused: convert it to safetensors."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        found = with_article(type(content).__name__)
        raise CheckpointError(f"{file} holds {found}, not named weights.")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}
