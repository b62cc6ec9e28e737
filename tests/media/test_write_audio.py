"""Sound files, spectrograms and the demo page: what is written is what was given, whole."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.core.files import free_stem, replacing
from clip2clap.media.audio import UnreadableAudioError, load_audio, write_audio
from clip2clap.media.spectrogram import DYNAMIC_RANGE_DB, log_mel_spectrogram, write_spectrogram
from clip2clap.report.demo import write_demo_page

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


def test_a_file_is_replaced_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_free_stem_avoids_files_of_any_suffix_and_names_given_away(tmp_path: Path) -> None:
    (tmp_path / "dog.wav").touch()
    (tmp_path / "dog-2.png").touch()
    assert free_stem(tmp_path, "dog", [".wav"], taken=set()) == "dog-2"
    assert free_stem(tmp_path, "dog", [".wav", ".png"], taken=set()) == "dog-3"
    assert free_stem(tmp_path, "dog", [".wav", ".png"], taken={"dog-3"}) == "dog-4"
    assert free_stem(tmp_path, "Cat", [".wav"], taken={"cat"}) == "Cat-2"


@pytest.mark.parametrize("hertz", [250.0, 1234.5, 3000.0, 6800.0])
def test_a_tone_is_loudest_in_the_band_of_its_pitch(hertz: float) -> None:
    decibels = log_mel_spectrogram(tone(hertz), RATE)
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 128 + 2)[1:-1]
    centres = 700 * (10 ** (mels / 2595) - 1)
    loudest = np.argmax(decibels[:, decibels.shape[1] // 2])
    assert loudest in np.argsort(np.abs(centres - hertz))[:3]


def test_a_spectrogram_is_relative_to_its_loudest_point_and_silence_is_the_floor() -> None:
    loud, soft = (log_mel_spectrogram(tone(440, level=level), RATE) for level in (0.9, 0.009))
    assert loud.max() == pytest.approx(0)
    np.testing.assert_allclose(loud, soft, atol=0.5)
    for level in (0.0, 0.3):
        silence = log_mel_spectrogram(np.full(RATE, level, dtype=np.float32), RATE)
        assert (silence == -DYNAMIC_RANGE_DB).all()
    np.testing.assert_allclose(log_mel_spectrogram(tone(440) + 0.3, RATE), loud, atol=0.5)


def test_a_spectrogram_is_a_png_whose_bright_line_lies_at_the_tone(tmp_path: Path) -> None:
    write_spectrogram(tmp_path / "tone.png", tone(1000, seconds=2), RATE)
    with Image.open(tmp_path / "tone.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1800, 800))
        column = np.asarray(picture.convert("L"), dtype=float)[:, 800]
    # Inside the axes, past the white margins above and below the picture.
    inside = np.flatnonzero(column < 250)
    brightest = inside[np.argmax(column[inside[5] : inside[-5]]) + 5]
    height = 1 - (brightest - inside[0]) / (inside[-1] - inside[0])
    expected = np.log10(1 + 1000 / 700) / np.log10(1 + 8000 / 700)
    assert height == pytest.approx(expected, abs=0.02)


def test_the_demo_page_holds_all_it_shows_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    write_audio(tmp_path / "sound.wav", tone(440), RATE)
    write_spectrogram(tmp_path / "spectrogram.png", tone(440), RATE)
    write_demo_page(
        tmp_path / "index.html",
        photograph=Image.new("RGB", (3000, 1500), "teal"),
        photograph_text='a <b>"quoted"</b> name.jpg',
        sound=tmp_path / "sound.wav",
        spectrogram=tmp_path / "spectrogram.png",
        seconds=1.0,
        sampling_rate=RATE,
        nearest=[("cat", 0.81), ("dog", 0.4)],
        seed=7,
        version="1.2.3",
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', page)
    assert [source.split(";")[0] for source in sources] == [
        "data:image/jpeg",
        "data:audio/wav",
        "data:image/png",
    ]
    contents = [base64.b64decode(source.split(",")[1]) for source in sources]
    assert contents[1] == (tmp_path / "sound.wav").read_bytes()
    assert contents[2] == (tmp_path / "spectrogram.png").read_bytes()
    assert not re.search(r"https?://", page)
    assert "a &lt;b&gt;&quot;quoted&quot;&lt;/b&gt; name.jpg" in page
    assert 'width="1200" height="600"' in page
    assert page.index("cat") < page.index("0.81") < page.index("dog")
