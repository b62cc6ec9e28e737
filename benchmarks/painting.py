"""Time of painting an image, with cutouts as one batch and one by one.

The CLIP is the demo's; the autoencoder has the demo image decoder's sizes with random weights. Both
ways are timed alternately, and the best times are compared. Freed memory is kept, as on the command
line.

    python benchmarks/painting.py
"""

from typing import Annotated

import torch
import typer
from timing import seconds
from torch import Tensor

from clip2clap import ClipEncoder, keep_freed_memory
from clip2clap.inference.painting.canvas import Canvas
from clip2clap.inference.painting.cutouts import cut_out
from clip2clap.inference.painting.paint import Painting, PaintingOptions, Target, default_cut_size
from clip2clap.models.patch_autoencoder import PatchAutoencoder


def main(
    size: Annotated[int, typer.Option(help="Image size in pixels.")] = 64,
    cutouts: Annotated[int, typer.Option(help="Cutouts per iteration.")] = 8,
    cut_size: Annotated[
        int | None, typer.Option(help="Cutout size in pixels; painting's by default.")
    ] = None,
    iterations: Annotated[int, typer.Option(help="Iterations per round.")] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Time iterations of painting, and cutouts as one batch and one by one."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clip = ClipEncoder.from_pretrained("demo", modalities=["image"])
    canvas = Canvas(PatchAutoencoder())
    side = cut_size or default_cut_size(clip)
    options = PaintingOptions(cutouts=cutouts, cut_size=side)
    target = Target(torch.nn.functional.normalize(torch.randn(512), dim=0))

    def painting(options: PaintingOptions) -> Painting:
        generator = torch.Generator().manual_seed(0)
        latent = canvas.noise(size, size, generator)
        return Painting(canvas, clip, [target], latent=latent, options=options, generator=generator)

    pixels = torch.rand(1, 3, size, size, requires_grad=True)
    generator = torch.Generator().manual_seed(0)

    def gradient(count: int) -> Tensor:
        cut = cut_out(pixels, count, side, generator=generator)
        similarity = clip.encode_pixels(cut, size=side) @ target.embed
        return torch.autograd.grad(similarity.sum(), pixels)[0]

    def one_by_one() -> None:
        for _ in range(cutouts):
            gradient(1)

    running = painting(options)
    running.step()
    gradient(cutouts)
    times = [
        (
            seconds(running.step, iterations),
            seconds(lambda: gradient(cutouts), iterations),
            seconds(one_by_one, iterations),
        )
        for _ in range(rounds)
    ]
    step, batch, single = (min(column) for column in zip(*times, strict=True))
    print(f"cutouts                 {cutouts} of {side} x {side}, image {size} x {size}")
    print(f"iteration               {step * 1e3:7.1f} ms, {1 / step:.1f} per second (goal: 5)")
    print(f"cutouts as one batch    {batch * 1e3:7.1f} ms")
    print(f"cutouts one by one      {single * 1e3:7.1f} ms")
    print(f"ratio                   {single / batch:7.2f} (goal: at least 3)")


if __name__ == "__main__":
    typer.run(main)
