"""Effect of similarity guidance on the demo decoder, or with `--audio` on the demo generator.

`python benchmarks/guidance.py --label dog --label fire` prints, by strength, the median similarity
of images, or sounds, to the text of their class, and how often that text is the most similar of the
23. The CLIP or CLAP that measures is the one that guides.
"""

from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from clip2clap import AudioToImagePipeline, ImageToAudioPipeline
from clip2clap.inference import Target
from clip2clap.inference.audio_guidance import AudioSimilarityGuidance
from clip2clap.inference.similarity_guidance import GuidanceOptions, SimilarityGuidance
from clip2clap.search.labels import read_labels

Make = Callable[[Tensor, float, int], Tensor]
"""Map from the embedding of a class, shape (d,), a strength and a number of seeds to embeddings of
what was generated, shape (n, d)."""


def main(
    label: Annotated[list[str] | None, typer.Option(help="Class; all 23 by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Images or sounds per class.")] = 4,
    strength: Annotated[tuple[float, float, float], typer.Option(help="Strengths.")] = (0, 1, 2),
    audio: Annotated[bool, typer.Option(help="Measure sounds of 2 s.")] = False,
) -> None:
    """Print a Markdown table of similarities by strength."""
    labels = read_labels("demo")
    embeds, make = _sounds(labels) if audio else _images(labels)
    print("| strength | similarity | of all 23 classes the nearest |")
    print("|---|---|---|")
    for value in strength:
        found, right = [], 0
        for own in label or labels:
            place = labels.index(own)
            similarities = make(embeds[place], value, seeds) @ embeds.T
            found += similarities[:, place].tolist()
            right += int((similarities.argmax(dim=1) == place).sum())
        print(f"| {value:g} | {median(found):.2f} | {right} of {len(found)} |", flush=True)


def _images(labels: list[str]) -> tuple[Tensor, Make]:
    pipe: Any = AudioToImagePipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    embeds = pipe.encode_text([f"a photo of a {each}" for each in labels])

    def make(embed: Tensor, strength: float, seeds: int) -> Tensor:
        options = GuidanceOptions(strength=strength, cut_size=112)
        side = pipe.decoder.trained_size
        images = pipe(
            image_embeds=embed.expand(seeds, -1),
            height=side,
            width=side,
            guidance=SimilarityGuidance(pipe.clip, [Target(embed)], options),
            generator=list(range(seeds)),
        ).images
        return pipe.clip.encode_image(list(images))

    return embeds, make


def _sounds(labels: list[str]) -> tuple[Tensor, Make]:
    pipe: Any = ImageToAudioPipeline.from_pretrained("demo", torch_dtype=None)
    pipe.set_progress_bar_config(disable=True)
    clap, rate = pipe.generator_clap.load_audio_encoder(), pipe.sampling_rate
    embeds = pipe.encode_text([f"the sound of a {each}" for each in labels])

    def make(embed: Tensor, strength: float, seeds: int) -> Tensor:
        options = GuidanceOptions(strength=strength, cutouts=2)
        waveforms = pipe(
            prompt_embeds=embed.expand(seeds, -1),
            guidance=AudioSimilarityGuidance(clap, rate, [Target(embed)], options),
            generator=list(range(seeds)),
            num_candidates=1,
            audio_length_in_s=2.0,
        ).audios
        return clap.encode_audio([(waveform, rate) for waveform in waveforms])

    return embeds, make


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
