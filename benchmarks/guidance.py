"""Effect of similarity guidance on the demo decoder.

`python benchmarks/guidance.py --label dog --label fire` prints, by strength, the median similarity
of images to the text of their class, and how often that text is the most similar of the 23. The
CLIP that measures is the one that guides.
"""

from statistics import median
from typing import Annotated, Any

import torch
import typer

from clip2clap import AudioToImagePipeline
from clip2clap.inference import Target
from clip2clap.inference.similarity_guidance import GuidanceOptions, SimilarityGuidance
from clip2clap.search.labels import read_labels


def main(
    label: Annotated[list[str] | None, typer.Option(help="Class; all 23 by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Images per class.")] = 4,
    strength: Annotated[tuple[float, float, float], typer.Option(help="Strengths.")] = (0, 1, 2),
) -> None:
    """Print a Markdown table of similarities by strength."""
    pipe: Any = AudioToImagePipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    labels = read_labels("demo")
    embeds = pipe.encode_text([f"a photo of a {each}" for each in labels])
    print("| strength | similarity | of all 23 classes the nearest |")
    print("|---|---|---|")
    for value in strength:
        found, right = [], 0
        for own in label or labels:
            place = labels.index(own)
            options = GuidanceOptions(strength=value, cut_size=112)
            images = pipe(
                image_embeds=embeds[place].expand(seeds, -1),
                guidance=SimilarityGuidance(pipe.clip, [Target(embeds[place])], options),
                generator=list(range(seeds)),
            ).images
            similarities = pipe.clip.encode_image(list(images)) @ embeds.T
            found += similarities[:, place].tolist()
            right += int((similarities.argmax(dim=1) == place).sum())
        print(f"| {value:g} | {median(found):.2f} | {right} of {len(found)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
