"""Our decoders against diffusers' own pipelines, on the same tiny checkpoints."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionModelWithProjection,
)

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.decoders import ImageDecoder
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance

DIM = 12
STEPS = 3
WORDS = 16


def embeds(count: int = 2, *, seed: int = 0, norm: float = 3.0) -> Tensor:
    """Vectors of the length that CLIP's tower gives them, not of unit norm."""
    generator = torch.Generator().manual_seed(seed)
    return norm * normalize(torch.randn(count, DIM, generator=generator), dim=-1)


def noise(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(7))


def seeded(count: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def training_schedule(scheduler_class: Any = DDIMScheduler, **options: Any) -> Any:
    return scheduler_class(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, **options
    )


def lively(model: Any) -> Any:
    """Give a model weights by which its conditioning makes a difference."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            scale = 1.2 / parameter[0].numel() ** 0.5
            parameter.data.normal_(0, scale, generator=generator)
    return model.eval()


def write_index(folder: Path, class_name: str, parts: dict[str, Any]) -> Path:
    index: dict[str, Any] = {"_class_name": class_name, "_diffusers_version": "0.33.1"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = type(part).__module__.split(".")[0]
        if isinstance(part, StableUnCLIPImageNormalizer):
            library = "stable_diffusion"
        index[name] = [library, type(part).__name__.removesuffix("Pil")]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 16),  # pyright: ignore[reportArgumentType]
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
    ).eval()


def text_encoder(tokenizer: Any) -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WORDS,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return lively(CLIPTextModel(config))


def text_unet(**options: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return lively(
        UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WORDS,
            use_linear_projection=True,
            **options,
        )
    )


@pytest.fixture(scope="module")
def tokenizer(reading_clip_folder) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(reading_clip_folder)


@pytest.fixture(scope="module")
def kandinsky_folder(tmp_path_factory) -> Path:
    """Kandinsky 2.2's decoder with the published blocks."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        encoder_hid_dim=DIM,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=WORDS,
        attention_head_dim=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )
    movq = VQModel(
        block_out_channels=(32, 64),  # pyright: ignore[reportArgumentType]
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    ).eval()
    scheduler = training_schedule(DDPMScheduler, variance_type="learned_range")
    folder = tmp_path_factory.mktemp("models") / "kandinsky"
    parts = {"unet": lively(unet), "movq": movq, "scheduler": scheduler}
    return write_index(folder, "KandinskyV22Pipeline", parts)


@pytest.fixture(scope="module")
def unclip_folder(tmp_path_factory, tokenizer, reading_clip_folder) -> Path:
    """Stable unCLIP; its image encoder is one tower of the CLIP that reads."""
    whole: Any = CLIPModel.from_pretrained(reading_clip_folder)
    whole.config.vision_config.projection_dim = DIM
    tower = CLIPVisionModelWithProjection(whole.config.vision_config)
    tower.vision_model = whole.vision_model
    tower.visual_projection = whole.visual_projection
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=DIM)
    generator = torch.Generator().manual_seed(2)
    normalizer.mean.data.normal_(0, 0.5, generator=generator)
    normalizer.std.data.uniform_(0.5, 1.5, generator=generator)
    parts = {
        "feature_extractor": CLIPImageProcessorPil.from_pretrained(reading_clip_folder),
        "image_encoder": tower,
        "image_normalizer": normalizer,
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "tokenizer": tokenizer,
        "text_encoder": text_encoder(tokenizer),
        "unet": text_unet(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * DIM
        ),
        "scheduler": training_schedule(prediction_type="v_prediction"),
        "vae": autoencoder(),
    }
    folder = tmp_path_factory.mktemp("models") / "unclip"
    return write_index(folder, "StableUnCLIPImg2ImgPipeline", parts)


@pytest.fixture(scope="module")
def stable_diffusion_folder(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("models") / "stable_diffusion"
    parts = {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder(tokenizer),
        "unet": text_unet(),
        "scheduler": training_schedule(),
        "vae": autoencoder(),
    }
    return write_index(folder, "StableDiffusionPipeline", parts)


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory, stable_diffusion_folder) -> Path:
    """A plain IP-Adapter: four tokens made of an embedding, and keys and values for each layer."""
    generator = torch.Generator().manual_seed(3)
    unet: Any = UNet2DConditionModel.from_pretrained(stable_diffusion_folder, subfolder="unet")
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * WORDS, DIM, generator=generator),
        "image_proj.proj.bias": torch.randn(4 * WORDS, generator=generator),
        "image_proj.norm.weight": torch.ones(WORDS),
        "image_proj.norm.bias": torch.zeros(WORDS),
    }
    for index, (name, _) in enumerate(unet.attn_processors.items()):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                weight = torch.randn(width, WORDS, generator=generator) / WORDS**0.5
                tensors[f"ip_adapter.{index}.{part}.weight"] = weight
    file = tmp_path_factory.mktemp("models") / "ip-adapter.safetensors"
    save_file(tensors, file)
    return file


def ours(folder: Path, scheduler: Any, **options: Any) -> Any:
    pipeline = AudioToImagePipeline.from_pretrained(
        folder, scheduler=scheduler, torch_dtype=None, **options
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline_class: Any, folder: Path, scheduler: Any, **options: Any) -> Any:
    pipeline = pipeline_class.from_pretrained(folder, scheduler=scheduler, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_same_images(got: np.ndarray, expected: np.ndarray) -> None:
    assert expected.std() > 0.01, "a plain color would equal anything"
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-4)


def schedules(scheduler_class: Any, **options: Any) -> list[Any]:
    base = training_schedule(**options).config
    return [scheduler_class.from_config(base) for _ in range(2)]


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("variance_type", ["learned_range", "fixed_small"])
def test_kandinsky_equals_diffusers(kandinsky_folder, guidance_scale, variance_type):
    first, second = (
        training_schedule(DDPMScheduler, variance_type=variance_type) for _ in range(2)
    )
    call = {
        "image_embeds": embeds(),
        "negative_image_embeds": embeds(seed=1),
        "latents": noise(),
        "num_inference_steps": STEPS,
        "guidance_scale": guidance_scale,
        "output_type": "np",
        "height": 32,
        "width": 32,
    }
    reference = theirs(diffusers.KandinskyV22Pipeline, kandinsky_folder, first)
    expected = reference(**call, generator=seeded()).images
    got = ours(kandinsky_folder, second)(**call, generator=seeded()).images
    assert_same_images(got, expected)


def test_kandinsky_starts_from_an_image_as_diffusers_does(kandinsky_folder):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    call = {
        "image_embeds": embeds(),
        "negative_image_embeds": embeds(seed=1),
        "num_inference_steps": 4,
        "strength": 0.5,
        "output_type": "np",
        "height": 32,
        "width": 32,
    }
    first, second = schedules(DDIMScheduler)
    reference = theirs(diffusers.KandinskyV22Img2ImgPipeline, kandinsky_folder, first)
    expected = reference(image=[image] * 2, **call, generator=seeded()).images
    got = ours(kandinsky_folder, second)(image=image, **call, generator=seeded()).images
    assert_same_images(got, expected)


@pytest.mark.parametrize(
    ("guidance_scale", "noise_level", "scheduler_class"),
    [(1.0, 0, DDIMScheduler), (5.0, 200, DDIMScheduler), (5.0, 0, DPMSolverMultistepScheduler)],
)
def test_stable_unclip_equals_diffusers(
    unclip_folder, guidance_scale, noise_level, scheduler_class
):
    first, second = schedules(scheduler_class, prediction_type="v_prediction")
    call = {
        "prompt": ["a dog", "the sea"],
        "negative_prompt": ["a cat", "dust"],
        "image_embeds": embeds(),
        "latents": noise(),
        "noise_level": noise_level,
        "num_inference_steps": STEPS,
        "guidance_scale": guidance_scale,
        "output_type": "np",
    }
    reference = theirs(diffusers.StableUnCLIPImg2ImgPipeline, unclip_folder, first)
    expected = reference(**call, generator=seeded()).images
    got = ours(unclip_folder, second)(**call, generator=seeded()).images
    assert_same_images(got, expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_ip_adapter_equals_diffusers(stable_diffusion_folder, adapter_file, guidance_scale):
    first, second = schedules(EulerDiscreteScheduler, steps_offset=1)
    call = {
        "prompt": "a dog",
        "negative_prompt": "a cat",
        "latents": noise(1),
        "num_inference_steps": STEPS,
        "guidance_scale": guidance_scale,
        "output_type": "np",
    }
    reference = theirs(
        diffusers.StableDiffusionPipeline,
        stable_diffusion_folder,
        first,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    reference.load_ip_adapter(
        adapter_file.parent, subfolder="", weight_name=adapter_file.name, image_encoder_folder=None
    )
    vector = embeds(1).unsqueeze(1)
    both = torch.cat([torch.zeros_like(vector), vector]) if guidance_scale > 1 else vector
    expected = reference(**call, ip_adapter_image_embeds=[both]).images
    pipeline = ours(stable_diffusion_folder, second, ip_adapter=adapter_file)
    assert_same_images(pipeline(**call, image_embeds=embeds(1)).images, expected)
    other = pipeline(**call, image_embeds=embeds(1, seed=5)).images
    assert np.abs(other - expected).max() > 1e-3


def test_a_saved_ip_adapter_comes_back(stable_diffusion_folder, adapter_file, tmp_path):
    pipeline = ours(stable_diffusion_folder, training_schedule(), ip_adapter=adapter_file)
    call = {
        "image_embeds": embeds(),
        "latents": noise(),
        "num_inference_steps": STEPS,
        "output_type": "np",
    }
    expected = pipeline(**call).images
    pipeline.save_pretrained(tmp_path / "saved")
    assert_same_images(pipeline(**call).images, expected)
    assert_same_images(ours(tmp_path / "saved", None)(**call).images, expected)


def translator_into(space: Any) -> MLPTranslator:
    torch.manual_seed(0)
    return MLPTranslator(16, DIM, hidden_size=8, provenance=Provenance(target_space=space))


def test_kandinsky_guides_away_from_the_zero_image_of_its_clip(
    kandinsky_folder, reading_clip_folder
):
    pipeline = ours(kandinsky_folder, training_schedule(), clip=reading_clip_folder)
    tower: Any = CLIPModel.from_pretrained(reading_clip_folder).eval()
    with torch.no_grad():
        zero = tower.get_image_features(pixel_values=torch.zeros(1, 3, 32, 32)).pooler_output
    call = {
        "image_embeds": embeds(),
        "latents": noise(),
        "num_inference_steps": STEPS,
        "output_type": "np",
    }
    expected = pipeline(**call, negative_image_embeds=zero).images
    assert_same_images(pipeline(**call).images, expected)
    other = pipeline(**call, negative_image_embeds=embeds(1, seed=3)).images
    assert np.abs(other - expected).max() > 1e-3


def test_unit_vectors_are_scaled_to_the_norm_that_the_decoder_knows(
    unclip_folder, kandinsky_folder, reading_clip_folder
):
    unclip = ours(unclip_folder, training_schedule())
    mean, std = unclip.image_normalizer.mean, unclip.image_normalizer.std
    draws = mean + std * torch.randn(20_000, DIM, generator=torch.Generator().manual_seed(0))
    squares = draws.detach().square().sum(dim=1).mean()
    assert unclip.embed_norm**2 == pytest.approx(float(squares), rel=0.02)
    kandinsky = ours(kandinsky_folder, training_schedule(), clip=reading_clip_folder)
    raw = kandinsky.clip.encode_image([Image.new("RGB", (40, 40), "teal")], normalize=False)
    assert kandinsky.embed_norm == pytest.approx(float(raw.norm()), rel=0.5)
    units = normalize(embeds(), dim=-1)
    call = {"latents": noise(), "num_inference_steps": STEPS, "output_type": "np"}
    expected = kandinsky(image_embeds=units * kandinsky.embed_norm, **call)
    got = kandinsky(image_embeds=units, **call)
    assert_same_images(got.images, expected.images)
    torch.testing.assert_close(got.image_embeds, expected.image_embeds)
    named = ours(kandinsky_folder, training_schedule(), clip=reading_clip_folder, embed_norm=9.0)
    assert np.abs(named(image_embeds=units, **call).images - got.images).max() > 1e-3


def test_stable_unclip_knows_its_own_clip_and_the_whole_that_holds_it(
    unclip_folder, reading_clip_folder, foreign_reading_clip_folder
):
    """Its image tower alone has another fingerprint than the CLIP it was taken from."""
    alone = ours(unclip_folder, training_schedule())
    assert alone.clip.modalities == ("image",)
    whole = ClipEncoder.from_pretrained(reading_clip_folder)
    assert not alone.decoder.space.same_model_as(whole.space("image"))
    image = [Image.new("RGB", (40, 40), "teal")]
    torch.testing.assert_close(alone.clip.encode_image(image), whole.encode_image(image))

    translator = translator_into(whole.space("image"))
    with_whole = ours(
        unclip_folder, training_schedule(), clip=reading_clip_folder, translator=translator
    )
    assert with_whole.decoder.space == whole.space("image")
    with pytest.raises(SpaceMismatchError, match="target is not the decoder's CLIP"):
        ours(unclip_folder, training_schedule(), translator=translator)
    foreign = ClipEncoder.from_pretrained(foreign_reading_clip_folder).space("image")
    with pytest.raises(SpaceMismatchError, match="The pipeline's CLIP is not the decoder's"):
        ours(unclip_folder, training_schedule(), clip=foreign_reading_clip_folder)
    with pytest.raises(SpaceMismatchError, match="target is not the decoder's CLIP"):
        ours(
            unclip_folder,
            training_schedule(),
            clip=reading_clip_folder,
            translator=translator_into(foreign),
        )


@pytest.mark.parametrize("folder", ["kandinsky_folder", "unclip_folder"])
def test_a_published_decoder_gives_the_same_after_saving(
    folder, reading_clip_folder, request, tmp_path
):
    published = request.getfixturevalue(folder)
    pipeline = ours(published, None, clip=reading_clip_folder)
    call = {"image_embeds": normalize(embeds(), dim=-1), "num_inference_steps": STEPS}
    expected = pipeline(**call, generator=seeded(), output_type="np")
    pipeline.save_pretrained(tmp_path / "saved")
    got = ours(tmp_path / "saved", None)(**call, generator=seeded(), output_type="np")
    assert_same_images(got.images, expected.images)
    torch.testing.assert_close(got.similarities, expected.similarities)


def test_a_seed_gives_one_image_with_noise_in_the_vector_too(unclip_folder):
    pipeline = ours(unclip_folder, training_schedule(prediction_type="v_prediction"))
    call = {"num_inference_steps": STEPS, "noise_level": 300, "output_type": "np"}
    vectors = embeds(3)
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5, 6)]
    together = pipeline(image_embeds=vectors, generator=generators, **call).images
    alone = pipeline(
        image_embeds=vectors[1], generator=[torch.Generator().manual_seed(5)], **call
    ).images
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_words_reach_a_decoder_that_reads_and_not_the_vector(unclip_folder):
    pipeline = ours(unclip_folder, training_schedule())
    call = {"image_embeds": embeds(), "latents": noise(), "num_inference_steps": STEPS}
    plain, told = (
        pipeline(**call, generator=seeded(), output_type="np", **words)
        for words in ({}, {"prompt": "an oil painting"})
    )
    assert np.abs(plain.images - told.images).max() > 1e-3
    assert torch.equal(plain.image_embeds, told.image_embeds)
    with pytest.raises(UserError, match="Text needs the decoder's own CLIP with its text encoder"):
        pipeline(**call, prompt="an oil painting", prompt_weight=0.5)


def test_a_decoder_refuses_what_it_cannot_take(
    kandinsky_folder, unclip_folder, stable_diffusion_folder, adapter_file, tmp_path
):
    kandinsky = ours(kandinsky_folder, training_schedule())
    unclip = ours(unclip_folder, training_schedule())
    for pipeline, call, words in (
        (kandinsky, {"negative_prompt": "dust"}, "not conditioned on text"),
        (kandinsky, {"height": 30}, "height to be a multiple of 4 pixels, got 30"),
        (kandinsky, {"noise_level": 3}, "noise_level to be from 0 to 0"),
        (unclip, {"noise_level": 1000}, "noise_level to be from 0 to 999"),
        (unclip, {"negative_image_embeds": embeds(1)}, "can't be guided away from embeddings"),
    ):
        with pytest.raises(UserError, match=words):
            pipeline(image_embeds=embeds(), **call)
    with pytest.raises(UserError, match=r"conditioned on text alone: give ip_adapter"):
        ours(stable_diffusion_folder, training_schedule())
    save_file({"image_proj.latents": torch.zeros(1, 4, DIM)}, tmp_path / "plus.safetensors")
    with pytest.raises(CheckpointError, match=r"has no image_proj\.proj\.weight"):
        ours(stable_diffusion_folder, training_schedule(), ip_adapter=tmp_path / "plus.safetensors")
    with pytest.raises(
        UserError, match="expects embeddings of 12 values, the translator returns 16"
    ):
        ours(
            stable_diffusion_folder,
            training_schedule(),
            ip_adapter=adapter_file,
            translator=MLPTranslator(12, 16, hidden_size=8),
        )


def test_latents_come_back_as_images_with_gradients(kandinsky_folder, painter_folder):
    for folder in (kandinsky_folder, painter_folder):
        decoder: ImageDecoder = ours(folder, training_schedule()).decoder
        latents = torch.randn(
            1, *decoder.latent_shape(16, 32), generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        pixels = decoder.to_pixels(latents)
        assert pixels.shape == (1, 3, 16, 32)
        assert 0 <= pixels.min() < pixels.max() <= 1
        (gradient,) = torch.autograd.grad(pixels.sum(), latents)
        assert gradient.abs().max() > 0
        assert decoder.to_latents(pixels.detach()).shape == latents.shape


def test_moving_and_offloading_change_no_image(unclip_folder):
    call = {"image_embeds": embeds(), "num_inference_steps": 2, "output_type": "np"}
    pipeline = ours(unclip_folder, training_schedule())
    expected = pipeline(**call, generator=seeded()).images
    moved = pipeline.to("cpu", torch.float32)
    assert_same_images(moved(**call, generator=seeded()).images, expected)
    pipeline.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert_same_images(pipeline(**call, generator=seeded()).images, expected)
