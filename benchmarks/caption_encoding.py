"""Captions encoded per second, compared with the reference project, with full-size encoders.

CLIP ViT-B/32's text encoder is compared with a loop over single captions padded to 77 tokens, and
CLAP's RoBERTa-base with batches of 10 padded to 77, both in float32 with the same weights. The
captions are AudioCaps', or synthetic with the same lengths. All are timed alternately in one
process, and the best times are compared. On a shared machine, `--cpu-time --threads 1` measures CPU
seconds.

    python benchmarks/caption_encoding.py --captions train.csv
"""

import csv
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from full_size import made_up_captions, write_clap, write_clip
from transformers.utils import logging

from clip2clap import ClapEncoder, ClipEncoder

LENGTH = 77
# Encoder: batch size of the baseline, and the goals in float32 and in bfloat16.
GOALS = {"CLIP": (1, 7.0, 13.0), "CLAP": (10, 5.0, 9.0)}


def baseline(encoder: ClipEncoder | ClapEncoder, batch_size: int) -> Callable[[Sequence[str]], Any]:
    """Return a function that encodes captions in batches, in order, padded to 77 tokens."""
    backend: Any = encoder.backend
    model, tokenizer = backend.model, backend.text_processor.tokenizer

    @torch.no_grad()
    def encode(captions: Sequence[str]) -> None:
        for start in range(0, len(captions), batch_size):
            inputs = tokenizer(
                list(captions[start : start + batch_size]),
                padding="max_length",
                truncation=True,
                max_length=LENGTH,
                return_tensors="pt",
            )
            model.get_text_features(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            )

    return encode


def read_captions(file: Path | None, count: int) -> list[str]:
    """Read an AudioCaps file's first captions, or make synthetic ones."""
    if file is None:
        return made_up_captions(count)
    with file.open(encoding="utf-8", newline="") as stream:
        captions = [row["caption"] for row in csv.DictReader(stream)]
    return captions[:count]


def main(
    captions: Annotated[Path | None, typer.Option(help="AudioCaps CSV as published.")] = None,
    rows: Annotated[int, typer.Option(help="Captions to encode.")] = 2048,
    baseline_rows: Annotated[int, typer.Option(help="Captions that the baseline encodes.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Batch size.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    cpu_time: Annotated[bool, typer.Option(help="Measure CPU seconds.")] = False,
    tiny: Annotated[bool, typer.Option(help="Small encoders, to test the benchmark.")] = False,
) -> None:
    """Compare `encode_text` with the baselines."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    clock = time.process_time if cpu_time else time.perf_counter
    texts = read_captions(captions, rows)
    # Spread over the file, so that the lengths are alike.
    few = texts[:: math.ceil(len(texts) / baseline_rows)]
    for name, encoder_class, write in (
        ("CLIP", ClipEncoder, write_clip),
        ("CLAP", ClapEncoder, write_clap),
    ):
        few_in_batch, *goals = GOALS[name]
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), texts, tiny=tiny)
            encoders = [
                encoder_class.from_pretrained(folder, torch_dtype=dtype, modalities=("text",))
                for dtype in (torch.float32, torch.bfloat16)
            ]
        jobs: list[tuple[Callable[[Sequence[str]], Any], Sequence[str]]] = [
            (baseline(encoders[0], few_in_batch), few)
        ]
        jobs += [(lambda t, e=e: e.encode_text(t, batch_size=batch_size), texts) for e in encoders]
        for job, some in jobs:
            job(some[:64])  # the first call allocates
        times = []
        for _ in range(rounds):
            marks = [clock()]
            for job, some in jobs:
                job(some)
                marks.append(clock())
            spent = (after - before for before, after in itertools.pairwise(marks))
            times.append([s / len(some) for s, (_, some) in zip(spent, jobs, strict=True)])
        before, *ours = (min(column) for column in zip(*times, strict=True))
        print(f"{name}, batches of {few_in_batch} padded to {LENGTH}: {1 / before:8.1f} captions/s")
        for dtype, best, goal in zip(("float32", "bfloat16"), ours, goals, strict=True):
            print(
                f"{name}, {dtype:>8}: {1 / best:8.1f} captions/s, {before / best:.2f} times "
                f"(goal: at least {goal:g})"
            )


if __name__ == "__main__":
    typer.run(main)
