"""Share of the machine's matrix peak that each part of AudioLDM-S reaches.

A part's operations are counted by torch's `FlopCounterMode`, with attention as plain matrix
products. Its seconds are CPU seconds, as are those of the product of two 2,048 x 2,048 matrices,
which is the peak; the best of several runs counts for both. Weights are random.

    python benchmarks/flops.py --threads 1

takes 2 minutes.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from audioldm import _save_diffusion
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clip2clap.inference.caching import CachedUNet
from clip2clap.models.hifigan import ChannelsLast1d

_SIDE, _FRAMES, _RUNS = 2048, 1024, 2


def best_seconds(job: Callable[[], Any], runs: int) -> float:
    """Return the CPU seconds of the fastest of several runs."""
    found = []
    for _ in range(runs):
        start = time.process_time()
        job()
        found.append(time.process_time() - start)
    return min(found)


def gigaflop(job: Callable[[], Any]) -> float:
    """Count the floating-point operations of a call, in units of 10**9."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        job()
    return counter.get_total_flops() / 1e9


def load_parts(folder: Path, dtype: torch.dtype) -> dict[str, tuple[Callable[[], Any], str]]:
    """Return a call of each part on 10.24 s of audio, and how often a sound needs it."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import SpeechT5HifiGan

    unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).eval()
    unet.to(memory_format=torch.channels_last)
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype).eval()
    vocoder: Any = SpeechT5HifiGan.from_pretrained(folder / "vocoder", dtype=dtype).eval()
    latents = torch.randn(2, 8, _FRAMES // 4, 16, dtype=dtype)
    embeds, mel = torch.randn(2, 512, dtype=dtype), torch.randn(1, _FRAMES, 64, dtype=dtype)
    step = torch.tensor(500)
    cached = CachedUNet(unet, 1_000_000)
    cached(latents, step, None, class_labels=embeds)

    def vocode() -> None:
        with ChannelsLast1d():
            vocoder(mel)

    return {
        "UNet, guided step": (lambda: unet(latents, step, None, class_labels=embeds), "steps"),
        "UNet, unguided step": (
            lambda: unet(latents[:1], step, None, class_labels=embeds[:1]),
            "steps",
        ),
        "UNet, guided cached step": (
            lambda: cached(latents, step, None, class_labels=embeds),
            "steps",
        ),
        "VAE": (
            lambda: vae.decode(latents[:1].contiguous(memory_format=torch.channels_last)),
            "once",
        ),
        "vocoder": (vocode, "once"),
    }


def main(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    bfloat16: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = False,
) -> None:
    """Print each part's operations, seconds, and share of the machine's matrix peak."""
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    matrix = torch.randn(_SIDE, _SIDE, dtype=dtype)

    def measure_peak() -> float:
        return 2 * _SIDE**3 / 1e9 / best_seconds(lambda: matrix @ matrix, 5)

    table = Table(title=f"AudioLDM-S, 10.24 s, {str(dtype)[6:]}, {threads} threads")
    for column in ("part", "run", "GFLOP", "CPU s", "GFLOP per CPU s", "share of the peak"):
        table.add_column(column, justify="left" if column in ("part", "run") else "right")
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        _save_diffusion(Path(temporary))
        for name, (job, often) in load_parts(Path(temporary), dtype).items():
            operations, seconds = gigaflop(job), best_seconds(job, _RUNS)
            # The peak beside each part, since other processes share the machine.
            rate, peak = operations / seconds, measure_peak()
            row = (f"{operations:.0f}", f"{seconds:.2f}", f"{rate:.0f}", f"{rate / peak:.0%}")
            table.add_row(name, often, *row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
