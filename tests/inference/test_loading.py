"""Loading of pipelines: which checkpoints are refused, and what is not needed to load one."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from clip2clap.core.errors import CheckpointError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.loading.components import load_components, load_strictly, part_dtypes
from clip2clap.inference.loading.files import explained


def python(code: str, *arguments: object) -> str:
    """Run code in an interpreter of its own, and return what it prints."""
    command = [sys.executable, "-c", dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("pipeline_class", "expected"),
    [
        (ImageToAudioPipeline, "an ImageToAudioPipeline, AudioLDMPipeline or MusicLDMPipeline"),
        (AudioToImagePipeline, "an AudioToImagePipeline, KandinskyV22Pipeline"),
    ],
)
def test_a_checkpoint_of_another_pipeline_is_named_before_anything_else(
    tmp_path, monkeypatch, pipeline_class, expected
):
    monkeypatch.chdir(tmp_path)
    Path("fake_sa").mkdir()
    index = {"_class_name": "StableAudioPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    Path("fake_sa/model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as refusal:
        pipeline_class.from_pretrained("fake_sa", clip="nowhere", translator="nowhere-else")
    message = str(refusal.value)
    assert message.startswith(f"fake_sa holds a StableAudioPipeline; expected {expected}")


def test_an_audioldm_checkpoint_generates_without_the_deprecated_pipelines_of_diffusers(
    audioldm_folder,
):
    printed = python(
        """
        import sys

        sys.modules["diffusers.pipelines.deprecated"] = None
        import torch
        from clip2clap import ImageToAudioPipeline

        pipeline = ImageToAudioPipeline.from_pretrained(sys.argv[1])
        pipeline.set_progress_bar_config(disable=True)
        embeds = torch.ones(1, pipeline.embed_dim)
        call = {"audio_length_in_s": 0.064, "num_inference_steps": 2}
        print(pipeline(prompt_embeds=embeds, **call).audios.shape)
        """,
        audioldm_folder,
    )
    assert printed == "(1, 1024)"


def test_the_empty_prompt_is_encoded_and_its_encoder_freed_before_the_unet_loads(
    audioldm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders: list[weakref.ref[ClapEncoder]] = []
    load_encoder, load_unet = ClapEncoder.from_pretrained, UNet2DConditionModel.from_pretrained

    def load_and_note(*arguments: Any, **options: Any) -> ClapEncoder:
        encoder = load_encoder(*arguments, **options)
        encoders.append(weakref.ref(encoder))
        return encoder

    def load_with_no_encoder_left(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        assert [encoder() for encoder in encoders] == [None]
        return load_unet(*arguments, **options)

    monkeypatch.setattr(ClapEncoder, "from_pretrained", load_and_note)
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", load_with_no_encoder_left)
    pipeline = ImageToAudioPipeline.from_pretrained(audioldm_folder)
    assert pipeline.negative_embedding is not None


@pytest.mark.parametrize(("channels", "low_memory"), [(128, False), (128, True), (8, False)])
def test_only_a_wide_unet_in_memory_is_channels_last_and_saves_as_before(
    channels: int, low_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    unet = UNet2DConditionModel(
        block_out_channels=(channels,),  # pyright: ignore[reportArgumentType]
        down_block_types=("DownBlock2D",),  # pyright: ignore[reportArgumentType]
        up_block_types=("UpBlock2D",),  # pyright: ignore[reportArgumentType]
        mid_block_type=None,
        norm_num_groups=8,
        layers_per_block=1,
    ).eval()
    unet.save_pretrained(tmp_path / "unet")
    index = {"unet": ["diffusers", "UNet2DConditionModel"]}
    loaded = load_components(
        tmp_path, index, {"unet": "unet"}, part_dtypes(None), low_memory=low_memory
    )["unet"]

    sample, words = torch.randn(2, 4, 8, 8), torch.zeros(2, 1, 1280)
    with torch.inference_mode():
        expected, found = (model(sample, 10, words).sample for model in (unet, loaded))
    is_ordered = channels == 128 and not low_memory
    assert found.is_contiguous(memory_format=torch.channels_last) == is_ordered
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if is_ordered:
        loaded.save_pretrained(tmp_path / "saved")
        saved = UNet2DConditionModel.from_pretrained(tmp_path / "saved").state_dict()
        assert all(torch.equal(saved[name], value) for name, value in unet.state_dict().items())


def test_small_modules_load_no_pipeline():
    printed = python(
        """
        import sys
        from clip2clap.inference import mixing, noise, schedulers
        from clip2clap.inference.loading import formats

        print([name for name in ("diffusers", "transformers") if name in sys.modules])
        """
    )
    assert printed == "[]"


def test_a_model_that_cannot_be_built_leaves_the_default_dtype(tmp_path: Path) -> None:
    UNet2DConditionModel(
        block_out_channels=(8, 8),  # pyright: ignore[reportArgumentType]
        down_block_types=("DownBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
        norm_num_groups=4,
    ).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "norm_num_groups": 3}))
    with pytest.raises(CheckpointError, match="groups"):
        load_strictly(UNet2DConditionModel, tmp_path, dtype=torch.bfloat16)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 GB")])
def test_a_lack_of_memory_is_not_taken_for_a_damaged_checkpoint(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained("The UNet"):
        raise error
    assert raised.value is error
