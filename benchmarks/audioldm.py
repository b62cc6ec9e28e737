"""Time and memory of generating one image's audio, compared with diffusers' AudioLDM pipeline.

A full-size AudioLDM-S checkpoint is built from the published config, with random weights. Every
variant runs in its own process, so that peak memory is measured for each:

    python benchmarks/audioldm.py

takes about 8 minutes on 2 free cores, most of it for the baseline's 200 steps. With
`--measured-steps 3`, variants that guide all steps run 3 of them, and the time of the others is
extrapolated (the table marks this); our default guides half of its few steps, and runs them all. On
a shared machine, `--cpu-time --threads 1` measures CPU seconds. All variants use the same image,
CLIP and translator; only the steps after the CLAP embedding differ.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.core.memory import peak_bytes

SECONDS = 10.0
BASELINE_STEPS = 200
EQUAL_STEPS = 10

# Name: library, steps (None: our default), dtype ("auto": our pipeline's choice). A name that ends
# in "-low-memory" loads our pipeline so.
VARIANTS: dict[str, tuple[str, int | None, str]] = {
    "diffusers": ("diffusers", BASELINE_STEPS, "float32"),
    "ours": ("ours", None, "auto"),
    "ours-low-memory": ("ours", None, "auto"),
    "ours-float32": ("ours", None, "float32"),
    "ours-float32-low-memory": ("ours", None, "float32"),
    "diffusers-equal": ("diffusers", EQUAL_STEPS, "float32"),
    "ours-equal": ("ours", EQUAL_STEPS, "float32"),
    "diffusers-equal-bfloat16": ("diffusers", EQUAL_STEPS, "bfloat16"),
    "ours-equal-bfloat16": ("ours", EQUAL_STEPS, "bfloat16"),
}

app = typer.Typer(add_completion=False)
console = Console()


def build_checkpoint(folder: Path) -> int:
    """Write AudioLDM-S, a CLIP ViT-B/32 and a translator with random weights.

    Args:
        folder: Parent folder of `audioldm`, `clip` and `translator`.

    Returns:
        Size of the text encoder's weights in bytes.
    """
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from clip2clap.embeddings.encoders.base import read_space
    from clip2clap.translator.mlp import MLPTranslator
    from clip2clap.translator.saving import Provenance

    torch.manual_seed(0)
    generator = folder / "audioldm"
    _save_diffusion(generator)
    _save_text_encoder(generator)
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "ClapTextModelWithProjection"],
        "tokenizer": ["transformers", "RobertaTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "vocoder": ["transformers", "SpeechT5HifiGan"],
    }
    index = {"_class_name": "AudioLDMPipeline", "_diffusers_version": "0.33.1", **parts}
    (generator / "model_index.json").write_text(json.dumps(index))

    CLIPVisionModelWithProjection(
        CLIPVisionConfig(patch_size=32, projection_dim=512)
    ).save_pretrained(folder / "clip")
    CLIPImageProcessorPil().save_pretrained(folder / "clip")
    MLPTranslator(
        provenance=Provenance(
            read_space(folder / "clip", family="clip", modality="image"),
            read_space(generator, family="clap", modality="text"),
        )
    ).save_pretrained(folder / "translator")
    weights = (generator / "text_encoder").glob("*.safetensors")
    return sum(path.stat().st_size for path in weights)


def _save_diffusion(folder: Path) -> None:
    """Write AudioLDM-S's UNet, VAE, vocoder and scheduler."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    UNet2DConditionModel(
        sample_size=128,
        in_channels=8,
        out_channels=8,
        block_out_channels=(128, 256, 384, 640),
        layers_per_block=2,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        cross_attention_dim=(128, 256, 384, 640),  # pyright: ignore[reportArgumentType]
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=512,
        class_embeddings_concat=True,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        sample_size=512,
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        block_out_channels=(128, 256, 512),  # pyright: ignore[reportArgumentType]
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
    ).save_pretrained(folder / "vae")
    SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16000,
            upsample_initial_channel=1024,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=[[1, 3, 5]] * 3,
            normalize_before=False,
        )
    ).save_pretrained(folder / "vocoder")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")


def _save_text_encoder(folder: Path) -> None:
    """Write AudioLDM-S's text encoder and tokenizer."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import ClapTextConfig, ClapTextModelWithProjection, RobertaTokenizer

    ClapTextModelWithProjection(ClapTextConfig(projection_dim=512)).save_pretrained(
        folder / "text_encoder"
    )
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    RobertaTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=512
    ).save_pretrained(folder / "tokenizer")


def load_ours(
    folder: Path, steps: int | None, dtype: Any, *, low_memory: bool = False
) -> tuple[Any, Callable[..., Any], int]:
    """Load our pipeline.

    Returns:
        The pipeline, the call that generates audio, with diffusers' callback, and the steps.
    """
    from diffusers import DDIMScheduler

    from clip2clap.inference.image_to_audio import ImageToAudioPipeline

    checkpoint = folder / "audioldm"
    scheduler = DDIMScheduler.from_pretrained(checkpoint / "scheduler") if steps else None
    pipe = ImageToAudioPipeline.from_audioldm(
        checkpoint,
        clip=folder / "clip",
        translator=folder / "translator",
        scheduler=scheduler,  # pyright: ignore[reportArgumentType]
        torch_dtype=dtype,
        low_memory=low_memory,
        default_guidance_interval=(0.0, 1.0) if steps else None,
    )

    def generate(image: Any, *, callback: Callable[..., Any], **options: Any) -> Any:
        return pipe(image, **options, callback_on_step_end=callback).audios

    return pipe, generate, steps or pipe.config["default_num_inference_steps"]


def load_diffusers(folder: Path, dtype: Any) -> tuple[Any, Callable[..., Any]]:
    """Load diffusers' pipeline, a CLIP and a translator; returns the pipeline and its call."""
    import torch
    from diffusers import AudioLDMPipeline

    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.translator.auto import AutoTranslator

    clip = ClipEncoder.from_pretrained(folder / "clip", modalities=("image",))
    translator = AutoTranslator.from_pretrained(folder / "translator")
    pipe: Any = AudioLDMPipeline.from_pretrained(folder / "audioldm", torch_dtype=dtype)

    def generate(image: Any, *, callback: Callable[..., Any], **options: Any) -> Any:
        with torch.no_grad():
            embeds = translator(clip.encode_image([image]))
        return pipe(prompt_embeds=embeds, **options, callback=callback).audios

    return pipe, generate


def run_variant(
    folder: Path, name: str, measured_steps: int | None, threads: int, cpu_time: bool
) -> dict[str, Any]:
    """Load a pipeline, generate one image's audio, and measure both.

    Args:
        folder: Output folder of `build_checkpoint`.
        name: One of `VARIANTS`.
        measured_steps: Denoising steps to run; the time of the others is extrapolated. None for
            all.
        threads: CPU threads.
        cpu_time: Measure CPU seconds instead of the clock's.

    Returns:
        Seconds to load and to run, steps, dtype, and peak resident memory in bytes.
    """
    import torch
    from PIL import Image

    torch.set_num_threads(threads)
    library, steps, dtype_name = VARIANTS[name]
    dtype = dtype_name if dtype_name == "auto" else getattr(torch, dtype_name)
    image = Image.effect_mandelbrot((640, 480), (-2.0, -1.5, 1.0, 1.5), 50).convert("RGB")
    ticks: list[float] = []
    clock = time.process_time if cpu_time else time.perf_counter

    def tick(*_: Any) -> dict[str, Any]:
        ticks.append(clock())
        return {}

    started = clock()
    if library == "ours":
        pipe, generate, steps = load_ours(
            folder, steps, dtype, low_memory=name.endswith("low-memory")
        )
    else:
        pipe, generate = load_diffusers(folder, dtype)
    pipe.set_progress_bar_config(disable=True)
    loaded = clock()

    assert steps is not None
    run_steps = min(steps, measured_steps or steps) if VARIANTS[name][1] else steps
    options = {"num_inference_steps": run_steps, "guidance_scale": 2.5}
    audios = generate(image, callback=tick, audio_length_in_s=SECONDS, **options)
    ended = clock()
    assert audios.shape == (1, round(SECONDS * 16000))

    # The first step is excluded: it also warms up the kernels.
    step = statistics.median(b - a for a, b in itertools.pairwise(ticks))
    return {
        "load_s": loaded - started,
        "run_s": ended - loaded + (steps - run_steps) * step,
        "step_s": step,
        "steps": steps,
        "measured_steps": run_steps,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "peak_bytes": peak_bytes(),
    }


def report(results: dict[str, dict[str, Any]], text_encoder_bytes: int) -> None:
    """Print the measurements of every variant and their ratios."""
    table = Table(title=f"One image, {SECONDS:g} s of audio, AudioLDM-S")
    for column in ("variant", "dtype", "steps", "load s", "run s", "s per step", "peak GB"):
        table.add_column(column, justify="left" if column in ("variant", "dtype") else "right")
    for name, result in results.items():
        extrapolated = result["measured_steps"] < result["steps"]
        table.add_row(
            name,
            result["dtype"],
            f"{result['steps']} ({result['measured_steps']} run)"
            if extrapolated
            else str(result["steps"]),
            f"{result['load_s']:.1f}",
            f"{result['run_s']:.1f}{' extrapolated' if extrapolated else ''}",
            f"{result['step_s']:.2f}",
            f"{result['peak_bytes'] / 1e9:.2f}",
        )
    console.print(table)
    for claim, slow, fast, target in (
        ("our default against diffusers' 200 steps", "diffusers", "ours", 12.0),
        ("the same in float32", "diffusers", "ours-float32", 7.0),
        ("equal steps, float32", "diffusers-equal", "ours-equal", 1.0),
        ("equal steps, bfloat16", "diffusers-equal-bfloat16", "ours-equal-bfloat16", 1.0),
    ):
        if slow in results and fast in results:
            ratio = results[slow]["run_s"] / results[fast]["run_s"]
            saved = results[slow]["peak_bytes"] - results[fast]["peak_bytes"]
            console.print(
                f"{claim}: {ratio:.2f} times as fast (target: {target:g}); peak memory "
                f"{saved / 1e6:.0f} MB lower (text encoder: {text_encoder_bytes / 1e6:.0f} MB)"
            )


@app.command()
def main(
    measured_steps: Annotated[
        int | None, typer.Option(min=2, help="Run this many steps and extrapolate the others.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Variants to run: {', '.join(VARIANTS)}.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the built checkpoint here for the next run.")
    ] = None,
    cpu_time: Annotated[bool, typer.Option("--cpu-time", help="Measure CPU seconds.")] = False,
    variant: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Compare our image-to-audio pipeline with diffusers' AudioLDMPipeline."""
    if variant is not None and folder is not None:
        result = run_variant(folder, variant, measured_steps, threads, cpu_time)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    unknown = set(only or ()) - VARIANTS.keys()
    if unknown:
        raise typer.BadParameter(f"Expected variants among {', '.join(VARIANTS)}, got {unknown}.")
    with tempfile.TemporaryDirectory() as temporary:
        built = folder or Path(temporary)
        note = built / "text_encoder_bytes.json"
        if not note.is_file():
            console.print("Building the checkpoints ...")
            note.write_text(json.dumps(build_checkpoint(built)))
        results = {}
        for name in only or VARIANTS:
            console.print(f"Running {name} ...")
            command = [sys.executable, __file__, "--variant", name, "--folder", str(built)]
            command += ["--threads", str(threads)]
            if cpu_time:
                command.append("--cpu-time")
            if measured_steps is not None:
                command += ["--measured-steps", str(measured_steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[name] = json.loads(done.stdout.splitlines()[-1])
        report(results, json.loads(note.read_text()))


if __name__ == "__main__":
    app()
