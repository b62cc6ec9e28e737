"""Time of generating an image from audio, and the share of the decoder alone.

The decoder has the demo's architecture with random weights; the encoders are the demo's. The bare
decoder runs the UNet as often as the pipeline, with the same batch size, and decodes once. Both are
timed alternately, and the best times are compared.

    python benchmarks/audio_to_image.py
"""

from typing import Annotated, Any

import numpy as np
import torch
import typer
from timing import seconds

from clip2clap import AudioToImagePipeline, ClapEncoder, ClipEncoder, MLPTranslator
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.training.recipes.demo.diffusion import build_scheduler
from clip2clap.training.recipes.demo.image_decoder import GUIDANCE_SCALE, STEPS, build_unet


def build() -> Any:
    """Build the demo's pipeline with random weights of translator and decoder."""
    torch.manual_seed(0)
    clap, clip = ClapEncoder.from_pretrained("demo"), ClipEncoder.from_pretrained("demo")
    pipeline = AudioToImagePipeline(
        clap=clap,
        clip=clip,
        translator=MLPTranslator(clap.space("audio").dim, clip.space("image").dim, hidden_size=512),
        unet=build_unet().eval(),
        vae=PatchAutoencoder().eval(),
        scheduler=few_step_scheduler(build_scheduler().config),
        default_guidance_scale=GUIDANCE_SCALE,
        default_num_inference_steps=STEPS,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main(
    pictures: Annotated[int, typer.Option(help="Images per call.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    length: Annotated[float, typer.Option(help="Duration of the audio in s.")] = 5.0,
) -> None:
    """Compare the pipeline with the bare decoder."""
    torch.set_num_threads(threads)
    pipeline = build()
    noise = np.random.default_rng(0).standard_normal(int(length * 16_000)).astype(np.float32)
    latents = torch.zeros(2 * pictures, *pipeline.decoder.latent_shape(64, 64))
    labels = torch.zeros(2 * pictures, pipeline.decoder.embed_dim)

    def generate() -> None:
        pipeline((0.1 * noise, 16_000), num_candidates=pictures, batch_size=pictures)

    @torch.no_grad()
    def bare() -> None:
        for timestep in range(STEPS):
            pipeline.unet(latents, timestep, encoder_hidden_states=None, class_labels=labels)
        pipeline.decoder.to_pixels(latents[:pictures])

    bare()
    generate()
    times = [(seconds(bare), seconds(generate)) for _ in range(rounds)]
    alone, whole = (min(column) for column in zip(*times, strict=True))
    print(f"from audio       {whole:6.2f} s for {pictures} (goal: under 5 s for one)")
    print(f"bare decoder     {alone:6.2f} s")
    print(f"ratio            {alone / whole:6.3f}")


if __name__ == "__main__":
    typer.run(main)
