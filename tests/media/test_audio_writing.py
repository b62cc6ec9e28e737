"""Sound files, spectrograms and the demo page: what is written is what was given, whole."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from clip2clap.core.errors import UserError
from clip2clap.media.audio import UnreadableAudioError, load_audio, write_audio

RATE = 16_000


def tone(hertz: float, *, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


@pytest.mark.parametrize("name", ["sound.wav", "sound.flac"])
def test_a_sound_comes_back_to_within_half_a_16_bit_step(tmp_path: Path, name: str) -> None:
    waveform = tone(440)
    write_audio(tmp_path / name, waveform, RATE)
    back, rate = load_audio(tmp_path / name)
    assert rate == RATE
    assert soundfile.info(tmp_path / name).subtype == "PCM_16"
    # Written in steps of 1/32767, read in steps of 1/32768.
    np.testing.assert_allclose(back * 32768 / 32767, waveform, atol=0.51 / 32767)


def test_ogg_vorbis_keeps_length_rate_and_pitch(tmp_path: Path) -> None:
    write_audio(tmp_path / "sound.ogg", tone(440, seconds=2), RATE)
    back, rate = load_audio(tmp_path / "sound.ogg")
    assert (len(back), rate) == (2 * RATE, RATE)
    assert np.argmax(np.abs(np.fft.rfft(back))) == 440 * 2


@pytest.mark.parametrize("name", ["loud.wav", "loud.flac", "loud.ogg"])
def test_a_sound_beyond_full_scale_is_turned_down_and_keeps_its_shape(
    tmp_path: Path, name: str
) -> None:
    waveform = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 3
    write_audio(tmp_path / name, waveform, RATE)
    back, _ = load_audio(tmp_path / name)
    assert np.abs(back).max() <= 1
    assert np.corrcoef(back, waveform)[0, 1] > (0.9 if name.endswith("ogg") else 0.9999)


def test_a_quiet_sound_stays_quiet(tmp_path: Path) -> None:
    write_audio(tmp_path / "quiet.wav", tone(440, level=0.01), RATE)
    back, _ = load_audio(tmp_path / "quiet.wav")
    assert np.abs(back).max() == pytest.approx(0.01, abs=1e-4)


def test_a_long_ogg_is_written(tmp_path: Path) -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 40 * 44_100).astype(np.float32)
    write_audio(tmp_path / "long.ogg", waveform, 44_100)
    assert soundfile.info(tmp_path / "long.ogg").frames == len(waveform)


@pytest.mark.parametrize(
    ("name", "waveform", "words"),
    [
        ("sound.mp3", tone(440), "expected a name that ends in .wav, .flac or .ogg"),
        ("sound", tone(440), "expected a name that ends in .wav, .flac or .ogg"),
        ("sound.wav", np.zeros((2, 10)), r"shape \(samples,\), got \(2, 10\)"),
        ("sound.wav", np.zeros(0), r"shape \(samples,\), got \(0,\)"),
        ("sound.wav", np.array([0.0, np.nan]), "not finite"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(
    tmp_path: Path, name: str, waveform: np.ndarray, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        write_audio(tmp_path / name, waveform, RATE)
    assert list(tmp_path.iterdir()) == []


def test_stereo_is_read_as_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(440), tone(880)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), RATE, "FLOAT")
    back, _ = load_audio(tmp_path / "stereo.wav")
    np.testing.assert_allclose(back, (left + right) / 2, atol=1e-7)


def test_an_unreadable_sound_file_is_named_in_one_line(tmp_path: Path) -> None:
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
