"""CLAP encoder: audio and texts to one embedding space."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.backends.base import Inputs
from clip2clap.embeddings.encoders.base import Encoder
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

    family = "clap"

    def encode_audio(
        self,
        audio: Sequence[tuple[np.ndarray | Tensor, int] | str | Path],
        *,
        batch_size: int = 16,
        normalize: bool = True,
    ) -> Tensor:
        """Encode audio deterministically, without random crops.

        Audio longer than the model's window is split into the fewest windows that cover it, spaced
        evenly from start to end; their unit-norm embeddings are averaged and normalized again.

        Args:
            audio: Paths, or pairs of a mono waveform, shape (samples,), floats in [-1, 1], and its
                sampling rate in Hz; waveforms are resampled to the model's rate.
            batch_size: Windows per batch; it does not change the embeddings.
            normalize: Scale embeddings to unit norm; otherwise to the norm of the model's output,
                for several windows the mean of their norms.

        Returns:
            Embeddings, shape (n, d), float32, on the CPU, in input order; unit norm by default.

        Raises:
            UserError: If a file can't be read, a waveform is empty, not mono, not floating point
                or not finite, or the model has no audio encoder.
        """
        return self._encode_items("audio", audio, batch_size, normalize)

    def _preprocess_item(self, numbered: tuple[int, Any]) -> Inputs:
        position, audio = numbered
        opened = load_audio(audio) if isinstance(audio, str | Path | bytes) else audio
        waveform, sampling_rate = _check_audio(opened, position)
        if sampling_rate != self.backend.sampling_rate:
            waveform = soxr.resample(waveform, sampling_rate, self.backend.sampling_rate)
        length = self.backend.window
        count = math.ceil(len(waveform) / length)
        if count <= 1:
            return self.backend.preprocess_audio([waveform])
        starts = np.linspace(0, len(waveform) - length, count).round().astype(int)
        return self.backend.preprocess_audio([waveform[start : start + length] for start in starts])


def _check_audio(audio: Any, position: int) -> tuple[np.ndarray, int]:
    where = f"audio {position}"
    if not isinstance(audio, tuple | list) or len(audio) != 2:
        raise UserError(
            f"Expected a path or (waveform, sampling_rate) for {where}, got {type(audio).__name__}."
        )
    waveform, sampling_rate = audio
    waveform = waveform.detach().cpu().numpy() if isinstance(waveform, Tensor) else waveform
    if not isinstance(waveform, np.ndarray) or not np.issubdtype(waveform.dtype, np.floating):
        raise UserError(
            f"Expected {where} as an array of floats in [-1, 1], got "
            f"{getattr(waveform, 'dtype', type(waveform).__name__)}. Divide integer samples by "
            "the maximum of their dtype."
        )
    if waveform.ndim != 1 or not waveform.size:
        raise UserError(
            f"Expected {where} with shape (samples,), got {waveform.shape}. Average the channels "
            "of stereo audio first."
        )
    if not isinstance(sampling_rate, int | np.integer) or sampling_rate < 1:
        raise UserError(
            f"Expected the sampling rate of {where} as an integer in Hz, got {sampling_rate!r}."
        )
    waveform = waveform.astype(np.float32)
    if not np.isfinite(waveform).all():
        raise UserError(f"Expected {where} to be finite, got NaN or infinity in it.")
    return waveform, int(sampling_rate)
