"""Loading and saving of the image-to-audio pipeline, and the dtypes of its components."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file, save_file

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.loading.components import part_dtypes
from clip2clap.models.patch_autoencoder import PatchAutoencoder

from .builders import FAST, SECONDS, colored_images, needs_bfloat16_attention, seeded


def test_a_saved_pipeline_gives_exactly_the_same_audio(saved, tmp_path):
    pipe: Any = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=None)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for part in ("clip", "translator", "unet", "vae", "vocoder", "negative_embedding"):
            for weight in getattr(pipe, part).parameters():
                weight += 0.01 * torch.randn(weight.shape)
    pipe.register_to_config(
        default_guidance_scale=3.5,
        default_guidance_interval=(0.2, 0.5),
        default_num_inference_steps=2,
    )
    before = pipe(colored_images(2), generator=seeded(), audio_length_in_s=SECONDS)
    pipe.save_pretrained(tmp_path / "again")
    again: Any = ImageToAudioPipeline.from_pretrained(tmp_path / "again", torch_dtype=None)
    again.set_progress_bar_config(disable=True)
    after = again(colored_images(2), generator=seeded(), audio_length_in_s=SECONDS)
    assert np.array_equal(after.audios, before.audios)
    assert torch.equal(after.audio_embeds, before.audio_embeds)
    assert again.config.default_guidance_scale == 3.5
    assert tuple(again.config.default_guidance_interval) == (0.2, 0.5)


def test_numbers_of_numpy_in_configs_are_saved(saved, tmp_path):
    scheduler: Any = DDIMScheduler(trained_betas=np.linspace(1e-4, 0.02, 1000))
    pipe: Any = ImageToAudioPipeline.from_pretrained(saved, scheduler=scheduler)
    pipe.register_to_config(
        default_guidance_scale=np.float32(2.5), default_num_inference_steps=np.int64(3)
    )
    pipe.scheduler.register_to_config(num_train_timesteps=np.int64(1000))
    pipe.save_pretrained(tmp_path / "again")
    again: Any = ImageToAudioPipeline.from_pretrained(tmp_path / "again")
    assert again.config.default_guidance_scale == 2.5
    assert again.config.default_num_inference_steps == 3
    assert again.scheduler.config.num_train_timesteps == 1000
    assert again.scheduler.config.trained_betas == scheduler.config.trained_betas


def test_parts_given_by_hand_take_the_place_of_the_saved_ones(pipe, saved, ddim):
    again: Any = ImageToAudioPipeline.from_pretrained(
        saved, clip=pipe.clip, translator=saved / "translator", scheduler=ddim
    )
    assert again.clip is pipe.clip
    assert again.scheduler is ddim


def test_from_pretrained_takes_an_audioldm_checkpoint_too(pipe, audioldm_folder):
    same: Any = ImageToAudioPipeline.from_pretrained(
        audioldm_folder, clip=pipe.clip, translator=pipe.translator, torch_dtype=None
    )
    same.set_progress_bar_config(disable=True)
    call = {"images": colored_images(1), **FAST}
    assert torch.equal(
        same(**call, generator=seeded()).audios, pipe(**call, generator=seeded()).audios
    )


@pytest.mark.parametrize("part", ["unet", "vae", "vocoder", "negative_embedding", "translator"])
@pytest.mark.parametrize("fault", ["missing", "unknown", "wrongly sized"])
def test_weights_that_do_not_fit_are_named(saved, part, fault):
    [path] = (saved / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]
    if fault == "missing":
        del weights[name]
    elif fault == "unknown":
        name = "stranger.weight"
        weights[name] = torch.zeros(3)
    else:
        weights[name] = torch.zeros(1, 2, 3, 4, 5)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name) as error:
        ImageToAudioPipeline.from_pretrained(saved)
    assert "\n" not in str(error.value)


def test_a_vae_saved_under_the_older_names_of_its_attention_loads(pipe, saved):
    path = saved / "vae/diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, weight in load_file(path).items():
        for new, old in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = weight
    assert renamed.keys() != load_file(path).keys()
    save_file(renamed, path, metadata={"format": "pt"})
    older = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=None)
    for name, weight in pipe.vae.state_dict().items():
        assert torch.equal(older.vae.state_dict()[name], weight)


def test_a_patch_autoencoder_decodes_to_audio_too(pipe, tmp_path):
    mels = torch.randn(64, 1, 16, 8, generator=seeded()) - 5
    vae = PatchAutoencoder.from_images(mels, latent_channels=4, patch_size=2)
    other = ImageToAudioPipeline(**{**pipe.components, "vae": vae})
    other.save_pretrained(tmp_path)
    again = ImageToAudioPipeline.from_pretrained(tmp_path, torch_dtype=None)
    call = {"images": colored_images(1), **FAST}
    made, before, expected = (
        torch.as_tensor(model(**call, generator=seeded()).audios) for model in (again, pipe, other)
    )
    assert made.isfinite().all()
    assert made.shape == before.shape
    assert torch.equal(made, expected)


def test_an_autoencoder_that_is_not_known_is_named(saved):
    index = json.loads((saved / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderTiny"]
    (saved / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"AutoencoderTiny.*PatchAutoencoder"):
        ImageToAudioPipeline.from_pretrained(saved)


def test_a_missing_folder_and_an_unreachable_hub_are_named_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    for name in (str(tmp_path / "nowhere"), "nobody/nothing-of-the-kind", "no name"):
        with pytest.raises(ModelNotFoundError, match="folder") as error:
            ImageToAudioPipeline.from_pretrained(name)
        assert "\n" not in str(error.value)


def test_of_a_hub_checkpoint_only_the_generator_is_fetched_in_one_format(
    monkeypatch, audioldm_folder
):
    files = [path for path in audioldm_folder.rglob("*") if path.is_file()]
    listed = [path.relative_to(audioldm_folder).as_posix() for path in files]
    listed += ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in listed])
    fetched = set()

    def download(repo_id, *, allow_patterns, local_files_only, **kwargs):
        if local_files_only:
            raise FileNotFoundError
        fetched.update(allow_patterns)
        return str(audioldm_folder)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    ImageToAudioPipeline.from_audioldm("owner/audioldm", fetch_text_encoder=False)
    assert fetched == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{part}/config.json" for part in ("unet", "vae", "vocoder")),
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "vocoder/model.safetensors",
    }


@needs_bfloat16_attention
def test_dtype_goes_to_the_generator_and_leaves_embeddings_in_float32(pipe, saved):
    dtype = {"default": torch.bfloat16, "vocoder": torch.float32}
    half: Any = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=dtype)
    half.set_progress_bar_config(disable=True)
    assert half.unet.dtype == half.vae.dtype == torch.bfloat16
    assert half.vocoder.dtype == half.clip.dtype == half.translator.dtype == torch.float32
    call = {"images": colored_images(2), **FAST}
    got, expected = half(**call, generator=seeded()), pipe(**call, generator=seeded())
    assert torch.equal(got.audio_embeds, expected.audio_embeds)
    error = (got.audios - expected.audios).std() / expected.audios.std()
    assert 0 < error < 0.2


@pytest.mark.parametrize(
    ("has_instructions", "expected"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_auto_dtype_is_bfloat16_only_with_instructions_and_in_the_vocoder_for_residual_blocks(
    monkeypatch, has_instructions, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    dtype_of = part_dtypes("auto")
    assert dtype_of("unet") == dtype_of("vae") == dtype_of("vocoder.resblocks") == expected
    assert dtype_of("vocoder") == dtype_of("clip") == torch.float32


@pytest.mark.parametrize("choice", [None, torch.float64, {"vocoder": torch.float16}])
def test_a_dtype_that_is_chosen_is_that_of_the_whole_vocoder(choice):
    dtype_of = part_dtypes(choice)
    assert dtype_of("vocoder.resblocks") == dtype_of("vocoder")


def test_loading_and_running_writes_nothing_to_the_terminal(saved, capfd):
    capfd.readouterr()
    pipe = ImageToAudioPipeline.from_pretrained(saved)
    pipe.to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe(colored_images(1), **FAST)
    assert capfd.readouterr() == ("", "")


def test_offloading_changes_no_audio(pipe, saved):
    call = {"images": colored_images(2), **FAST}
    expected = pipe(**call, generator=seeded()).audios
    offloaded: Any = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=None)
    offloaded.set_progress_bar_config(disable=True)
    offloaded.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        got = offloaded(**call, generator=seeded()).audios
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_a_saved_variant_loads_with_and_without_its_name(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    expected = pipe(colored_images(1), generator=seeded(), **FAST).audios
    found: list[dict[str, Any]] = [{"variant": "fp16"}, {}]
    for options in [*found, {"variant": "fp16", "use_safetensors": True}]:
        again: Any = ImageToAudioPipeline.from_pretrained(tmp_path, torch_dtype=None, **options)
        again.set_progress_bar_config(disable=True)
        assert torch.equal(again(colored_images(1), generator=seeded(), **FAST).audios, expected)


def test_an_audioldm_folder_with_weights_of_one_variant_alone_loads(audioldm_folder, tmp_path):
    folder = shutil.copytree(audioldm_folder, tmp_path / "audioldm")
    for file in folder.rglob("*.safetensors"):
        half = {name: weight.half() for name, weight in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    variants: list[dict[str, Any]] = [{"variant": "fp16"}, {}]
    for options in variants:
        pipeline = ImageToAudioPipeline.from_audioldm(folder, torch_dtype=None, **options)
        assert pipeline.unet.dtype == torch.float32
        assert pipeline.negative_embedding is not None


def test_a_pipeline_of_a_relative_folder_records_where_it_is(
    audioldm_folder, tmp_path, monkeypatch
):
    (tmp_path / "m").mkdir()
    shutil.copytree(audioldm_folder, tmp_path / "m" / "audioldm")
    monkeypatch.chdir(tmp_path)
    pipeline = ImageToAudioPipeline.from_audioldm("m/audioldm", torch_dtype=None)
    pipeline.save_pretrained("saved")
    index = json.loads(Path("saved/model_index.json").read_text())
    assert index["clap_id"] == str(tmp_path / "m" / "audioldm")
    monkeypatch.chdir("/")
    again: Any = ImageToAudioPipeline.from_pretrained(tmp_path / "saved", torch_dtype=None)
    assert again.encode_text(["rain"]).shape == (1, 16)


def test_from_pipe_shares_components_and_replaces_those_given(pipe, ddim):
    other: Any = ImageToAudioPipeline.from_pipe(pipe, scheduler=ddim, default_guidance_scale=4.0)
    assert other.unet is pipe.unet
    assert other.scheduler is ddim
    assert pipe.scheduler is not ddim
    assert other.config.default_guidance_scale == 4.0
    assert other.config.clap_space == pipe.config.clap_space
    with pytest.raises(UserError, match=r"has no vocoder, which a ImageToAudioPipeline needs"):
        ImageToAudioPipeline.from_pipe(StableDiffusionLike(pipe))
    with pytest.raises(UserError, match=r"from_pipe has no torch_dtype\. Cast"):
        ImageToAudioPipeline.from_pipe(pipe, torch_dtype=torch.float16)


class StableDiffusionLike(DiffusionPipeline):
    """Pipeline of diffusers without a vocoder."""

    def __init__(self, pipe):
        super().__init__()
        self.register_modules(unet=pipe.unet, vae=pipe.vae, scheduler=pipe.scheduler)

    @property
    def components(self):
        return {name: getattr(self, name) for name in ("unet", "vae", "scheduler")}


def test_cache_dir_reaches_the_hub_for_the_pipeline_and_its_encoders(
    audioldm_folder, monkeypatch, tmp_path
):
    folders = []

    def download(repo_id, *, cache_dir, **_):
        folders.append(cache_dir)
        return str(audioldm_folder)

    info = SimpleNamespace(siblings=[])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    pipeline = ImageToAudioPipeline.from_audioldm("owner/audioldm", cache_dir=tmp_path)
    pipeline.encode_text(["rain"])
    assert folders
    assert set(folders) == {tmp_path}


def test_use_safetensors_refuses_weights_in_another_format(saved):
    file = saved / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    ImageToAudioPipeline.from_pretrained(saved)
    with pytest.raises(CheckpointError, match="safetensors"):
        ImageToAudioPipeline.from_pretrained(saved, use_safetensors=True)


def test_a_saved_or_pushed_pipeline_has_a_card_of_its_translator(pipe, tmp_path, monkeypatch):
    pushed: dict[str, str] = {}

    def upload(self: object, *, folder_path: Path, repo_id: str, **_: object) -> SimpleNamespace:
        assert (folder_path / "model_index.json").is_file()
        pushed[repo_id] = (folder_path / "README.md").read_text()
        return SimpleNamespace(commit_url="https://hub/commit")

    created = SimpleNamespace(repo_id="me/pipe")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: created)
    monkeypatch.setattr("huggingface_hub.HfApi.file_exists", lambda *_, **__: False)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert pipe.push_to_hub("pipe", license="mit") == "https://hub/commit"
    pipe.save_pretrained(tmp_path / "mine", license="mit", push_to_hub=True)
    saved = (tmp_path / "mine" / "README.md").read_text()
    assert pushed["me/pipe"].replace("me/pipe", "mine") == saved
    assert 'pipeline = ImageToAudioPipeline.from_pretrained("mine")' in saved
    assert "license: mit" in saved
    assert pipe.translator.target_space.fingerprint in saved


def test_from_pipe_keeps_the_name_and_how_the_hub_is_reached(saved, tmp_path):
    pipe = ImageToAudioPipeline.from_pretrained(saved, cache_dir=tmp_path)
    other: Any = ImageToAudioPipeline.from_pipe(pipe)
    assert other.config["_name_or_path"] == str(saved)
    assert other._access == pipe._access == {"cache_dir": tmp_path}


def test_a_scheduler_that_diffusers_lacks_can_be_replaced(saved, ddim):
    index = json.loads((saved / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "SchedulerOfTomorrow"]
    (saved / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"Give scheduler=\.\.\."):
        ImageToAudioPipeline.from_pretrained(saved)
    assert ImageToAudioPipeline.from_pretrained(saved, scheduler=ddim).scheduler is ddim
