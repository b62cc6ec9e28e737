"""Films that follow audio."""

import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.film.audio import film_audio
from clip2clap.inference.film.frames import DecodedFrames, PaintedFrames, title_card
from clip2clap.inference.film.make import make_film
from clip2clap.inference.film.options import FilmOptions
from clip2clap.inference.film.path import frame_embeds, slerp, whole_embeds
from clip2clap.inference.painting.canvas import Canvas
from clip2clap.inference.painting.paint import PaintingOptions
from clip2clap.media.audio import SilentAudioError, UnreadableAudioError, load_audio, stream_audio
from clip2clap.media.video import FILM_RATE, FilmWriter

LOW, HIGH = 220.0, 3520.0
OPTIONS: dict[str, Any] = {"width": 32, "height": 32, "smoothing_in_s": 0.0}


def tone(hertz: float, seconds: float, rate: int = 16_000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def write(path: Path, *parts: np.ndarray, rate: int = 16_000) -> Path:
    soundfile.write(path, np.concatenate(parts), rate)
    return path


def pitch(waveforms: Any) -> Tensor:
    """Embed a window on a circle: east if all of it is low, north if all of it is high."""
    rows = []
    for waveform in waveforms:
        spectrum = np.abs(np.fft.rfft(waveform)) ** 2
        cut = round(1000 * len(waveform) / FILM_RATE)
        high = np.sqrt(spectrum[cut:].sum() / spectrum.sum())
        rows.append([np.sqrt(1 - high**2), high, 0.0])
    return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)


def shades(vectors: Tensor) -> np.ndarray:
    """A frame that is as green as its vector looks north, and as red as it looks east."""
    colors = (vectors.clamp(0, 1) * 200).to(torch.uint8).numpy()
    return np.broadcast_to(colors[:, None, None], (len(colors), 32, 32, 3))


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return a film's frames, its audio (2, samples) and the frames' times in s."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    with av.open(str(path)) as container:
        audio = np.concatenate([part.to_ndarray() for part in container.decode(audio=0)], axis=1)
    images = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    return images, audio, [float(frame.time or 0) for frame in frames]


@pytest.mark.parametrize("fps", [8, 25, Fraction(30000, 1001)])
def test_a_film_has_its_audio_s_length_its_frames_and_its_audio(tmp_path: Path, fps):
    source = write(tmp_path / "audio.wav", tone(LOW, 1.5), tone(HIGH, 0.83))
    options = FilmOptions(fps=fps, window_in_s=0.2, hop_in_s=0.05, **OPTIONS)
    film = make_film(
        tmp_path / "film.mp4", [source], embed=pitch, make_frames=shades, options=options
    )
    images, audio, times = decoded(film.path)
    assert film.seconds == pytest.approx(2.33, abs=1e-3)
    assert len(images) == film.frames == int(np.ceil(2.33 * fps))
    assert times == pytest.approx([float(k / fps) for k in range(len(images))], abs=1e-3)
    expected = np.concatenate(list(stream_audio(source, sampling_rate=FILM_RATE)), axis=1)
    # AAC comes in packets of 1024.
    assert expected.shape[1] <= audio.shape[1] < expected.shape[1] + 1024
    kept = audio[:, : expected.shape[1]]
    assert np.corrcoef(kept[0], expected[0])[0, 1] > 0.99
    # In sync: the image turns from red to green with the frame in which the pitch rises.
    green = images[..., 1].mean(axis=(1, 2)) > images[..., 0].mean(axis=(1, 2))
    assert green.argmax() == pytest.approx(1.5 * fps, abs=1)
    assert not green[: green.argmax()].any()
    assert green[green.argmax() :].all()


def test_a_film_is_h264_that_plays_while_it_loads(tmp_path: Path):
    source = write(tmp_path / "audio.wav", tone(LOW, 1.0))
    film = make_film(
        tmp_path / "film.mp4",
        [source],
        embed=pitch,
        make_frames=shades,
        options=FilmOptions(**OPTIONS),
    )
    with av.open(str(film.path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.codec_context.pix_fmt == "yuv420p"
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(1.0, abs=0.03)
    written = film.path.read_bytes()
    assert 0 < written.find(b"moov") < written.find(b"mdat")
    assert [path.name for path in tmp_path.iterdir() if path != source] == ["film.mp4"]


def test_the_path_goes_along_the_great_circle_at_an_even_pace():
    start, end = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    for share in (0.0, 0.25, 0.5, 1.0):
        angle = share * np.pi / 2
        expected = torch.tensor([np.cos(angle), np.sin(angle), 0], dtype=torch.float32)
        assert torch.allclose(slerp(start, end, share), expected, atol=1e-6)
    assert torch.allclose(slerp(start, start, 0.3), start)


def path_of(audio: np.ndarray, **options: Any) -> Tensor:
    stereo = np.stack([audio, audio])
    blocks = np.split(stereo, range(5000, stereo.shape[1], 5000), axis=1)
    chosen = FilmOptions(**{**OPTIONS, "window_in_s": 0.2, "hop_in_s": 0.1, **options})
    return torch.stack(list(frame_embeds(blocks, pitch, chosen)))


def test_frames_between_two_windows_are_on_the_way_from_one_to_the_other():
    audio = np.concatenate([tone(LOW, 0.2, FILM_RATE), tone(HIGH, 0.2, FILM_RATE)])
    path = path_of(audio, hop_in_s=0.2, fps=100)
    assert torch.allclose(path.norm(dim=-1), torch.ones(40), atol=1e-6)
    angles = torch.atan2(path[:, 1], path[:, 0])
    # The windows' middles are at 0.1 and 0.3 s; frame k shows the moment (k + 0.5) / 100 s.
    moments = (torch.arange(40) + 0.5) / 100
    expected = ((moments - 0.1) / 0.2).clamp(0, 1)
    assert torch.allclose(angles, angles[0] + expected * (angles[-1] - angles[0]), atol=1e-3)


def test_smoothing_spreads_a_change_over_time_and_leaves_the_ends():
    audio = np.concatenate([tone(LOW, 3, FILM_RATE), tone(HIGH, 3, FILM_RATE)])
    sharp, smooth = (path_of(audio, fps=10, smoothing_in_s=spread) for spread in (0.0, 0.5))
    assert (smooth.diff(dim=0).norm(dim=-1).max() < sharp.diff(dim=0).norm(dim=-1).max() / 2).all()
    assert torch.allclose(smooth[[0, -1]], sharp[[0, -1]], atol=1e-3)
    assert torch.allclose(smooth.norm(dim=-1), torch.ones(60), atol=1e-6)
    # The change stays where it was: half-way at 3 s.
    assert (smooth[:, 1] > smooth[:, 0]).int().argmax().item() == pytest.approx(30, abs=1)


def test_whole_files_are_one_vector_each_with_a_turn_in_the_cross_fade(tmp_path: Path):
    # Windows of the first would hear both pitches, as its second half is high.
    mixed = write(tmp_path / "mixed.wav", tone(LOW, 1.0), tone(HIGH, 1.0))
    high = write(tmp_path / "high.wav", tone(HIGH, 2.0))
    options = FilmOptions(fps=8, crossfade_in_s=0.5, **OPTIONS)
    files: list[Any] = [mixed, high]
    vectors = torch.stack(list(whole_embeds(files, pitch, options)))
    assert len(vectors) == len(list(frame_embeds(film_audio(files, options), pitch, options)))
    one, two = (pitch([load_at_film_rate(each)])[0] for each in files)
    assert torch.allclose(vectors[:10], one.expand(10, -1), atol=1e-5)
    assert torch.allclose(vectors[-10:], two.expand(10, -1), atol=1e-5)
    with pytest.raises(SilentAudioError):
        list(whole_embeds([write(tmp_path / "none.wav", np.zeros(8000))], pitch, options))


def load_at_film_rate(path: Path) -> np.ndarray:
    return np.concatenate(list(stream_audio(path, sampling_rate=FILM_RATE)), axis=1)[0]


def test_silence_keeps_the_vector_before_it_and_nothing_but_silence_is_refused():
    quiet = np.zeros(FILM_RATE, np.float32)
    path = path_of(np.concatenate([quiet, tone(HIGH, 0.5, FILM_RATE), quiet]), fps=10)
    assert torch.allclose(path, path[12].expand_as(path), atol=0.02)
    with pytest.raises(SilentAudioError, match="is silent"):
        path_of(quiet)


def test_audios_follow_one_another_with_a_cross_fade_of_equal_power(tmp_path: Path):
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 2 * FILM_RATE)).astype(np.float32)
    sources = [
        write(tmp_path / f"{index}.wav", part, rate=FILM_RATE) for index, part in enumerate(noise)
    ]
    options = FilmOptions(crossfade_in_s=0.5, **OPTIONS)
    both = np.concatenate(list(film_audio(sources, options)), axis=1)
    assert both.shape == (2, int(3.5 * FILM_RATE))
    assert np.allclose(both[0, :FILM_RATE], noise[0, :FILM_RATE], atol=1e-4)
    assert np.allclose(both[1, -FILM_RATE:], noise[1, -FILM_RATE:], atol=1e-4)
    during = both[0, int(1.5 * FILM_RATE) : 2 * FILM_RATE]
    assert during.std() == pytest.approx(0.1, rel=0.05)
    assert np.corrcoef(during[:2000], noise[0, int(1.5 * FILM_RATE) :][:2000])[0, 1] > 0.99


def test_audio_shorter_than_the_cross_fade_is_faded_over_all_its_length(tmp_path: Path):
    sources = [
        write(tmp_path / f"{index}.wav", np.full(length, 0.1, np.float32), rate=FILM_RATE)
        for index, length in enumerate((30_000, 1_000, 30_000))
    ]
    options = FilmOptions(crossfade_in_s=0.1, **OPTIONS)
    joined = np.concatenate(list(film_audio(sources, options)), axis=1)
    # The second lies in the end of the first, and the third begins in their end.
    assert joined.shape[1] == 30_000 + 30_000 - 4_800
    assert np.abs(joined).max() < 0.3


def test_a_title_card_comes_first_in_silence(tmp_path: Path):
    source = write(tmp_path / "audio.wav", tone(LOW, 1.0))
    options = FilmOptions(fps=10, title="Low", title_in_s=0.5, **OPTIONS)
    film = make_film(
        tmp_path / "film.mp4", [source], embed=pitch, make_frames=shades, options=options
    )
    images, audio, _ = decoded(film.path)
    assert len(images) == film.frames == 15
    card = title_card("Low", 32, 32)
    assert np.abs(images[4].astype(int) - card).mean() < 12
    assert np.abs(images[5].astype(int) - card).mean() > 40
    assert np.abs(audio[:, : FILM_RATE // 2 - 1024]).max() < 0.01
    assert np.abs(audio[:, FILM_RATE // 2 + 1024 :]).max() > 0.3
    assert title_card("two\nlong lines of words", 64, 32).max() > 100


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44_100), (1, 48_000)])
def test_streaming_gives_what_loading_gives(tmp_path: Path, channels: int, rate: int):
    audio = np.stack([tone(300 * (index + 1), 1.3, rate) for index in range(channels)], axis=1)
    path = tmp_path / "audio.flac"
    soundfile.write(path, audio, rate)
    whole, _ = load_audio(path)
    streamed = np.concatenate(list(stream_audio(path, sampling_rate=rate)), axis=1)
    assert streamed.shape == (2, len(whole))
    assert np.allclose(streamed.mean(axis=0), whole, atol=1e-4)
    part = np.concatenate(
        list(stream_audio(path, sampling_rate=rate, start=0.5, seconds=0.25)), axis=1
    )
    first = round(0.5 * rate)
    assert np.array_equal(part, streamed[:, first : first + round(0.25 * rate)])


def test_streaming_refuses_what_can_t_be_encoded(tmp_path: Path):
    broken = tone(LOW, 1.0)
    broken[-1] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", tone(LOW, 1.0), 16_000)
    (tmp_path / "words.wav").write_text("these are words")
    for name, start, says in (
        ("nan.wav", 0.0, "not finite"),
        ("short.wav", 2.0, "lasts 1.0 s"),
        ("words.wav", 0.0, "not an audio file"),
        ("missing.wav", 0.0, "No such file"),
    ):
        with pytest.raises(UnreadableAudioError, match=says):
            list(stream_audio(tmp_path / name, sampling_rate=FILM_RATE, start=start))


def test_a_film_that_fails_half_way_leaves_no_file_and_no_thread(tmp_path: Path):
    source = write(tmp_path / "audio.wav", tone(LOW, 20.0))
    threads = threading.active_count()

    batches: list[Tensor] = []

    def fail(vectors: Tensor) -> np.ndarray:
        batches.append(vectors)
        if len(batches) > 1:
            raise UserError("the brush broke")
        return shades(vectors)

    with pytest.raises(UserError, match="the brush broke"):
        make_film(
            tmp_path / "film.mp4",
            [source],
            embed=pitch,
            make_frames=fail,
            options=FilmOptions(**OPTIONS),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["audio.wav"]
    for thread in threading.enumerate()[threads:]:
        thread.join(timeout=5)
    assert threading.active_count() <= threads


def test_memory_does_not_grow_with_the_film(tmp_path: Path):
    noise = np.random.default_rng(0).normal(0, 0.05, 10 * FILM_RATE).astype(np.float32)
    source = tmp_path / "audio.wav"
    with soundfile.SoundFile(source, "w", FILM_RATE, 1) as file:
        for _ in range(15):
            file.write(noise)
    process = psutil.Process()
    used: list[float] = []
    options = FilmOptions(fps=4, **OPTIONS)
    make_film(
        tmp_path / "film.mp4",
        [source],
        embed=lambda waveforms: F.normalize(torch.ones(len(waveforms), 3), dim=-1),
        make_frames=shades,
        options=options,
        on_frames=lambda frames: used.append(process.memory_info().rss / 2**20),
    )
    at_10_s = 5  # batches of 8 frames
    assert len(used) == 150 * 4 / 8
    # All the audio would take 55 MB as stereo, all the frames 4 MB for each minute.
    assert max(used[at_10_s:]) < used[at_10_s] + 20


@pytest.fixture(scope="module")
def pipeline(painter_folder: Path) -> Any:
    pipeline: Any = AudioToImagePipeline.from_pretrained(painter_folder, torch_dtype=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unit_vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 12, generator=generator), dim=-1)


def test_the_decoder_s_frames_are_the_pipeline_s_images(pipeline):
    options = FilmOptions(width=16, height=16)
    vectors = unit_vectors(3)
    frames = DecodedFrames(pipeline, options, seed=5)(vectors)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))[:1]
    alone = pipeline(image_embeds=vectors[1], latents=noise, output_type="np").images[0]
    assert np.abs(frames[1] - alone * 255).max() < 1
    assert np.abs(frames[1].astype(int) - frames[2]).max() > 2


def test_noise_stands_still_or_comes_round_again(pipeline):
    same = unit_vectors(1).expand(8, -1)
    image_item = DecodedFrames(pipeline, FilmOptions(fps=4, width=16, height=16))(same)
    assert np.abs(image_item.astype(int) - image_item[:1]).max() <= 1
    walking = DecodedFrames(pipeline, FilmOptions(fps=4, width=16, height=16), walk_in_s=1.0)
    walk = walking(same).astype(int)
    again = walking(same).astype(int)
    assert np.abs(walk[4:] - walk[:4]).max() <= 1  # a round is four frames
    assert np.abs(again - walk).max() <= 1  # and goes on from batch to batch
    assert np.abs(walk[1] - walk[0]).mean() > 1


def test_painted_frames_go_on_from_the_last_towards_their_vectors(pipeline):
    canvas = Canvas(pipeline.vae)
    options = FilmOptions(width=16, height=16)
    painting = PaintingOptions(iterations=6, cutouts=2, step_size=0.2)
    latent = canvas.noise(16, 16, torch.Generator().manual_seed(0))
    paint = PaintedFrames(canvas, pipeline.clip, options, painting=painting, latent=latent)
    target = unit_vectors(2)
    target[1] = -target[0]
    frames = paint(target[[0, 0, 0, 1, 1, 1, 1, 1]])
    pixels = torch.tensor(frames).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        near = pipeline.clip.encode_pixels(pixels) @ target[0]
    assert near[7] < near[2] - 0.1
    steps = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    unrelated = np.abs(frames[7].astype(int) - frames[2]).mean()
    assert steps.max() < unrelated


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": 0},
        {"width": 33},
        {"height": 0},
        {"hop_in_s": 3.0},
        {"smoothing_in_s": -1.0},
        {"title_in_s": float("nan")},
    ],
)
def test_options_without_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(UserError, match="Expected"):
        FilmOptions(**wrong)


def test_frames_of_another_size_are_refused(tmp_path: Path):
    with (
        FilmWriter(tmp_path / "film.mp4", fps=8, width=32, height=32) as writer,
        pytest.raises(UserError, match="shape"),
    ):
        writer.add_frame(np.zeros((16, 32, 3), np.uint8))
