"""CLAP encoder: audio and texts to one embedding space."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.backends.base import Backend, Inputs
from clip2clap.embeddings.encoders.base import Encoder, average_windows
from clip2clap.media.audio import load_audio


class ClapEncoder(Encoder):
    """CLAP audio and text encoder; text-only for checkpoints without audio weights (AudioLDM).

    Examples:
        >>> clap = ClapEncoder.from_pretrained("demo")
        >>> clap.encode_audio(["bark.wav"]).shape
        torch.Size([1, 512])
        >>> clap.encode_text(["a dog barks", "rain"]).shape
        torch.Size([2, 512])
    """

    family = kind = "clap"

    def encode_audio(
        self,
        audio: Sequence[Any],
        *,
        batch_size: int = 16,
        normalize: bool = True,
    ) -> Tensor:
        """Encode audio deterministically, without random crops.

        Audio longer than the model's window is split into the fewest windows that cover it, spaced
        evenly from start to end; their unit-norm embeddings are averaged and normalized again.

        Args:
            audio: What `load_audio` reads: files, waveforms with their sampling rates, items of a
                `datasets` audio column. Waveforms are resampled to the model's rate.
            batch_size: Windows per batch; it does not change the embeddings.
            normalize: Scale embeddings to unit norm; otherwise to the norm of the model's output,
                for several windows the mean of their norms.

        Returns:
            Embeddings, shape (n, d), float32, on the CPU, in input order; unit norm by default.

        Raises:
            UserError: If a file can't be read, a waveform is empty, not of one or two channels, not
                floating point or not finite, or the model has no audio encoder.
        """
        return self._encode_items("audio", audio, batch_size, normalize)

    def _preprocess_item(self, numbered: tuple[int, Any]) -> Inputs:
        return preprocess_windows(self.backend, *numbered)

    def encode_waveforms(self, waveforms: Tensor, sampling_rate: int) -> Tensor:
        """Encode waveforms with gradients to their samples.

        The checkpoint's preprocessing is repeated in torch: the embeddings equal those of
        `encode_audio` up to rounding, and to the resampling if the rates differ.

        Args:
            waveforms: Mono waveforms, shape (n, samples), floating point, in [-1, 1].
            sampling_rate: Their sampling rate, in Hz.

        Returns:
            Embeddings, shape (n, d), float32, on the encoder's device; unit norm.

        Raises:
            UserError: If shape or dtype is wrong, there is no audio encoder, or its preprocessing
                has no differentiable form.
        """
        self._require("audio")
        if waveforms.ndim != 2 or not waveforms.is_floating_point() or not waveforms.shape[1]:
            raise UserError(
                "Expected waveforms of shape (n, samples), floating point, got "
                f"{waveforms.dtype} of shape {tuple(waveforms.shape)}."
            )
        rate = self.backend.sampling_rate
        resampled = _resample(waveforms.float(), sampling_rate, rate)
        parts = [split_windows(row, self.backend.window) for row in resampled]
        inputs = self.backend.waveform_inputs([part for own in parts for part in own])
        return average_windows(self("audio", inputs), list(map(len, parts)), normalize=True)


def preprocess_windows(
    backend: Backend, position: int, audio: Any, *, speeds: Sequence[float] = (1.0,)
) -> Inputs:
    """Preprocess audio, given with its position: resample it, and split it into windows.

    Copies of different speed and pitch are split one after the other.
    """
    waveform, sampling_rate = load_audio(audio, name=f"audio {position}")
    windows = []
    for speed in speeds:
        rate, copy = sampling_rate * speed, waveform
        if rate != backend.sampling_rate:
            copy = soxr.resample(waveform, rate, backend.sampling_rate)
        windows += split_windows(copy, backend.window)
    return backend.preprocess_audio(windows)


def split_windows(waveform: Any, length: int) -> list[Any]:
    """Split a waveform, an array or a tensor, into the fewest windows that cover it evenly."""
    count = math.ceil(len(waveform) / length)
    if count <= 1:
        return [waveform]
    starts = np.linspace(0, len(waveform) - length, count).round().astype(int).tolist()
    return [waveform[start : start + length] for start in starts]


def _resample(waveforms: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample waveforms (n, samples) by their Fourier transform, with its gradient."""
    if source_rate == target_rate:
        return waveforms
    length = waveforms.shape[1]
    wanted = round(length * target_rate / source_rate)
    spectra = torch.fft.rfft(waveforms)[:, : wanted // 2 + 1]
    return torch.fft.irfft(spectra, n=wanted) * (wanted / length)
