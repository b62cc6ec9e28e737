"""Audio files: writing at a sampling rate, channels, bit depth and loudness, with tags."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import soundfile

from clip2clap.core.errors import UserError, expect, is_integer, is_number
from clip2clap.core.files import replacing
from clip2clap.media.arrays import check_floats, mix_down, to_array
from clip2clap.media.stereo import to_stereo

AudioFormat = Literal["wav", "flac", "ogg", "mp3", "opus"]
BitDepth = Literal[16, 24, "float"]

AUDIO_FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)

MAX_TAG_BYTES = 32_000
"""Most bytes of a file's tags; libsndfile drops a longer comment of a WAV without an error."""

_SUBTYPES = {"ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}
_BIT_DEPTHS: dict[str, tuple[BitDepth, ...]] = {"wav": (16, 24, "float"), "flac": (16, 24)}
# libsndfile's Vorbis encoder crashes beyond 200 kHz, and nothing needs it.
_SAMPLING_RATES = (100, 192_000)
_RATES = {
    "opus": (8000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
# Bit rates at which 48 kHz stereo is transparent: about 190 kbit/s of Vorbis, MP3 at its best.
_COMPRESSION = {"ogg": 0.4, "mp3": 0.0}
# libsndfile's Vorbis encoder keeps a whole write on the stack.
_WRITE_BLOCK = 2**16
# Blocks that loudness is measured over, in s (ITU-R BS.1770).
_LOUDNESS_BLOCK = 0.4
# Its filter of treble is unstable below.
_LEAST_METERED_HZ = 8000
# ITU-R BS.1770 measures true peaks at four times the sampling rate.
_OVERSAMPLING = 4
# EBU R 128's largest true peak, in dBTP.
_TRUE_PEAK = -1.0
# How far lossy formats overshoot and how much they leave out is known once they are decoded.
_MOST_CORRECTIONS = 6
_TOLERANCE_DB = 0.02
# A loudness this far below the wanted one was limited by the peak.
_LIMITED_LU = 0.1


@dataclass(frozen=True)
class AudioFileOptions:
    """Options of an audio file that is written; by default the waveform's own, with short fades.

    Examples:
        >>> AudioFileOptions(output_sampling_rate=48_000, channels=2, bit_depth=24, loudness=-23)
        AudioFileOptions(format=None, output_sampling_rate=48000, channels=2, bit_depth=24, ...)
    """

    format: AudioFormat | None = None
    """File format; by default that of the file name's suffix."""

    output_sampling_rate: int | None = None
    """Sampling rate of the file, in Hz: soxr resamples to it. By default that of the waveform."""

    channels: Literal[1, 2] | None = None
    """Channels of the file. Mono becomes stereo by decorrelation, see `media.stereo`, and stereo
    becomes mono by averaging. By default those of the waveform."""

    bit_depth: BitDepth | None = None
    """Bits per sample of WAV and FLAC, rounded without dither, or `"float"` for WAV in 32-bit
    floats. 16 by default; lossy formats have none."""

    loudness: float | None = None
    """Integrated loudness in LUFS (ITU-R BS.1770-4, EBU R 128); a clip shorter than 0.4 s is
    measured in a loop. By default the level is kept."""

    true_peak: float | None = None
    """Maximum true peak in dBTP, measured at four times the sampling rate, of a lossy format after
    decoding. It precedes `loudness`. By default -1 with `loudness`; otherwise no sample, and of a
    lossy format no true peak, exceeds full scale."""

    fade_s: float = 0.005
    """Length of the fade-in and of the fade-out, in seconds; 0 for none."""

    def __post_init__(self) -> None:
        depth, rate = self.bit_depth, self.output_sampling_rate
        least, most = _SAMPLING_RATES
        choices = ", ".join(AUDIO_FORMATS)
        expect(self.format in (None, *AUDIO_FORMATS), "format", f"one of {choices}", self.format)
        expect(self.channels in (None, 1, 2), "channels", "1 or 2", self.channels)
        expect(depth in (None, *get_args(BitDepth)), "bit_depth", "16, 24 or 'float'", depth)
        holds = rate is None or (is_integer(rate) and least <= rate <= most)
        expect(holds, "output_sampling_rate", f"an integer from {least} to {most} Hz", rate)
        for name, lowest, unit in (("loudness", -70.0, "LUFS"), ("true_peak", -60.0, "dBTP")):
            value = getattr(self, name)
            holds = value is None or (is_number(value) and lowest <= value <= 0)
            expect(holds, name, f"from {lowest:g} to 0 {unit}", value)
        holds = is_number(self.fade_s) and self.fade_s >= 0
        expect(holds, "fade_s", "0 seconds or longer", self.fade_s)
        if self.format is not None:
            self._check_format(self.format, rate)

    def for_file(self, name: str | None, sampling_rate: int) -> "AudioFileOptions":
        """Return the options with the format and the sampling rate of a file, which are checked.

        Args:
            name: File name, of which the suffix is the format if there is none in the options.
            sampling_rate: Sampling rate of the waveform, in Hz.

        Raises:
            UserError: If there is no format, or it cannot have the sampling rate.
        """
        suffix: Any = Path(name or "").suffix.lstrip(".").lower()
        if self.format is None and suffix not in AUDIO_FORMATS:
            known = ", ".join(f".{each}" for each in AUDIO_FORMATS[:-1])
            raise UserError(
                "A file object needs format=... (wav, flac, ogg, mp3 or opus)."
                if name is None
                else f"Cannot write {Path(name).name!r}: expected a name that ends in {known} or "
                f".{AUDIO_FORMATS[-1]}.",
                param="format",
            )
        rate = self.output_sampling_rate or sampling_rate
        chosen = replace(self, format=self.format or suffix)
        chosen._check_format(chosen.format or suffix, rate)
        return replace(chosen, output_sampling_rate=rate)

    def _check_format(self, format: str, rate: int | None) -> None:
        depths, rates = _BIT_DEPTHS.get(format, ()), _RATES.get(format)
        if self.bit_depth is not None and self.bit_depth not in depths:
            has = f"is of {' or '.join(map(str, depths))} bits" if depths else "has no bit depth"
            raise UserError(
                f"{format} {has}, got bit_depth={self.bit_depth}. Leave it out, or use format='"
                f"{'wav' if depths else 'flac'}'.",
                param="bit_depth",
            )
        if rate is not None and rates and rate not in rates:
            raise UserError(
                f"{format} has no sampling rate of {rate} Hz, but of {', '.join(map(str, rates))}. "
                "Use output_sampling_rate=48000, or another format.",
                param="output_sampling_rate",
            )


@dataclass(frozen=True)
class WrittenAudio:
    """Measurements of an audio file that `write_audio` wrote, as it is decoded.

    Examples:
        >>> write_audio("tone.flac", np.full(16_000, 2.0), 16_000).gain
        -6.02
    """

    path: Path | None
    """The file; None for a file object."""

    seconds: float
    """Duration."""

    sampling_rate: int
    """Sampling rate in Hz."""

    channels: int
    """Number of channels."""

    loudness: float | None
    """Integrated loudness in LUFS; None for silence."""

    true_peak: float | None
    """True peak in dBTP; None for silence."""

    gain: float
    """Gain that was applied, in dB."""

    limited: bool
    """True if the peak allowed less than the wanted loudness."""


def write_audio(
    file: str | Path | IO[bytes],
    waveform: Any,
    sampling_rate: int,
    options: AudioFileOptions | None = None,
    *,
    tags: Mapping[str, Any] | None = None,
    **settings: Any,
) -> WrittenAudio:
    """Write a waveform as WAV, FLAC, OGG Vorbis, MP3 or Opus, atomically to a path.

    A waveform beyond full scale is scaled down as a whole rather than clipped. By default the level
    is otherwise kept, and the first and last 5 ms are faded, so that nothing clicks.

    Args:
        file: Path, replaced if it exists, whose folder must exist; or a binary file object.
        waveform: Samples, shape (samples,), or of two channels, shape (2, samples), full scale at
            -1 and 1: an array or a tensor of floats.
        sampling_rate: Sampling rate of the waveform, in Hz.
        options: Options of the file.
        tags: JSON document that is kept in the file's comment; `read_tags` returns it.
        **settings: Fields of `AudioFileOptions`, which replace those of `options`.

    Returns:
        What was written, with its measured loudness, true peak and gain.

    Raises:
        UserError: If the format cannot have an option, the waveform is of another shape, is empty
            or holds integers or non-finite samples, or the tags are longer than `MAX_TAG_BYTES`.

    Examples:
        >>> tone = np.sin(np.linspace(0, 2000, 16000))
        >>> write_audio("tone.wav", tone, 16_000, output_sampling_rate=48_000, loudness=-23)
        WrittenAudio(path=PosixPath('tone.wav'), ..., loudness=-23.0, ..., limited=False)
    """
    path = None if hasattr(file, "write") else Path(file)  # pyright: ignore[reportArgumentType]
    name = None if path is None else path.name
    holds = is_integer(sampling_rate) and sampling_rate > 0
    expect(holds, "sampling_rate", "a positive integer in Hz", sampling_rate)
    options = replace(options or AudioFileOptions(), **settings).for_file(name, sampling_rate)
    comment = _comment(tags)
    samples = _prepare(_checked(waveform, name or "the file"), sampling_rate, options)
    content, written = _fit(samples, options, comment, path)
    if path is None:
        file.write(content)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        with replacing(path) as partial:
            partial.write_bytes(content)
    return written


def integrated_loudness(samples: np.ndarray, sampling_rate: int) -> float:
    """Return the integrated loudness in LUFS (ITU-R BS.1770-4); minus infinity for silence.

    Args:
        samples: Shape (channels, samples), full scale at -1 and 1.
        sampling_rate: In Hz.
    """
    from pyloudnorm import Meter

    if sampling_rate < _LEAST_METERED_HZ:
        import soxr

        samples = soxr.resample(samples.T, sampling_rate, _LEAST_METERED_HZ).T
        sampling_rate = _LEAST_METERED_HZ
    # One block at least, of a shorter clip that is looped.
    loops = math.ceil(_LOUDNESS_BLOCK * sampling_rate / samples.shape[1])
    looped = np.tile(samples, (1, loops)).T.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        meter = Meter(sampling_rate, block_size=_LOUDNESS_BLOCK)
        loudness = meter.integrated_loudness(looped)
    return float(loudness) if np.isfinite(loudness) else -math.inf


def true_peak(samples: np.ndarray, sampling_rate: int) -> float:
    """Return the true peak (ITU-R BS.1770-4), full scale at 1.

    Args:
        samples: Shape (channels, samples).
        sampling_rate: In Hz.
    """
    import soxr

    between = soxr.resample(samples.T, sampling_rate, _OVERSAMPLING * sampling_rate, "HQ")
    return max(_peak(samples), _peak(between))


def _comment(tags: Mapping[str, Any] | None) -> str | None:
    if tags is None:
        return None
    # In ASCII, since readers of RIFF and ID3 disagree on encodings.
    comment = json.dumps(tags, separators=(",", ":"), default=str)
    if len(comment) > MAX_TAG_BYTES:
        raise UserError(
            f"The tags have {len(comment)} bytes as JSON; a file holds {MAX_TAG_BYTES}. Leave the "
            "longest out.",
            param="tags",
        )
    return comment


def _checked(waveform: Any, name: str) -> np.ndarray:
    """Return samples of shape (channels, samples), float32."""
    samples = to_array(waveform)
    if samples is None or samples.ndim not in (1, 2) or not samples.size:
        shape = type(waveform).__name__ if samples is None else samples.shape
        raise UserError(
            f"Expected a waveform of shape (samples,) or (2, samples), got {shape}: write one per "
            "file.",
            param="waveform",
        )
    check_floats(samples, "waveform")
    samples = np.atleast_2d(samples).astype(np.float32)
    if len(samples) > 2:
        raise UserError(
            f"Expected a waveform of shape (samples,) or (2, samples), got {samples.shape}: put "
            "channels first, and write one waveform per file.",
            param="waveform",
        )
    if not np.isfinite(samples).all():
        raise UserError(
            f"The waveform for {name!r} has samples that are not finite. A generator in "
            "float16 does that: use float32 or bfloat16.",
            param="waveform",
        )
    return samples


def _prepare(samples: np.ndarray, rate: int, options: AudioFileOptions) -> np.ndarray:
    """Return the samples at the channels and rate of the file, faded, shape (channels, samples)."""
    new_rate = options.output_sampling_rate or rate
    if options.channels == 1:
        samples = mix_down(samples)[np.newaxis]
    if new_rate != rate:
        import soxr

        samples = np.ascontiguousarray(soxr.resample(samples.T, rate, new_rate, "VHQ").T)
    if options.channels == 2 and len(samples) == 1:
        samples = to_stereo(samples[0], new_rate)
    length = min(round(options.fade_s * new_rate), samples.shape[1] // 2)
    ramp = (0.5 - 0.5 * np.cos(np.pi * np.arange(length) / max(length, 1))).astype(np.float32)
    samples = samples.copy()
    samples[:, :length] *= ramp
    samples[:, samples.shape[1] - length :] *= ramp[::-1]
    return samples


def _fit(
    samples: np.ndarray, options: AudioFileOptions, comment: str | None, path: Path | None
) -> tuple[bytes, WrittenAudio]:
    """Encode samples at the gain that loudness and peak ask for, as measured after decoding."""
    rate, wanted = int(options.output_sampling_rate or 0), options.loudness
    is_oversampled = options.format in _SUBTYPES or (wanted, options.true_peak) != (None, None)
    highest = 0.0 if wanted is None else _TRUE_PEAK
    highest = highest if options.true_peak is None else options.true_peak

    def corrections(waveform: np.ndarray) -> tuple[float, float]:
        peak = _decibels(true_peak(waveform, rate) if is_oversampled else _peak(waveform))
        own = -math.inf if wanted is None else integrated_loudness(waveform, rate)
        return highest - peak, (wanted or 0.0) - own if math.isfinite(own) else 0.0

    gain, limited = min(corrections(samples)), False
    content, decoded = _encode(_amplified(samples, gain), options, comment)
    for _ in range(_MOST_CORRECTIONS):
        headroom, change = corrections(decoded)
        limited |= headroom < min(change, -_TOLERANCE_DB)
        # What overshot once is only lowered: the peaks of a lossy format are no smooth function.
        change = min(headroom, change, 0.0 if limited else math.inf)
        if abs(change) <= _TOLERANCE_DB:
            break
        gain += change
        content, decoded = _encode(_amplified(samples, gain), options, comment)
    loudness = integrated_loudness(decoded, rate)
    return content, WrittenAudio(
        path=path,
        seconds=decoded.shape[1] / rate,
        sampling_rate=rate,
        channels=len(decoded),
        loudness=_rounded(loudness),
        true_peak=_rounded(_decibels(true_peak(decoded, rate))),
        gain=round(gain, 2),
        limited=wanted is not None and -math.inf < loudness < wanted - _LIMITED_LU,
    )


def _encode(
    samples: np.ndarray, options: AudioFileOptions, comment: str | None
) -> tuple[bytes, np.ndarray]:
    """Encode samples, shape (channels, samples), and return the file and what it decodes to."""
    format, content = str(options.format), io.BytesIO()
    depth = options.bit_depth or 16
    pcm = "FLOAT" if depth == "float" else f"PCM_{depth}"
    with soundfile.SoundFile(
        content,
        "w",
        samplerate=int(options.output_sampling_rate or 0),
        channels=len(samples),
        format="OGG" if format == "opus" else format.upper(),
        subtype=_SUBTYPES.get(format, pcm),
        compression_level=_COMPRESSION.get(format),
    ) as file:
        if comment is not None:
            file.comment = comment
        for start in range(0, samples.shape[1], _WRITE_BLOCK):
            file.write(samples[:, start : start + _WRITE_BLOCK].T)
    content.seek(0)
    decoded, _ = soundfile.read(content, dtype="float32", always_2d=True)
    return content.getvalue(), decoded.T


def _amplified(samples: np.ndarray, gain: float) -> np.ndarray:
    return samples if gain == 0 else samples * np.float32(10 ** (gain / 20))


def _peak(samples: np.ndarray) -> float:
    return float(np.abs(samples).max())


def _decibels(peak: float) -> float:
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def _rounded(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None
