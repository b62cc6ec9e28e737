"""Arrays, tensors and objects of other libraries, as waveforms and as images."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from clip2clap.core.errors import UserError, is_number, one_line, with_article
from clip2clap.core.files import as_path, check_no_pointer
from clip2clap.media.decoding import UnreadableAudioError, check_sampling_rate, not_finite

# Channels that cancel leave less than this share of the power that unrelated ones would.
_CANCELLED = 0.1
# Of a file's power, the share in moments whose channels cancel that makes their mean no copy of it.
_LOST = 0.1
# Samples of a moment.
_MOMENT = 2**14
# No recording in floats is this loud: its samples are integers' values.
_INTEGER_PEAK = 1000.0
# Resizing overshoots a little.
_OVERSHOOT = 0.05
_CHANNELS = (1, 3, 4)
# Full scales of 8, 12 and 16 bits.
_FULL_SCALES = (255, 4095, 65_535)


def to_file(source: Any, name: str) -> Any:
    """Return the path, bytes or seekable file that an object stands for; others as they are.

    It is a file name, bytes of any type, an opened file, or an item of a column of `datasets`: a
    dictionary with "bytes" or "path". Messages name it.
    """
    if isinstance(source, Mapping):
        found = [source[key] for key in ("bytes", "path") if source.get(key) is not None]
        if not found:
            raise UserError(
                f"Expected a dictionary for {name} with bytes or path, got the keys "
                f"{', '.join(map(str, source)) or 'none'}."
            )
        source = found[0]
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, os.PathLike):
        return os.fspath(source)
    if not hasattr(source, "read"):
        return source
    if getattr(source, "closed", False):
        raise UserError(f"{name} is a file that was closed. Open it again.")
    if not hasattr(source, "seek") or not getattr(source, "seekable", bool)():
        source = source.read()
    elif isinstance(source, io.TextIOBase):
        source = ""
    else:
        source.seek(0)
    content = source if isinstance(source, str | bytes) else source.read(0)
    if isinstance(content, str):
        raise UserError(f"{name} is a file opened as text. Open it with mode 'rb'.")
    if not isinstance(content, bytes):
        got = with_article(type(source).__name__)
        raise UserError(f"Expected {name} as a file opened with mode 'rb', got {got}.")
    return source


@contextlib.contextmanager
def open_file(name: str, error_class: type[UserError]) -> Iterator[BinaryIO]:
    """Open a file that a user named; raise where that or the reading of it fails."""
    path = as_path(name)
    if not name:
        raise error_class("Expected the path of a file, got an empty string.")
    try:
        if path.is_dir():
            raise error_class(f"{name} is a folder; give a file.")
        if not path.is_file():
            raise error_class(f"No such file: {name}. Check the path.")
        with path.open("rb") as file:
            check_no_pointer(file, name, error_class)
            yield file
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise error_class(f"{name} can't be read: {reason}.") from error


def to_array(value: Any) -> np.ndarray | None:
    """Return an array, tensor or list of numbers as a NumPy array; None for anything else."""
    if hasattr(value, "detach") and hasattr(value, "is_floating_point"):
        try:
            dense = value.detach().to_dense().cpu()
            # NumPy has no bfloat16.
            return (dense.float() if dense.is_floating_point() else dense).numpy()
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise UserError(
                f"Expected a tensor with values that NumPy can hold, got {value.dtype} on "
                f"{value.device} ({one_line(error, limit=80)})."
            ) from error
    if isinstance(value, list) or (hasattr(value, "__array__") and hasattr(value, "dtype")):
        try:
            value = np.asarray(value)
        except ValueError:
            return None
        return value if value.dtype.kind in "fiub" else None
    return None


def to_waveform(source: Any, name: str) -> tuple[np.ndarray, int] | None:
    """Return the checked mono waveform, float32, and the sampling rate that an object stands for.

    It is a waveform and its sampling rate in Hz, in either order; a dictionary with "array" and
    "sampling_rate"; or an object with `get_all_samples()`, as torchcodec's `AudioDecoder`. None for
    anything else.
    """
    if hasattr(source, "get_all_samples"):
        try:
            decoded = source.get_all_samples()
        except Exception as error:  # a damaged file can make a decoder raise almost anything
            raise UnreadableAudioError(
                f"{name} can't be decoded ({one_line(error, limit=120)}). Fetch or save it again."
            ) from error
        channels = to_array(decoded.data)
        if channels is not None and channels.ndim == 2:
            channels = mix_down(channels)
        source = (channels, decoded.sample_rate)
    elif isinstance(source, Mapping) and source.get("array") is not None:
        source = (source["array"], source.get("sampling_rate"))
    if not isinstance(source, tuple | list):
        return None
    if len(source) == 2 and is_number(_scalar(source[0])):
        # scipy and gradio put the sampling rate first.
        source = source[::-1]
    samples = to_array(source[0]) if len(source) == 2 else None
    if samples is None or samples.ndim == 0:
        kinds = ", ".join(type(part).__name__ for part in source)
        raise UserError(
            f"Expected (waveform, sampling_rate) for {name}, got {type(source).__name__} of "
            f"({kinds})."
        )
    return _checked_waveform(samples, name), _checked_rate(_scalar(source[1]), name)


def check_floats(samples: np.ndarray, name: str) -> None:
    """Raise a `UserError` for samples that are no floats, whose full scale is not 1."""
    if samples.dtype.kind != "f":
        raise UserError(
            f"Expected {name} as an array of floats in [-1, 1], got {samples.dtype}. Divide "
            "integer samples by the maximum of their dtype."
        )


def mix_down(channels: np.ndarray) -> np.ndarray:
    """Mix channels, shape (channels, samples), to one of shape (samples,).

    It is their mean, or the loudest channel where they would cancel, as in antiphase stereo.
    """
    cancellation = Cancellation()
    for start in range(0, channels.shape[1], _MOMENT):
        block = channels[:, start : start + _MOMENT]
        cancellation.add(block, block.mean(axis=0))
    loudest = cancellation.loudest
    return channels.mean(axis=0) if loudest is None else channels[loudest]


class Cancellation:
    """Powers of channels, and of the moments in which their mean loses what they hold."""

    def __init__(self):
        self._powers = np.zeros(1)
        self._lost = 0.0

    def add(self, channels: np.ndarray, mono: np.ndarray) -> None:
        """Add a moment's channels, shape (channels, samples), and their mean."""
        powers = _power_of(channels)
        if float(_power_of(mono)) < _CANCELLED * float(powers.sum()) / len(powers) ** 2:
            self._lost += float(powers.mean())
        same = self._powers.shape == powers.shape
        self._powers = powers + (self._powers if same else self._powers.mean())

    @property
    def loudest(self) -> int | None:
        """Channel with the most power, if the mean loses too much; else None."""
        is_lost = self._lost > _LOST * float(self._powers.mean())
        return int(self._powers.argmax()) if is_lost else None


def _power_of(waveforms: np.ndarray) -> np.ndarray:
    return np.einsum("...n,...n->...", waveforms, waveforms, dtype=np.float64)


def to_image(array: np.ndarray, name: str, *, channels_first: bool) -> Image.Image:
    """Convert an array to an image of mode L, RGB or RGBA; raise if it is none.

    Pixels have shape (height, width), (height, width, channels) or (channels, height, width), which
    a shape that may be both is with `channels_first`, and 1, 3 or 4 channels: integers from 0 to
    255, 16-bit unsigned integers of 8, 12 or 16 bits, truth values, or floats in [0, 1].
    """
    expected = (
        f"Expected pixels of {name} with shape (height, width, channels) or (channels, height, "
        "width)"
    )
    if array.ndim == 3:
        first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if first and (channels_first or not last):
            array = array.transpose(1, 2, 0)
        elif not last:
            raise UserError(f"{expected}, of 1, 3 or 4 channels; got shape {array.shape}.")
    if array.ndim not in (2, 3) or not array.size:
        raise UserError(f"{expected}, one image at a time; got shape {array.shape}.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    least, most = array.min(), array.max()
    if array.dtype.kind == "f":
        if not -_OVERSHOOT <= least <= most <= 1 + _OVERSHOOT:
            raise UserError(
                f"Expected floats in [0, 1] as pixels of {name}, got {least:g} to {most:g}. Undo "
                "a normalization; divide values up to 255 by 255."
            )
        array = np.clip(array * 255.0, 0, 255).round()
    elif array.dtype == bool:
        array = array * 255
    elif array.dtype == np.uint16:
        full = next(scale for scale in _FULL_SCALES if most <= scale)
        array = np.rint(array * (255 / full))
    elif least < 0 or most > 255:
        raise UserError(
            f"Expected integers from 0 to 255 as pixels of {name}, got {least} to {most}."
        )
    return Image.fromarray(np.ascontiguousarray(array, np.uint8))


def _scalar(value: Any) -> Any:
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _checked_waveform(samples: np.ndarray, name: str) -> np.ndarray:
    check_floats(samples, name)
    if samples.ndim == 2 and min(samples.shape) in (1, 2):
        # soundfile puts channels last, torchaudio first.
        samples = mix_down(samples if samples.shape[0] <= samples.shape[1] else samples.T)
    if samples.ndim != 1 or not samples.size:
        raise UserError(
            f"Expected {name} with shape (samples,), or of one or two channels, got "
            f"{samples.shape}. Give one waveform per item, and average more channels first."
        )
    if not np.isfinite(samples).all():
        raise UnreadableAudioError(not_finite(name))
    if (peak := float(np.abs(samples).max())) > _INTEGER_PEAK:
        raise UserError(
            f"Expected {name} as an array of floats in [-1, 1], got up to {peak:g}. Divide samples "
            "that were integers by the maximum of their dtype."
        )
    return samples.astype(np.float32)


def _checked_rate(rate: Any, name: str) -> int:
    if not is_number(rate) or rate != int(rate) or rate < 1:
        raise UserError(
            f"Expected the sampling rate of {name} as an integer in Hz, got {rate!r}. Give "
            "(waveform, sampling_rate)."
        )
    check_sampling_rate(int(rate), name)
    return int(rate)
