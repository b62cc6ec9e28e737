"""AudioCLIP's checkpoints, with tiny networks of random weights in the released layout."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from clip2clap import ClapEncoder, ClipEncoder
from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.embeddings.space import require_same_model
from clip2clap.models.esresnext import ESResNeXt
from clip2clap.search import Index, update_index

DIM, RATE = 16, 44_100


def networks() -> tuple[nn.Module, ESResNeXt]:
    torch.manual_seed(0)
    vision: Any = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 32, "head_width": 64}
    text: Any = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    clip = open_clip.CLIP(DIM, vision, text, quick_gelu=True)
    return clip.eval(), ESResNeXt(DIM, (1, 1, 1, 1), 8, 2, 4, frequencies=33, win_length=48).eval()


def released(clip: nn.Module, audio: nn.Module) -> dict[str, Tensor]:
    """Return weights under the names of the released files."""
    return {
        **clip.state_dict(),
        **{f"audio.{name}": value for name, value in audio.state_dict().items()},
        "audio.fbsp.bias": torch.empty(0),
        "logit_scale": torch.tensor(3.0),
        "logit_scale_ai": torch.tensor(2.0),
        "logit_scale_at": torch.tensor(9.0),
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audioclip") / "AudioCLIP-Full-Training.pt"
    torch.save(released(*networks()), path)
    return path


@pytest.fixture(scope="module")
def clip(checkpoint: Path) -> ClipEncoder:
    return ClipEncoder.from_pretrained(f"audioclip:{checkpoint}")


@pytest.fixture(scope="module")
def clap(checkpoint: Path) -> ClapEncoder:
    return ClapEncoder.from_pretrained(f"audioclip:{checkpoint}")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def image(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def unit(embeds: Tensor) -> Tensor:
    return embeds / embeds.norm(dim=-1, keepdim=True)


@torch.no_grad()
def test_all_three_modalities_are_those_of_the_networks(clip: ClipEncoder, clap: ClapEncoder):
    towers, audio = networks()
    transform = open_clip.image_transform(
        32,
        is_train=False,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
    )
    texts = ["a dog", "rain on a roof"]
    tokens = open_clip.SimpleTokenizer(context_length=20)(texts)
    for encoder in (clip, clap):
        expected = unit(towers.encode_text(tokens))  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(encoder.encode_text(texts), expected, rtol=0, atol=1e-6)
    pixels = transform(image())[None]  # pyright: ignore[reportCallIssue, reportIndexIssue]
    expected = unit(towers.encode_image(pixels))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(clip.encode_image([image()]), expected, rtol=0, atol=1e-6)
    waveform = noise(220_500)
    expected = unit(audio(torch.from_numpy(waveform)[None]))
    torch.testing.assert_close(clap.encode_audio([(waveform, RATE)]), expected, rtol=0, atol=1e-6)
    assert (clip.modalities, clap.modalities) == (("image", "text"), ("audio", "text"))


def test_its_clip_and_its_clap_are_one_space(clip: ClipEncoder, clap: ClapEncoder):
    spaces = clip.space("image"), clap.space("audio")
    require_same_model(*spaces, what="AudioCLIP")
    demo = ClipEncoder.from_pretrained("demo", modalities=("text",)).space("text")
    assert not demo.same_model_as(spaces[0])


def test_short_audio_is_centered_and_long_audio_split(clap: ClapEncoder):
    waveform = noise(100_000)
    padded = np.pad(waveform, (60_250, 60_250), mode="edge")
    torch.testing.assert_close(
        clap.encode_audio([(waveform, RATE)]), clap.encode_audio([(padded, RATE)])
    )
    long = noise(441_000)
    halves = clap.encode_audio([(long[:220_500], RATE), (long[220_500:], RATE)])
    torch.testing.assert_close(clap.encode_audio([(long, RATE)]), unit(halves.mean(0))[None])


def test_the_logit_scale_is_that_of_the_pair_and_bounded(clip: ClipEncoder, clap: ClapEncoder):
    assert clip.logit_scale == pytest.approx(np.exp(3.0), rel=1e-5)
    assert clap.logit_scale == pytest.approx(100, rel=1e-5)


def test_a_safetensors_file_is_the_same_model(checkpoint: Path, clap: ClapEncoder, tmp_path: Path):
    weights = torch.load(checkpoint, weights_only=True)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, tmp_path / "a.safetensors"
    )
    again = ClapEncoder.from_pretrained(f"audioclip:{tmp_path / 'a.safetensors'}")
    assert again.space("audio").same_model_as(clap.space("audio"))
    torch.testing.assert_close(again.encode_text(["rain"]), clap.encode_text(["rain"]))


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clap: ClapEncoder
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"audioclip:FILE, a checkpoint of https"):
        ClapEncoder.from_pretrained("audioclip:nowhere.pt")
    torch.save({"weight": torch.ones(2, 2)}, "other.pt")
    with pytest.raises(CheckpointError, match="is no AudioCLIP with a ResNet image encoder"):
        ClapEncoder.from_pretrained("audioclip:other.pt")
    Path("harmful.pt").write_bytes(pickle.dumps({"weight": Harmful()}))
    with pytest.raises(CheckpointError, match="refused"):
        ClapEncoder.from_pretrained("audioclip:harmful.pt")
    assert not Path("touched").exists()
    weights = released(*networks())
    del weights["audio.att3.bn.weight"]
    torch.save(weights, "torn.pt")
    with pytest.raises(CheckpointError, match=r"missing audio\.att3\.bn\.weight"):
        ClapEncoder.from_pretrained("audioclip:torn.pt")
    with pytest.raises(UserError, match="cannot be saved as a folder"):
        clap.save_pretrained(tmp_path / "saved")


def test_classify_names_images_and_audio_by_it(
    checkpoint: Path, clip: ClipEncoder, run: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    image().save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", noise(RATE), RATE)
    name = f"audioclip:{checkpoint}"
    files = (tmp_path / "a.png", tmp_path / "a.wav")
    models = ("--clip", name, "--clap", name)
    code, out, error = run(
        "classify", *files, *models, "--labels", "dog,rain", "--template", "{}", "--csv"
    )
    assert code == 0, error
    rows = [line.split(",") for line in out.splitlines()[1:]]
    assert len(rows) == 4
    scores = clip.logit_scale * clip.encode_image([image()]) @ clip.encode_text(["dog", "rain"]).T
    expected = scores.softmax(-1)[0].max().item()
    assert float(rows[0][-1]) == pytest.approx(expected, abs=1e-4)


def test_an_index_of_it_needs_no_translator(checkpoint: Path, clip: ClipEncoder, tmp_path: Path):
    image().save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", noise(RATE), RATE)
    name = f"audioclip:{checkpoint}"
    update_index([tmp_path], tmp_path / "library", clip=name, clap=name)
    (hit,) = Index(tmp_path / "library").search(tmp_path / "a.png", find="audio")
    stored = Index(tmp_path / "library")._parts["audio"].sample("clap_audio")
    expected = (clip.encode_image([image()]) @ stored.T).item()
    assert hit.score == pytest.approx(expected, abs=1e-2)
