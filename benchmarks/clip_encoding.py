"""Throughput of ClipEncoder, from PIL images to embeddings, relative to the bare model.

The model is a CLIP ViT-B/32 with random weights. The bare model receives the same batch as a
preprocessed tensor. Both are timed alternately, and the best times are compared.

    python benchmarks/clip_encoding.py
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from full_size import photographs
from timing import seconds
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel
from transformers.utils import logging

from clip2clap import ClipEncoder


def main(
    images: Annotated[int, typer.Option(help="Images per batch.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    from_files: Annotated[bool, typer.Option(help="Read the images from JPEG files.")] = False,
) -> None:
    """Compare `ClipEncoder.encode_image` with the bare model on preprocessed tensors."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pictures: list[Any] = list(photographs(images))
    with tempfile.TemporaryDirectory() as folder:
        CLIPModel(CLIPConfig()).save_pretrained(folder)
        processor = CLIPImageProcessorPil()
        processor.save_pretrained(folder)
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        if from_files:
            paths = [Path(folder) / f"{index}.jpg" for index in range(images)]
            for path, picture in zip(paths, pictures, strict=True):
                picture.save(path, quality=90)
            pictures = list(paths)
        encoder = ClipEncoder.from_pretrained(folder)
        model: Any = encoder.backend.model

        @torch.no_grad()
        def bare() -> None:
            model.get_image_features(pixels)

        def encode() -> None:
            encoder.encode_image(pictures, batch_size=images)

        bare()
        encode()
        times = [(seconds(bare), seconds(encode)) for _ in range(rounds)]
    alone, whole = (min(column) for column in zip(*times, strict=True))
    print(f"bare model      {alone / images * 1e3:7.1f} ms per image")
    print(f"ClipEncoder     {whole / images * 1e3:7.1f} ms per image")
    print(f"ratio           {alone / whole:7.3f} (goal: at least 0.9)")
    print("each round      " + " ".join(f"{a / b:.3f}" for a, b in times))


if __name__ == "__main__":
    typer.run(main)
