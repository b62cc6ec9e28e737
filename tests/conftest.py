"""Tiny real models, built from configs with random weights, that several test files share."""

import json
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
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

from clip2clap.embeddings.encoders.base import ClapEncoder, ClipEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.translator.mlp import MLPTranslator

CLAP_DIM = 16
CLIP_DIM = 12

# Tests run in several processes side by side: one thread each, and each that they start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def _loud(model: nn.Module) -> nn.Module:
    """Give convolutions weights that carry a signal; the libraries' own start near silence."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="leaky_relu")
    return model.eval()


def sound_parts() -> dict[str, Any]:
    """A generator's UNet, VAE and vocoder, shaped like AudioLDM's: 8 mel bins, hop 8, 16 kHz."""
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


@pytest.fixture
def ddim() -> DDIMScheduler:
    """AudioLDM's own scheduler."""
    return _ddim()


def _ddim() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def clap_tokenizer() -> RobertaTokenizer:
    """RoBERTa's tokenizer with letters for its vocabulary."""
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
    """AudioLDM's text encoder."""
    torch.manual_seed(seed)
    return ClapTextModelWithProjection(_clap_text_config()).eval()


def clap_model(seed: int = 0) -> ClapModel:
    """MusicLDM's text encoder, which hears as well."""
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


def write_audioldm(folder: Path, *, hears: bool = False, seed: int = 0) -> Path:
    """Write an AudioLDM or MusicLDM checkpoint; the seed is its text encoder's."""
    for part, model in sound_parts().items():
        model.save_pretrained(folder / part)
    _ddim().save_pretrained(folder / "scheduler")
    clap_tokenizer().save_pretrained(folder / "tokenizer")
    text_encoder = clap_model(seed) if hears else clap_text_encoder(seed)
    text_encoder.save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "MusicLDMPipeline" if hears else "AudioLDMPipeline",
        "_diffusers_version": "0.33.1",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", type(text_encoder).__name__],
        "tokenizer": ["transformers", "RobertaTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "vocoder": ["transformers", "SpeechT5HifiGan"],
    }
    if hears:
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


def write_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write a CLIP of which only the picture tower is there."""
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
    """CLIP's tokenizer with letters for its vocabulary."""
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def write_reading_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write a CLIP with both towers."""
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


def painting_parts() -> dict[str, Any]:
    """The demo picture decoder's UNet and autoencoder, for pictures of 16 x 16."""
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


@pytest.fixture(scope="session")
def reading_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with both towers."""
    return write_reading_clip(tmp_path_factory.mktemp("models") / "reading_clip")


@pytest.fixture(scope="session")
def foreign_reading_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the same sizes as the other and other weights."""
    return write_reading_clip(tmp_path_factory.mktemp("models") / "foreign_reading_clip", seed=1)


@pytest.fixture(scope="session")
def painter_folder(
    tmp_path_factory: pytest.TempPathFactory, musicldm_folder: Path, reading_clip_folder: Path
) -> Path:
    """An audio-to-image pipeline as the demo's is laid out; its CLAP is MusicLDM's."""
    folder = tmp_path_factory.mktemp("models") / "painter"
    clap = ClapEncoder.from_pretrained(musicldm_folder)
    clip = ClipEncoder.from_pretrained(reading_clip_folder)
    torch.manual_seed(0)
    AudioToImagePipeline(
        clap=None,
        clip=None,
        translator=MLPTranslator(
            source_dim=CLAP_DIM,
            target_dim=CLIP_DIM,
            hidden=16,
            source_space=clap.space("audio").to_dict(),
            target_space=clip.space("image").to_dict(),
        ),
        **painting_parts(),
        scheduler=few_step_scheduler(_ddim()),
        negative_embedding=LearnedNegativeEmbedding.from_vector(torch.full((CLIP_DIM,), 0.2)),
        clip_space=clip.space("image").to_dict(),
        clap_id=str(musicldm_folder),
        clip_id=str(reading_clip_folder),
        default_num_inference_steps=3,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def audioldm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AudioLDM checkpoint; its text encoder has no audio tower beside it."""
    return write_audioldm(tmp_path_factory.mktemp("models") / "audioldm")


@pytest.fixture(scope="session")
def musicldm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MusicLDM checkpoint; its text encoder is a whole CLAP."""
    return write_audioldm(tmp_path_factory.mktemp("models") / "musicldm", hears=True)


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose CLAP has the sizes of the others and other weights."""
    folder = tmp_path_factory.mktemp("models") / "foreign"
    return write_audioldm(folder, hears=True, seed=1)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP."""
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def foreign_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the same sizes as the other and other weights."""
    return write_clip(tmp_path_factory.mktemp("models") / "foreign_clip", seed=1)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; gives its exit code, stdout and stderr."""

    from clip2clap.cli.app import main

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return command


@pytest.fixture
def start_fork() -> Callable[..., int]:
    """Start a job in a process of its own, with what this one has imported; gives its id.

    What the job changes is changed there alone, and it can be killed.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")

    def start(job: Callable[..., Any], *arguments: Any) -> int:
        child = os.fork()
        if not child:
            status = 1
            try:
                job(*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        return child

    return start


@pytest.fixture
def in_a_fork(start_fork: Callable[..., int]) -> Callable[..., int]:
    """Run a job in a process of its own; gives how it ended, as `os.waitpid` does."""
    return lambda job, *arguments: os.waitpid(start_fork(job, *arguments), 0)[1]


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Answer requests on 127.0.0.1 by a handler, until the test ends; gives the address."""
    running: list[ThreadingHTTPServer] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()
