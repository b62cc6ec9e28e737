"""Sound files, written whole and never clipped."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing

AudioFormat = Literal["wav", "flac", "ogg"]
AUDIO_FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)

# Vorbis overshoots what it was given: 1 dB of headroom keeps the decoded sound below full scale.
_PEAKS: dict[str, float] = {"wav": 1.0, "flac": 1.0, "ogg": 10 ** (-1 / 20)}
_SUBTYPES: dict[str, str] = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS"}
# libsndfile's Vorbis encoder keeps a whole write on the stack: long sounds go in by the block.
_BLOCK = 65_536


def write_audio(
    path: str | Path,
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    format: AudioFormat | None = None,
) -> None:
    """Write a sound to a file, all of it or nothing.

    WAV and FLAC hold 16-bit samples, OGG holds Vorbis. A sound louder than full scale is turned
    down as a whole rather than clipped; any other is written at the level it has.

    Args:
        path: The file to write; its folder must exist. A file of that name is replaced.
        waveform: Samples, shape (samples,), full scale at -1 and 1; a NumPy array or anything
            NumPy takes for one, such as a tensor on the CPU.
        sampling_rate: Samples a second, in Hz.
        format: What to write; by default what the file's name ends in.

    Raises:
        UserError: If the format is unknown, the shape is not (samples,), there are no samples,
            or some are not finite.
    """
    path = Path(path)
    chosen: str = format or path.suffix.lstrip(".").lower()
    if chosen not in AUDIO_FORMATS:
        raise UserError(
            f"Cannot write {path.name!r}: expected a name that ends in .wav, .flac or .ogg."
        )
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise UserError(
            f"Expected a waveform of shape (samples,), got {samples.shape}: write one sound a file."
        )
    if not np.isfinite(samples).all():
        raise UserError(
            f"The sound for {path.name!r} has samples that are not finite. "
            "A generator in float16 does that: use float32 or bfloat16."
        )
    if sampling_rate < 1:
        raise UserError(f"Expected a sampling rate above 0 Hz, got {sampling_rate}.")
    peak = float(np.abs(samples).max())
    if peak > _PEAKS[chosen]:
        samples = samples * (_PEAKS[chosen] / peak)
    if _SUBTYPES[chosen] == "PCM_16":
        samples = np.round(samples * 32767).astype(np.int16)
    with (
        replacing(path) as partial,
        soundfile.SoundFile(
            partial,
            "w",
            samplerate=int(sampling_rate),
            channels=1,
            format=chosen.upper(),
            subtype=_SUBTYPES[chosen],
        ) as file,
    ):
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])
