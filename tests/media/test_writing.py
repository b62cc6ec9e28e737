"""Audio files: what is written is what was asked for, in every reader, whole and without clicks."""

import io
import json
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip2clap.core.errors import UserError
from clip2clap.media.audio import UnreadableAudioError, load_audio, read_tags
from clip2clap.media.writing import (
    AUDIO_FORMATS,
    MAX_TAG_BYTES,
    AudioFileOptions,
    integrated_loudness,
    write_audio,
)

RATE = 16_000


def tone(hertz: float, *, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def noise(*, seconds: float = 2.0, level: float = 0.1) -> np.ndarray:
    """Return pink noise, which codecs keep as they keep music."""
    count = int(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(count))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.fft.rfftfreq(count), 1e-3)), count)
    return (level * pink / pink.std()).astype(np.float32)


def ffmpeg(path: Path, *filters: str) -> tuple[np.ndarray, str]:
    """Return the samples, shape (samples, channels), that FFmpeg's command reads, and its log."""
    channels = soundfile.info(path).channels
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path), *filters]
    done = subprocess.run([*command, "-f", "f32le", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(-1, channels), done.stderr.decode()


@pytest.mark.parametrize(
    ("name", "depth", "step"),
    [
        ("a.wav", 16, 2**-15),
        ("a.wav", 24, 2**-23),
        ("a.wav", "float", 1e-9),
        ("a.flac", 16, 2**-15),
        ("a.flac", 24, 2**-23),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_formats_keep_each_sample_to_half_a_step(
    tmp_path: Path, name: str, depth: Any, step: float, channels: int
) -> None:
    waveform = np.stack([tone(440), tone(660)])[:channels]
    written = write_audio(tmp_path / name, waveform, RATE, bit_depth=depth, fade_s=0)
    stored, rate = soundfile.read(tmp_path / name, always_2d=True)
    assert (rate, stored.shape[1], written.gain) == (RATE, channels, 0.0)
    # A step of the writer is 1/32767, of the reader 1/32768.
    np.testing.assert_allclose(stored.T, waveform, atol=1.6 * step)
    np.testing.assert_array_equal(ffmpeg(tmp_path / name)[0], stored.astype(np.float32))
    np.testing.assert_allclose(load_audio(tmp_path / name)[0], stored.mean(1), atol=1e-7)


@pytest.mark.parametrize("format", ["ogg", "mp3", "opus"])
@pytest.mark.parametrize("rate", [None, 48_000])
def test_lossy_formats_keep_length_rate_and_what_is_heard(
    tmp_path: Path, format: str, rate: int | None
) -> None:
    path = tmp_path / f"a.{format}"
    written = write_audio(path, noise(), RATE, output_sampling_rate=rate)
    assert (written.seconds, written.sampling_rate) == (2.0, rate or RATE)
    back, own_rate = load_audio(path)
    assert len(back) == 2 * own_rate
    assert own_rate == (48_000 if format == "opus" else rate or RATE)
    by_ffmpeg = ffmpeg(path)[0][:, 0]
    assert len(by_ffmpeg) == pytest.approx(len(back), abs=own_rate * 0.02)
    import soxr

    expected = soxr.resample(noise(), RATE, own_rate)
    assert np.corrcoef(back, expected)[0, 1] > 0.9


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000, 96_000])
def test_resampling_keeps_pitch_and_level_and_adds_nothing_above(tmp_path: Path, rate: int) -> None:
    write_audio(
        tmp_path / "a.wav", tone(1000), RATE, output_sampling_rate=rate, bit_depth="float", fade_s=0
    )
    stored, own = soundfile.read(tmp_path / "a.wav")
    assert (own, len(stored)) == (rate, rate)
    spectrum = np.abs(np.fft.rfft(stored * np.hanning(rate))) / (rate / 4)
    assert spectrum.argmax() == 1000
    assert spectrum[1000] == pytest.approx(0.5, rel=1e-3)
    assert spectrum[1020:].max() < 1e-4


@pytest.mark.parametrize("format", AUDIO_FORMATS)
@pytest.mark.parametrize("target", [-23.0, -16.0])
def test_loudness_is_what_was_asked_for_by_our_and_by_ffmpeg_s_meter(
    tmp_path: Path, format: str, target: float
) -> None:
    path = tmp_path / f"a.{format}"
    rate = 48_000
    written = write_audio(
        path, noise(seconds=4), RATE, output_sampling_rate=rate, channels=2, loudness=target
    )
    assert written.loudness == pytest.approx(target, abs=0.1)
    assert not written.limited
    _, log = ffmpeg(path, "-af", "ebur128=peak=true")
    measured = re.findall(r"I:\s+(-?[\d.]+) LUFS", log)[-1]
    assert float(measured) == pytest.approx(target, abs=0.1)


@pytest.mark.parametrize("format", AUDIO_FORMATS)
def test_the_true_peak_precedes_the_loudness_which_is_said(tmp_path: Path, format: str) -> None:
    spiky = noise(seconds=3, level=0.02)
    spiky[RATE // 2 :: RATE] = 0.9
    path = tmp_path / f"a.{format}"
    written = write_audio(path, spiky, RATE, loudness=-14, true_peak=-1.5)
    assert written.limited
    assert written.loudness is not None
    assert written.loudness < -15
    assert written.true_peak is not None
    assert -3 < written.true_peak <= -1.45
    _, log = ffmpeg(path, "-af", "ebur128=peak=true")
    # Opus is decoded at another rate, between samples of which other peaks are found.
    slack = 0.5 if format == "opus" else 0.15
    assert float(re.findall(r"Peak:\s+(-?[\d.]+) dBFS", log)[-1]) <= -1.5 + slack


@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_a_clip_shorter_than_a_block_of_loudness_gets_it_too(
    tmp_path: Path, seconds: float
) -> None:
    written = write_audio(tmp_path / "a.wav", tone(1000, seconds=seconds), RATE, loudness=-23)
    back = load_audio(tmp_path / "a.wav")[0][np.newaxis]
    assert written.loudness == pytest.approx(-23, abs=0.1)
    assert integrated_loudness(back, RATE) == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("rate", [100, 2000, 192_000])
def test_loudness_is_measured_at_any_rate(rate: int) -> None:
    waveform = np.random.default_rng(0).standard_normal(rate) * 0.1
    for format in ("wav", "flac", "ogg"):
        written = write_audio(io.BytesIO(), waveform, rate, format=format, loudness=-23)
        assert written.loudness == pytest.approx(-23, abs=0.1)


def test_silence_stays_silence_and_has_no_loudness(tmp_path: Path) -> None:
    written = write_audio(tmp_path / "a.wav", np.zeros(RATE), RATE, loudness=-23, channels=2)
    assert (written.loudness, written.true_peak, written.gain) == (None, None, 0.0)
    assert not soundfile.read(tmp_path / "a.wav")[0].any()


@pytest.mark.parametrize("name", [f"loud.{format}" for format in AUDIO_FORMATS])
def test_audio_beyond_full_scale_is_turned_down_and_keeps_its_shape(
    tmp_path: Path, name: str
) -> None:
    waveform = noise(level=3)
    written = write_audio(tmp_path / name, waveform, RATE)
    stored, _ = soundfile.read(tmp_path / name)
    assert np.abs(stored).max() <= 1
    assert written.gain < -9
    assert np.corrcoef(stored, waveform)[0, 1] > (0.999 if name[5:] in ("wav", "flac") else 0.9)


def test_quiet_audio_stays_quiet(tmp_path: Path) -> None:
    write_audio(tmp_path / "quiet.wav", tone(440, level=0.01), RATE)
    back, _ = load_audio(tmp_path / "quiet.wav")
    assert np.abs(back).max() == pytest.approx(0.01, abs=1e-4)


@given(
    count=st.integers(1, 400),
    channels=st.sampled_from([1, 2]),
    rate=st.sampled_from([None, 24_000]),
    level=st.sampled_from([0.0, 1e-4, 0.5, 5.0]),
)
def test_no_file_begins_or_ends_with_a_click(
    count: int, channels: Any, rate: int | None, level: float
) -> None:
    file = io.BytesIO()
    written = write_audio(
        file,
        np.full(count, level),
        RATE,
        format="wav",
        channels=channels,
        output_sampling_rate=rate,
        bit_depth="float",
    )
    stored, _ = soundfile.read(io.BytesIO(file.getvalue()), always_2d=True)
    assert len(stored) == pytest.approx(count * (rate or RATE) / RATE, abs=1)
    assert stored.shape[1] == channels
    assert np.abs(stored).max() <= 1
    assert (written.path, len(stored)) == (None, round(written.seconds * (rate or RATE)))
    if len(stored) > 1:
        assert not stored[[0, -1]].any()


def test_a_fade_lasts_as_long_as_it_is_asked_to(tmp_path: Path) -> None:
    ones = np.full(RATE, 0.5, np.float32)
    write_audio(tmp_path / "a.wav", ones, RATE, fade_s=0.1, bit_depth="float")
    stored, _ = soundfile.read(tmp_path / "a.wav")
    ramp = stored[: RATE // 10]
    assert (np.diff(ramp) > 0).all()
    np.testing.assert_array_equal(stored, stored[::-1])
    assert (stored[RATE // 10 : -RATE // 10] == 0.5).all()


def test_stereo_from_mono_is_decorrelated_balanced_and_gives_the_mono_back(tmp_path: Path) -> None:
    waveform = noise(seconds=3)
    options = AudioFileOptions(channels=2, bit_depth="float", fade_s=0)
    write_audio(tmp_path / "a.wav", waveform, RATE, options)
    stored, _ = soundfile.read(tmp_path / "a.wav")
    left, right = stored.T
    np.testing.assert_allclose((left + right) / 2, waveform, atol=1e-6)
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.75
    for low, high in ((150, 600), (600, 2400), (2400, 7900)):
        bins = slice(3 * low, 3 * high)
        powers = (np.abs(np.fft.rfft(stored, axis=0)[bins]) ** 2).sum(0)
        assert powers[0] == pytest.approx(powers[1], rel=0.02)
    # Mixed again it is the mono file.
    write_audio(tmp_path / "b.wav", stored.T, RATE, options, channels=1)
    np.testing.assert_allclose(soundfile.read(tmp_path / "b.wav")[0], waveform, atol=1e-6)


def test_a_click_stays_sharp_in_stereo(tmp_path: Path) -> None:
    click = np.zeros(RATE, np.float32)
    click[RATE // 2] = 0.5
    write_audio(tmp_path / "a.wav", click, RATE, channels=2, bit_depth="float")
    energy = soundfile.read(tmp_path / "a.wav")[0] ** 2
    near = slice(RATE // 2 - RATE // 500, RATE // 2 + RATE // 500)  # 2 ms to either side
    assert (energy[near].sum(0) > 0.95 * energy.sum(0)).all()


TAGS = {"prompt": 'a "dog" barks, naïve 犬', "seed": 7, "long": {"scale": [2.5, "x" * 9000]}}


@pytest.mark.parametrize("format", AUDIO_FORMATS)
def test_tags_come_back_and_every_reader_reads_the_audio(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    write_audio(path, noise(), RATE, tags=TAGS)
    assert read_tags(path) == TAGS
    assert read_tags(path.read_bytes()) == TAGS
    write_audio(tmp_path / f"b.{format}", noise(), RATE)
    np.testing.assert_array_equal(load_audio(path)[0], load_audio(tmp_path / f"b.{format}")[0])
    samples, log = ffmpeg(path)
    assert len(samples) > 1.9 * RATE
    assert json.dumps(TAGS, separators=(",", ":"))[:40] in log


def test_tags_that_do_not_fit_or_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Leave the longest out") as refused:
        write_audio(tmp_path / "a.wav", noise(), RATE, tags={"a": "x" * MAX_TAG_BYTES})
    assert refused.value.param == "tags"
    assert list(tmp_path.iterdir()) == []
    soundfile.write(tmp_path / "a.wav", noise(), RATE)
    with pytest.raises(UserError, match=r"a\.wav has no tags of clip2clap"):
        read_tags(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("text")
    with pytest.raises(UnreadableAudioError, match=r"b\.wav is not an audio file"):
        read_tags(tmp_path / "b.wav")


def test_a_file_object_gets_the_bytes_of_the_file(tmp_path: Path) -> None:
    for format in AUDIO_FORMATS:
        file = io.BytesIO()
        write_audio(file, torch.from_numpy(noise()).bfloat16(), RATE, format=format)
        write_audio(tmp_path / f"a.{format}", torch.from_numpy(noise()).bfloat16(), RATE)
        assert len(file.getvalue()) == len((tmp_path / f"a.{format}").read_bytes())
        file.seek(0)
        np.testing.assert_array_equal(load_audio(file)[0], load_audio(tmp_path / f"a.{format}")[0])


def test_a_full_disk_is_an_error_of_the_file_and_leaves_nothing(
    tmp_path: Path, in_a_fork: Callable[..., int]
) -> None:
    def write_more_than_fits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with pytest.raises(OSError, match="too large") as raised:
            write_audio(tmp_path / "a.wav", noise(), RATE)
        assert raised.value.filename == str(tmp_path / "a.wav")

    assert in_a_fork(write_more_than_fits) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_long_ogg_is_written(tmp_path: Path) -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 40 * 44_100).astype(np.float32)
    write_audio(tmp_path / "long.ogg", waveform, 44_100)
    assert soundfile.info(tmp_path / "long.ogg").frames == len(waveform)


@pytest.mark.parametrize(
    ("name", "waveform", "words"),
    [
        ("sound.m4a", tone(440), r"expected a name that ends in \.wav, .* or \.opus"),
        ("sound", tone(440), "expected a name that ends in"),
        ("sound.wav", np.zeros((3, 10)), r"\(2, samples\), got \(3, 10\)"),
        ("sound.wav", np.zeros((10, 2)), "put channels first"),
        ("sound.wav", np.zeros(0), r"shape \(samples,\) or \(2, samples\), got \(0,\)"),
        ("sound.wav", "text", "got str"),
        ("sound.wav", np.array([0.0, np.nan]), "not finite"),
        ("sound.wav", (tone(440) * 32_767).astype(np.int16), "got int16. Divide integer samples"),
        ("sound.wav", torch.ones(9, dtype=torch.int64), "got int64"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(
    tmp_path: Path, name: str, waveform: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        write_audio(tmp_path / name, waveform, RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("param", "settings", "words"),
    [
        ("format", {"format": "aac"}, "one of wav, flac, ogg, mp3, opus, got 'aac'"),
        ("bit_depth", {"bit_depth": 32}, "16, 24 or 'float', got 32"),
        ("bit_depth", {"format": "flac", "bit_depth": "float"}, "flac is of 16 or 24 bits"),
        ("bit_depth", {"format": "mp3", "bit_depth": 16}, "mp3 has no bit depth"),
        ("channels", {"channels": 6}, "1 or 2, got 6"),
        ("output_sampling_rate", {"output_sampling_rate": 0.5}, "an integer from"),
        ("output_sampling_rate", {"format": "ogg", "output_sampling_rate": 384_000}, "to 192000"),
        ("output_sampling_rate", {"format": "opus", "output_sampling_rate": 44_100}, "48000"),
        ("output_sampling_rate", {"format": "mp3", "output_sampling_rate": 96_000}, "44100, 48000"),
        ("loudness", {"loudness": 23}, "from -70 to 0 LUFS, got 23"),
        ("loudness", {"loudness": float("nan")}, "LUFS"),
        ("true_peak", {"true_peak": 1}, "dBTP"),
        ("fade_s", {"fade_s": -1}, "0 seconds or longer"),
    ],
)
def test_options_that_cannot_be_are_refused_at_the_door(
    param: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        AudioFileOptions(**settings)
    assert refused.value.param == param


def test_a_rate_that_the_format_of_the_file_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="opus has no sampling rate of 44100 Hz"):
        write_audio(tmp_path / "a.opus", tone(440), 44_100)
    with pytest.raises(UserError, match=r"A file object needs format=\.\.\."):
        write_audio(io.BytesIO(), tone(440), RATE)
    with pytest.raises(UserError, match="positive integer in Hz"):
        write_audio(tmp_path / "a.wav", tone(440), 0)
    assert list(tmp_path.iterdir()) == []


def test_stereo_is_read_as_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(440), tone(880)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), RATE, "FLOAT")
    back, _ = load_audio(tmp_path / "stereo.wav")
    np.testing.assert_allclose(back, (left + right) / 2, atol=1e-7)


def test_an_unreadable_audio_file_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for name, words in [
        ("text.wav", "not an audio file"),
        ("empty.wav", "holds no samples"),
        ("absent.wav", "No such file"),
    ]:
        with pytest.raises(UnreadableAudioError, match=words) as caught:
            load_audio(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
