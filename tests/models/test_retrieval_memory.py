"""Drawing embeddings towards known ones: the attention itself, and what pipelines do with it."""

import json
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

from clip2clap.core.errors import UserError
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.denoising import interval_steps
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.loading.files import upgrade_index
from clip2clap.models.retrieval_memory import RetrievalMemory


def vectors(count: int, dim: int = 16, *, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, dim, generator=generator), dim=-1)


def test_what_is_called_up_is_torchs_attention_over_the_known_embeddings():
    known, asked = vectors(5), 3 * vectors(4, seed=1)
    memory = RetrievalMemory.from_embeds(2 * known, beta=7.0, mix=1.0)
    unit = normalize(asked, dim=-1)
    attended = scaled_dot_product_attention(unit[None], known[None], known[None], scale=7.0)[0]
    torch.testing.assert_close(memory(asked), normalize(attended, dim=-1))


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_mix_is_how_far_an_embedding_is_drawn_to_its_likest(mix):
    known, asked = vectors(5), vectors(4, seed=1)
    memory = RetrievalMemory.from_embeds(known, beta=1e4, mix=mix)
    likest = known[(asked @ known.T).argmax(dim=1)]
    expected = normalize((1 - mix) * asked + mix * likest, dim=-1)
    torch.testing.assert_close(memory(asked), expected)


def test_a_memory_comes_back_from_disk(tmp_path):
    memory = RetrievalMemory.from_embeds(vectors(5), beta=7.0, mix=0.4)
    memory.save_pretrained(tmp_path)
    again = RetrievalMemory.from_pretrained(tmp_path)
    assert torch.equal(again(vectors(3, seed=1)), memory(vectors(3, seed=1)))


@pytest.mark.parametrize(
    ("known", "options", "words"),
    [
        (torch.ones(4), {}, r"shape \(count, d\), got \(4,\)"),
        (torch.zeros(2, 4), {}, "not all zero"),
        (torch.tensor([[1.0, float("nan")]]), {}, "finite"),
        (torch.ones(2, 4), {"mix": 1.5}, "mix to be from 0 to 1, got 1.5"),
        (torch.ones(2, 4), {"beta": 0.0}, "beta to be above 0, got 0.0"),
    ],
)
def test_a_memory_that_makes_no_sense_is_refused(known, options, words):
    with pytest.raises(UserError, match=words):
        RetrievalMemory.from_embeds(known, **{"beta": 1.0, "mix": 0.5, **options})


class Sounds:
    """An image-to-audio pipeline, told vectors."""

    dim, made, said = 16, "audios", "audio_embeds"

    def __init__(self, folder):
        self.pipe: Any = ImageToAudioPipeline.from_audioldm(folder, torch_dtype=None)
        self.pipe.set_progress_bar_config(disable=True)

    def make(self, embeds, negative=None):
        return self.pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            generator=torch.Generator().manual_seed(0),
            audio_length_in_s=0.064,
            num_inference_steps=3,
            output_type="pt",
        )

    def load(self, folder) -> Any:
        return ImageToAudioPipeline.from_pretrained(folder, torch_dtype=None)


class Pictures:
    """An audio-to-image pipeline, told vectors."""

    dim, made, said = 12, "images", "image_embeds"

    def __init__(self, folder):
        self.pipe: Any = self.load(folder)
        self.pipe.set_progress_bar_config(disable=True)

    def make(self, embeds, negative=None):
        return self.pipe(
            image_embeds=embeds,
            negative_image_embeds=negative,
            generator=torch.Generator().manual_seed(0),
            num_inference_steps=3,
            output_type="pt",
        )

    def load(self, folder) -> Any:
        return AudioToImagePipeline.from_pretrained(folder, torch_dtype=None)


@pytest.fixture(params=["sounds", "pictures"])
def maker(request, musicldm_folder, painter_folder) -> Any:
    return Sounds(musicldm_folder) if request.param == "sounds" else Pictures(painter_folder)


def test_a_pipeline_tells_its_generator_what_a_vector_calls_up(maker):
    asked, known = vectors(2, maker.dim), vectors(3, maker.dim, seed=1)
    memory = RetrievalMemory.from_embeds(known, beta=9.0, mix=0.7)
    expected = maker.make(memory(asked))[maker.made]
    plain = maker.make(asked)[maker.made]
    maker.pipe.retrieval_memory = memory
    output = maker.make(asked)
    assert torch.equal(output[maker.made], expected)
    assert not torch.equal(output[maker.made], plain)
    # Candidates are ranked by the embeddings as they were.
    torch.testing.assert_close(output[maker.said], asked)


def test_guiding_away_from_a_vector_is_away_from_what_it_calls_up(maker):
    asked, away = vectors(2, maker.dim), vectors(1, maker.dim, seed=2)
    memory = RetrievalMemory.from_embeds(vectors(3, maker.dim, seed=1), beta=9.0, mix=0.7)
    expected = maker.make(memory(asked), memory(away))[maker.made]
    maker.pipe.retrieval_memory = memory
    assert torch.equal(maker.make(asked, away)[maker.made], expected)


def test_a_pipeline_is_saved_with_its_memory(maker, tmp_path):
    maker.pipe.register_modules(
        retrieval_memory=RetrievalMemory.from_embeds(
            vectors(3, maker.dim, seed=1), beta=9.0, mix=0.7
        )
    )
    expected = maker.make(vectors(2, maker.dim))[maker.made]
    maker.pipe.save_pretrained(tmp_path)
    maker.pipe = maker.load(tmp_path)
    maker.pipe.set_progress_bar_config(disable=True)
    assert maker.pipe.retrieval_memory.config["mix"] == 0.7
    assert torch.equal(maker.make(vectors(2, maker.dim))[maker.made], expected)


def test_a_memory_of_another_size_is_refused(maker):
    other = RetrievalMemory.from_embeds(vectors(3, 7), beta=1.0, mix=0.5)
    parts = {**maker.pipe.components, "retrieval_memory": other}
    with pytest.raises(UserError, match="the retrieval memory has 7"):
        type(maker.pipe)(**parts)


def test_a_pipeline_saved_by_an_earlier_version_loads(maker, tmp_path):
    """It has a component embedding_memory with the config keys sharpness and share."""
    maker.pipe.register_modules(
        retrieval_memory=RetrievalMemory.from_embeds(
            vectors(3, maker.dim, seed=1), beta=9.0, mix=0.7
        )
    )
    if "default_guidance_interval" in maker.pipe.config:
        maker.pipe.register_to_config(default_guidance_interval=(0.0, 0.5))
    expected = maker.make(vectors(2, maker.dim))[maker.made]
    maker.pipe.save_pretrained(tmp_path)
    (tmp_path / "retrieval_memory").rename(tmp_path / "embedding_memory")
    for path, renamed in (
        (
            tmp_path / "model_index.json",
            {
                "retrieval_memory": "embedding_memory",
                "RetrievalMemory": "EmbeddingMemory",
                "default_guidance_interval": "default_guidance_end",
            },
        ),
        (tmp_path / "embedding_memory" / "config.json", {"beta": "sharpness", "mix": "share"}),
    ):
        config = json.loads(path.read_text())
        if "default_guidance_interval" in config:
            config["default_guidance_interval"] = 0.5
        text = json.dumps(config)
        for new, old in renamed.items():
            text = text.replace(f'"{new}"', f'"{old}"')
        path.write_text(text)
    maker.pipe = maker.load(tmp_path)
    maker.pipe.set_progress_bar_config(disable=True)
    assert maker.pipe.retrieval_memory.config["mix"] == 0.7
    assert torch.equal(maker.make(vectors(2, maker.dim))[maker.made], expected)


def test_half_the_guidance_of_an_earlier_version_is_the_interval_of_the_first_half():
    assert upgrade_index({"default_guidance_end": 0.5}) == {"default_guidance_interval": [0.0, 0.5]}
    assert list(interval_steps((0.0, 0.5), 5)) == [0, 1, 2]
    assert list(interval_steps((0.25, 0.75), 8)) == [2, 3, 4, 5]
