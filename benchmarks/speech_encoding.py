"""Time to encode 1 s of speech, in batches, and the size of the encoder's folder.

python benchmarks/speech_encoding.py --encoder demo
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from timing import seconds

from clip2clap.core.presets import resolve
from clip2clap.embeddings.encoders.speech import SpeechEncoder

RATE = 16_000


def main(
    encoder: Annotated[str, typer.Option(help="Speech encoder: demo or a folder.")] = "demo",
    batch_size: Annotated[int, typer.Option(help="Clips per batch.")] = 16,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    times: Annotated[int, typer.Option(help="Batches to average over.")] = 5,
) -> None:
    """Print milliseconds per clip of 1 s, with preprocessing, and megabytes."""
    torch.set_num_threads(threads)
    speech = SpeechEncoder.from_pretrained(encoder)
    random = np.random.default_rng(0)
    clips = [(random.normal(0, 0.1, RATE).astype(np.float32), RATE) for _ in range(batch_size)]
    speech.encode_audio(clips, batch_size=batch_size)
    taken = seconds(lambda: speech.encode_audio(clips, batch_size=batch_size), times)
    print(f"{1000 * taken / batch_size:.1f} ms per second of speech, batch of {batch_size}")
    folder = Path(resolve(encoder, "speech_encoder"))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
