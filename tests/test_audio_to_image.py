"""From recordings to pictures: spaces, seeds, mixing, ranking, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clip2clap.embeddings import ClapEncoder, SpaceMismatchError
from clip2clap.inference import AudioToImagePipeline

RATE = 16_000


def tone(hertz: float, seconds: float = 0.5) -> tuple[np.ndarray, int]:
    times = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32), RATE


def vectors(count: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 12, generator=generator), dim=-1)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def load(folder, **options) -> Any:
    pipeline = AudioToImagePipeline.from_pretrained(folder, torch_dtype=None, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipe(painter_folder):
    return load(painter_folder)


def test_a_sound_becomes_the_picture_of_its_translated_vector(pipe):
    sounds = [tone(440), tone(90)]
    painted = pipe(sounds, generator=seeded(0, 1), output_type="pt")
    embeds = pipe.translator(pipe.clap.audios(sounds))
    torch.testing.assert_close(painted.image_embeds, embeds)
    by_vector = pipe(image_embeds=embeds, generator=seeded(0, 1), output_type="pt")
    torch.testing.assert_close(painted.images, by_vector.images)
    assert (painted.images[0] - painted.images[1]).abs().max() > 0.01
    other = pipe(image_embeds=vectors(2), generator=seeded(0, 1), output_type="pt")
    assert (painted.images - other.images).abs().max() > 1e-3


def test_a_seed_gives_the_same_picture_alone_and_in_any_batch(pipe):
    embeds = vectors(3)
    call = {"output_type": "pt", "num_images_per_prompt": 2}
    together = pipe(image_embeds=embeds, generator=seeded(5, 6, 7), **call).images
    apart = pipe(image_embeds=embeds, generator=seeded(5, 6, 7), batch_size=1, **call).images
    alone = pipe(image_embeds=embeds[1], generator=seeded(6), output_type="pt").images
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=0)
    assert (together[2] - together[3]).abs().max() > 0.01
    assert (
        together[2:3] - pipe(image_embeds=embeds[1], generator=seeded(8), output_type="pt").images
    ).abs().max() > 0.01


def test_a_translator_or_clip_of_another_model_is_refused_before_weights_are_read(
    painter_folder, foreign_reading_clip_folder, monkeypatch
):
    monkeypatch.setattr(ClapEncoder, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(SpaceMismatchError, match="The pipeline's CLIP is not the decoder's"):
        AudioToImagePipeline.from_pretrained(painter_folder, clip=foreign_reading_clip_folder)
    with pytest.raises(SpaceMismatchError, match="source is not the pipeline's CLAP"):
        AudioToImagePipeline.from_pretrained(painter_folder, clap="demo")


def test_a_pipeline_comes_back_from_disk_with_its_encoders(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    back = load(tmp_path / "saved")
    call = {"generator": seeded(0), "output_type": "pt"}
    expected = pipe([tone(440)], generator=seeded(0), output_type="pt")
    got = back([tone(440)], **call)
    torch.testing.assert_close(got.images, expected.images)
    torch.testing.assert_close(got.similarities, expected.similarities)
