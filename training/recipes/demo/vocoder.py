"""Demo generator's vocoder: log-mel spectrograms to waveforms."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.training.recipes.demo.audio_bank import (
    CLIP_SAMPLES,
    HOP,
    MEL_BINS,
    WINDOW,
    AudioBank,
    log_mel,
)
from clip2clap.training.recipes.demo.data import SAMPLING_RATE
from clip2clap.training.recipes.demo.loop import Stage, compute

SEGMENT_FRAMES = 64
BATCH = 32


def build_vocoder() -> SpectralVocoder:
    """Build a vocoder for 64 mel bins at 16 kHz and a hop of 160 samples."""
    return SpectralVocoder(
        model_in_dim=MEL_BINS,
        sampling_rate=SAMPLING_RATE,
        upsample_rates=(HOP,),
        window_size=WINDOW,
    )


def spectral_distance(predicted: Tensor, real: Tensor) -> Tensor:
    """Compute spectral convergence plus the L1 distance of log magnitudes (n, frames, bins).

    Yamamoto et al. 2019, https://arxiv.org/abs/1910.11480.
    """
    difference = (predicted - real).norm(dim=(1, 2)) / real.norm(dim=(1, 2)).clamp(min=1e-3)
    logarithms = F.l1_loss(predicted.clamp(min=1e-4).log(), real.clamp(min=1e-4).log())
    return difference.clamp(max=10).mean() + 0.2 * logarithms


def train_vocoder(bank: AudioBank, stage: Stage) -> SpectralVocoder:
    """Train the magnitudes of a `SpectralVocoder` on training audio, of demo classes or not."""

    def batch_loss(vocoder: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(vocoder, SpectralVocoder)
        rows = bank.draw(BATCH, generator)
        real = bank.batch(rows, SEGMENT_FRAMES * HOP, generator)
        real = real * (0.2 + 0.8 * torch.rand(BATCH, 1, generator=generator))
        predicted = compute(vocoder.magnitudes, log_mel(real))
        return spectral_distance(predicted, compute(vocoder.stft, real).abs())

    return stage.train(build_vocoder, batch_loss)


def vocoder_errors(vocoder: SpectralVocoder, bank: AudioBank) -> dict[str, float]:
    """Compare mel -> waveform -> mel of real audio with librosa's Griffin-Lim of 64 iterations."""
    import librosa  # pyright: ignore[reportMissingImports]

    real = bank.batch(torch.arange(0, len(bank), 6), CLIP_SAMPLES)
    mels = log_mel(real)
    with torch.inference_mode():
        ours = torch.cat([vocoder(part) for part in mels.split(8)])
    theirs = []
    for mel in mels.exp().transpose(1, 2).numpy():
        padded = np.concatenate([mel, mel[:, -1:]], axis=1)
        magnitudes = librosa.feature.inverse.mel_to_stft(
            padded, sr=SAMPLING_RATE, n_fft=WINDOW, power=1.0
        )
        waveform = librosa.griffinlim(
            magnitudes, n_iter=64, hop_length=HOP, n_fft=WINDOW, random_state=0
        )
        # Our frames are centered half a hop later than librosa's.
        theirs.append(torch.from_numpy(np.pad(waveform, (HOP // 2, HOP))[:CLIP_SAMPLES]))
    target = vocoder.stft(real).abs()
    results = {}
    for name, waveforms in (("vocoder", ours), ("Griffin-Lim", torch.stack(theirs))):
        error = (vocoder.stft(waveforms).abs() - target).norm(dim=(1, 2))
        results[f"{name}: log-mel L1"] = F.l1_loss(log_mel(waveforms), mels).item()
        results[f"{name}: spectral convergence"] = (error / target.norm(dim=(1, 2))).mean().item()
    return results
