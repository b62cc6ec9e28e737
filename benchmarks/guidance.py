"""Effect of similarity guidance on the demo decoder.

`python benchmarks/guidance.py` prints, by strength, the median similarity of images of the 23
classes to the text of their class, with two seeds each, and how often that text is the most similar
of all. The CLIP that measures is the one that guides.
"""

from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from clip2clap import AudioToImagePipeline
from clip2clap.inference import Target
from clip2clap.inference.similarity_guidance import GuidanceOptions, SimilarityGuidance
from clip2clap.search.labels import read_labels


def main(
    seeds: Annotated[int, typer.Option(help="Images per class.")] = 2,
    condition: Annotated[str, typer.Option(help="targets or none.")] = "targets",
    output: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
) -> None:
    """Print a Markdown table of similarities by strength."""
    pipe: Any = AudioToImagePipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    labels = read_labels("demo")
    embeds = pipe.encode_text([f"a photo of a {label}" for label in labels])
    print("| strength | similarity | times unguided | nearest text is the target |")
    print("|---|---|---|---|")
    plain = 0.0
    nothing = pipe.negative_embedding(1).detach().float().cpu()
    for strength in (0.0, 0.5, 1.0, 2.0):
        found, right = [], 0
        for label, embed in zip(labels, embeds, strict=True):
            guidance = SimilarityGuidance(
                pipe.clip, [Target(embed)], GuidanceOptions(strength=strength, cut_size=112)
            )
            given: dict[str, Any] = {"image_embeds": embed.expand(seeds, -1)}
            if condition == "none":
                given = {"image_embeds": nothing.expand(seeds, -1), "guidance_scale": 1.0}
            images = pipe(**given, guidance=guidance, generator=list(range(seeds))).images
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                images[0].save(output / f"{label}-{strength:g}.png")
            similarities = pipe.clip.encode_image(list(images)) @ embeds.T
            place = labels.index(label)
            found += similarities[:, place].tolist()
            right += int((similarities.argmax(dim=1) == place).sum())
        value, share = median(found), right / len(found)
        plain = plain or value
        print(f"| {strength:g} | {value:.3f} | {value / plain:.1f} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    typer.run(main)
