"""Builders of tiny models with random weights, made from configs and shared by the tests."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

CLAP_DIM = 16
CLIP_DIM = 12


def _loud(model: nn.Module) -> nn.Module:
    """Initialize layers to preserve the signal: the libraries' defaults yield near silence."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="leaky_relu")
    return model.eval()


def audioldm_parts() -> dict[str, Any]:
    """Build an AudioLDM-shaped UNet, VAE and vocoder: 8 mel bins, hop 8, 16 kHz."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(8, 16),  # pyright: ignore[reportArgumentType]
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=CLAP_DIM,
        class_embeddings_concat=True,
    )
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        block_out_channels=(8, 16),  # pyright: ignore[reportArgumentType]
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        scaling_factor=0.9,
    )
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[4, 2],
            upsample_kernel_sizes=[8, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    _loud(vocoder)
    vocoder.state_dict()["conv_post.weight"].mul_(0.2)
    return {"unet": unet.eval(), "vae": vae.eval(), "vocoder": vocoder}


def ddim_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def clap_tokenizer() -> RobertaTokenizer:
    """Build a RoBERTa tokenizer whose vocabulary is single bytes."""
    letters = sorted(ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    return RobertaTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=64
    )


def _clap_text_config() -> ClapTextConfig:
    return ClapTextConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=66,
        projection_dim=CLAP_DIM,
    )


def clap_text_encoder(seed: int = 0) -> ClapTextModelWithProjection:
    """Build AudioLDM's text encoder."""
    torch.manual_seed(seed)
    return ClapTextModelWithProjection(_clap_text_config()).eval()


def clap_model(seed: int = 0) -> ClapModel:
    """Build MusicLDM's text encoder: a CLAP with an audio encoder."""
    torch.manual_seed(seed)
    audio = ClapAudioConfig(
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        num_hidden_layers=2,
        hidden_size=32,
        patch_size=4,
        patch_stride=4,
        patch_embeds_hidden_size=16,
        projection_dim=CLAP_DIM,
    )
    return ClapModel(
        ClapConfig(
            text_config=_clap_text_config().to_dict(),
            audio_config=audio.to_dict(),
            projection_dim=CLAP_DIM,
        )
    ).eval()


def write_audioldm(folder: Path, *, with_audio_encoder: bool = False, seed: int = 0) -> Path:
    """Write an AudioLDM or (with an audio encoder) MusicLDM checkpoint; `seed` is its CLAP's."""
    for part, model in audioldm_parts().items():
        model.save_pretrained(folder / part)
    ddim_scheduler().save_pretrained(folder / "scheduler")
    clap_tokenizer().save_pretrained(folder / "tokenizer")
    text_encoder = clap_model(seed) if with_audio_encoder else clap_text_encoder(seed)
    text_encoder.save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "MusicLDMPipeline" if with_audio_encoder else "AudioLDMPipeline",
        "_diffusers_version": "0.33.1",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", type(text_encoder).__name__],
        "tokenizer": ["transformers", "RobertaTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "vocoder": ["transformers", "SpeechT5HifiGan"],
    }
    if with_audio_encoder:
        extractor = ClapFeatureExtractor(
            feature_size=64,
            sampling_rate=16000,
            hop_length=256,
            max_length_s=1,
            frequency_max=8000,
            truncation="rand_trunc",
        )
        extractor.save_pretrained(folder / "feature_extractor")
        index["feature_extractor"] = ["transformers", "ClapFeatureExtractor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_clip_image_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Write a CLIP image encoder without the text encoder."""
    torch.manual_seed(seed)
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            projection_dim=CLIP_DIM,
            initializer_range=0.5,
        )
    )
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer whose vocabulary is letters."""
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def write_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write a CLIP with an image and a text encoder."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    tower: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=CLIP_DIM)
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def image_decoder_parts() -> dict[str, Any]:
    """Build an image decoder's UNet and autoencoder, shaped like the demo's, for 16 x 16 images."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(8, 16),  # pyright: ignore[reportArgumentType]
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=CLIP_DIM,
        class_embeddings_concat=True,
    )
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 16),  # pyright: ignore[reportArgumentType]
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        scaling_factor=0.9,
    )
    return {"unet": unet.eval(), "vae": vae.eval()}


CAPTION_WORDS = [
    *("dog", "cat", "sea", "rain", "train", "barks", "sleeps", "roars", "falls", "passes", "a")
]
"""Words of the tiny language model, whose first ten are five things and what they do."""


def tiny_tokenizer() -> Any:
    """Return a tokenizer of `CAPTION_WORDS`, with an end token and no padding."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = ["[end]", "[unk]", *CAPTION_WORDS]
    made = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="[unk]"))
    made.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[end]", unk_token="[unk]")


def tiny_language_model(width: int = 16) -> Any:
    """Return a GPT-2 of one layer with random weights, always the same."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(CAPTION_WORDS) + 2,
        n_positions=32,
        n_embd=width,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.4,
    )
    return GPT2LMHeadModel(config).eval()


def speech_model(space: dict[str, Any] | None, *, seed: int = 0, window_s: int = 1) -> Any:
    """Build a speech encoder's model, a Whisper encoder of one layer, and its extractor."""
    from transformers import WhisperConfig, WhisperFeatureExtractor

    from clip2clap.models.speech import SpeechConfig, SpeechModel

    torch.manual_seed(seed)
    backbone = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        max_source_positions=50 * window_s,
    )
    config = SpeechConfig(
        backbone, pooling_size=16, projection_dim=CLIP_DIM, window_s=window_s, space=space
    )
    extractor = WhisperFeatureExtractor(chunk_length=window_s)
    model = SpeechModel(config).eval()
    for parameter in model.pooling.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, extractor


def write_speech(folder: Path, clip: Path, *, seed: int = 0, window_s: int = 1) -> Path:
    """Write a speech encoder into the space of the CLIP in another folder."""
    from clip2clap.embeddings.encoders.base import read_space
    from clip2clap.embeddings.encoders.speech import SpeechEncoder

    space = read_space(clip, family="clip", modality="image").to_dict()
    SpeechEncoder.of(*speech_model(space, seed=seed, window_s=window_s)).save_pretrained(folder)
    return folder


def write_text_to_image(folder: Path, *, seed: int = 0) -> Path:
    """Write a Stable Diffusion pipeline of 16 x 16 images with random weights."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer: Any = clip_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for parameter in text_encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
    )
    pipeline = StableDiffusionPipeline(
        image_decoder_parts()["vae"],
        text_encoder.eval(),
        tokenizer,
        _loud(unet),  # pyright: ignore[reportArgumentType]
        ddim_scheduler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
