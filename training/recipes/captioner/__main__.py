"""Command of the recipe: `python -m clip2clap.training.recipes.captioner --data DATA`."""

from pathlib import Path
from typing import Annotated

import typer

from clip2clap.core.allocator import keep_freed_memory

app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Data folder; docs/demo-models.md has its layout.")],
    out: Annotated[Path, typer.Option(help="Folder for embeddings and checkpoints.")] = Path(
        "runs/captioner"
    ),
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    evaluate_only: Annotated[bool, typer.Option(help="Measure the captioners in MODELS.")] = False,
    models: Annotated[Path | None, typer.Option(help="Folder of the captioners.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train the demo captioners, and measure them; a killed run resumes where it stopped."""
    import torch

    from clip2clap.core.presets import DEMO_FOLDER
    from clip2clap.training.recipes.captioner.evaluate import evaluate
    from clip2clap.training.recipes.captioner.recipe import CaptionerRecipe, package
    from clip2clap.training.recipes.demo.data import DemoData

    keep_freed_memory()
    torch.set_num_threads(threads)
    target = models or DEMO_FOLDER / "captioner"
    source = DemoData(data)
    if not evaluate_only:
        package(CaptionerRecipe(source, out, steps=steps), target)
    evaluate(source, out, target, typer.echo)


if __name__ == "__main__":
    app()
