"""CLAP encoder: audio and texts to one embedding space."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import soxr
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.backends.base import Inputs
from clip2clap.embeddings.encoders.base import Encoder, average_windows


class ClapEncoder(Encoder):
    """CLAP audio and text encoder; text-only for checkpoints without audio weights (AudioLDM).

    Examples:
        >>> from clip2clap.media.audio import load_audio
        >>> clap = ClapEncoder.from_pretrained("demo")
        >>> clap.encode_audio([load_audio("bark.wav")]).shape
        torch.Size([1, 512])
        >>> clap.encode_text(["a dog barks", "rain"]).shape
        torch.Size([2, 512])
    """

    family = "clap"

    def encode_audio(
        self,
        audio: Sequence[tuple[np.ndarray | Tensor, int]],
        *,
        batch_size: int = 16,
        normalize: bool = True,
    ) -> Tensor:
        """Encode waveforms deterministically, without random crops.

        Audio longer than the model's window is split into the fewest windows that cover it, spaced
        evenly from start to end; their unit-norm embeddings are averaged and normalized again.

        Args:
            audio: Pairs of a mono waveform, shape (samples,), floats in [-1, 1], and its sampling
                rate in Hz; waveforms are resampled to the model's rate.
            batch_size: Windows per batch; it does not change the embeddings.
            normalize: Scale embeddings to unit norm; otherwise to the norm of the model's output,
                for several windows the mean of their norms.

        Returns:
            Embeddings, shape (n, d), float32, on the CPU, in input order; unit norm by default.

        Raises:
            UserError: If a waveform is empty, not mono, not floating point or not finite, or the
                model has no audio encoder.
        """
        self._check(audio, "audio", batch_size)
        windows = [self._windows(item, position) for position, item in enumerate(audio)]
        outputs = self._encode(
            [window for parts in windows for window in parts],
            "audio",
            batch_size,
            self.backend.preprocess_audio,
            normalize=False,
        )  # (windows, d)
        return average_windows(outputs, [len(parts) for parts in windows], normalize=normalize)

    def _windows(self, item: Any, position: int) -> list[np.ndarray]:
        waveform, sampling_rate = _check_audio(item, position)
        if sampling_rate != self.backend.sampling_rate:
            waveform = soxr.resample(waveform, sampling_rate, self.backend.sampling_rate)
        length = self.backend.window
        count = math.ceil(len(waveform) / length)
        if count <= 1:
            return [waveform]
        starts = np.linspace(0, len(waveform) - length, count).round().astype(int)
        return [waveform[start : start + length] for start in starts]

    def _preprocess_item(self, item: Any, position: int) -> Inputs:
        return self.backend.preprocess_audio(self._windows(item, position))


def _check_audio(audio: Any, position: int) -> tuple[np.ndarray, int]:
    where = f"audio {position}"
    if not isinstance(audio, tuple | list) or len(audio) != 2:
        raise UserError(
            f"Expected (waveform, sampling_rate) for {where}, got {type(audio).__name__}."
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
