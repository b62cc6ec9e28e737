"""From audio to images: spaces, seeds, mixing, ranking, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.mixing import mix_embeds

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


def test_audio_becomes_the_image_of_its_translated_embedding(pipe):
    audios = [tone(440), tone(90)]
    painted = pipe(audios, generator=seeded(0, 1), output_type="pt")
    embeds = pipe.translator(pipe.clap.encode_audio(audios))
    torch.testing.assert_close(painted.image_embeds, embeds)
    by_vector = pipe(image_embeds=embeds, generator=seeded(0, 1), output_type="pt")
    torch.testing.assert_close(painted.images, by_vector.images)
    assert (painted.images[0] - painted.images[1]).abs().max() > 0.01
    other = pipe(image_embeds=vectors(2), generator=seeded(0, 1), output_type="pt")
    assert (painted.images - other.images).abs().max() > 1e-3


def test_a_seed_gives_the_same_image_alone_and_in_any_batch(pipe):
    embeds = vectors(3)
    call = {"output_type": "pt", "num_candidates": 2}
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


def test_mixes_are_weighted_sums_of_unit_vectors(pipe):
    audios = [tone(440), tone(90)]
    apart = pipe(audios, generator=seeded(0, 0)).image_embeds
    mixed = pipe(audios, weights=[3, 1], generator=seeded(0))
    expected = normalize(0.75 * apart[0] + 0.25 * apart[1], dim=0)
    torch.testing.assert_close(mixed.image_embeds[0], expected)
    assert len(mixed.images) == 1
    away = mix_embeds(apart, [1.0, -0.5])
    assert (away * apart[1]).sum() < (apart[0] * apart[1]).sum()
    torch.testing.assert_close(mix_embeds(apart, [2, 1]), mix_embeds(apart, [0.2, 0.1]))
    with pytest.raises(UserError, match="cancel each other out"):
        mix_embeds([apart[0], apart[0]], [1, -1])


def test_texts_are_mixed_into_the_embedding_by_their_weight(pipe):
    embeds, words = vectors(2), pipe.clip.encode_text(["an oil painting", "a sketch"])
    call = {"image_embeds": embeds, "prompt": ["an oil painting", "a sketch"]}
    got = pipe(**call, prompt_weight=0.4, generator=seeded(0, 0)).image_embeds
    torch.testing.assert_close(got, normalize(0.6 * embeds + 0.4 * words, dim=-1))
    everything = pipe(**call, prompt_weight=1, generator=seeded(0, 0)).image_embeds
    torch.testing.assert_close(everything, words)
    one = pipe(image_embeds=embeds, prompt="a sketch", generator=seeded(0, 0)).image_embeds
    torch.testing.assert_close(one, normalize(0.7 * embeds + 0.3 * words[1], dim=-1))


def test_similarities_are_those_of_the_images_to_their_own_embeddings(pipe):
    embeds = vectors(2)
    made = pipe(image_embeds=embeds, num_candidates=3, generator=seeded(0, 1))
    seen = pipe.clip.encode_image(made.images).view(2, 3, 12)
    expected = (seen * embeds.unsqueeze(1)).sum(dim=-1)
    torch.testing.assert_close(made.similarities, expected, atol=1e-5, rtol=0)


def test_names_nearest_to_an_embedding_come_first(pipe):
    names = ["dog", "sea", "train"]
    words = pipe.clip.encode_text([f"a photo of a {name}" for name in names])
    for place, name in enumerate(names):
        (row,) = pipe.nearest_labels(words[place : place + 1], names)
        assert row[0][0] == name
        assert row[0][1] == pytest.approx(1, abs=1e-5)
        assert [value for _, value in row] == sorted((value for _, value in row), reverse=True)


def test_a_starting_image_is_left_as_far_as_its_strength_says(pipe):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    call = {
        "image_embeds": vectors(1),
        "num_inference_steps": 10,
        "output_type": "latent",
        "image": image,
    }
    pixels = torch.from_numpy(noise).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():
        start = pipe.decoder.to_latents(pixels)
    distances = [
        float((pipe(**call, strength=strength, generator=seeded(0)).images - start).norm())
        for strength in (0.0, 0.3, 1.0)
    ]
    assert distances[0] < 1e-4
    assert distances[0] < distances[1] < distances[2]


def test_the_callback_may_change_the_latents_at_each_step(pipe):
    seen = []

    def stop(pipeline, step, timestep, tensors):
        seen.append((step, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    made = pipe(
        image_embeds=vectors(3),
        batch_size=2,
        num_inference_steps=4,
        output_type="latent",
        callback_on_step_end=stop,
    )
    assert not made.images.any()
    assert seen == [(step, (count, 4, 8, 8)) for count in (2, 1) for step in range(4)]


def test_offloading_changes_no_image(pipe, painter_folder):
    call = {"output_type": "pt", "prompt": "a dog"}
    expected = pipe([tone(440)], generator=seeded(0), **call)
    offloaded = load(painter_folder)
    offloaded.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        got = offloaded([tone(440)], generator=seeded(0), **call)
        torch.testing.assert_close(got.images, expected.images, rtol=0, atol=1e-5)
        torch.testing.assert_close(got.similarities, expected.similarities, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({}, "Give exactly one of audios, audio_embeds and image_embeds, got none of them"),
        ({"audios": []}, "audios is an empty list"),
        ({"audios": [tone(440)], "image_embeds": vectors(1)}, "got audios and image_embeds"),
        ({"audios": [(np.zeros(800, np.float32), 8000)]}, "is silent. Give audio"),
        ({"audios": [tone(440), "absent.wav"]}, r"Audio 2 of 2: No such file: absent.wav"),
        ({"audios": [(np.full(800, np.nan, np.float32), 8000)]}, "NaN"),
        ({"audios": [tone(440)], "audio_start_in_s": 9}, "less than start=9"),
        ({"image_embeds": torch.zeros(2, 5)}, r"image_embeds to be a tensor of shape \(n, 12\)"),
        ({"image_embeds": vectors(1) / 0}, "not finite"),
        ({"audio_embeds": torch.ones(2, 5)}, r"audio_embeds to be a tensor of shape \(n, 16\)"),
        ({"image_embeds": vectors(2), "weights": [1]}, "a weight for each of the 2 image_embeds"),
        ({"image_embeds": vectors(2), "weights": [0, 0]}, "weights that are not all 0"),
        ({"image_embeds": vectors(1), "prompt_weight": 0.2}, "weight of a prompt"),
        ({"image_embeds": vectors(1), "prompt": "x", "prompt_weight": 2}, "from 0.0 to 1.0"),
        ({"image_embeds": vectors(3), "prompt": ["x", "y"]}, "one prompt for all, or one for each"),
        ({"image_embeds": vectors(1), "num_inference_steps": 0}, "num_inference_steps"),
        ({"image_embeds": vectors(1), "guidance_scale": -1}, "guidance_scale to be from 0.0"),
        ({"image_embeds": vectors(1), "strength": 1.5}, "strength to be from 0.0 to 1.0"),
        ({"image_embeds": vectors(1), "num_candidates": 0}, "num_candidates"),
        ({"image_embeds": vectors(1), "height": 15}, "height to be a multiple of 2 pixels"),
        ({"image_embeds": vectors(1), "width": 0}, "width to be a multiple of 2 pixels"),
        ({"image_embeds": vectors(1), "output_type": "gif"}, "output_type to be one of pil"),
        ({"image_embeds": vectors(2), "generator": seeded(0)}, "one for each of the 2 items"),
        ({"image_embeds": vectors(1), "latents": torch.zeros(1, 4, 2, 2)}, "Expected latents of"),
        ({"image_embeds": vectors(1), "image": "absent.png"}, "No such file: absent.png"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(pipe, call, words):
    with pytest.raises(UserError, match=words):
        pipe(**call)
