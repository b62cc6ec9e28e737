"""`python -m clip2clap.training.recipes.demo`: grow the demo models from a data folder."""

from pathlib import Path
from typing import Annotated

import typer

from clip2clap.core.allocator import keep_freed_memory

STAGES = (
    "photos",
    "clip_space",
    "maps",
    "clap_space",
    "sounds",
    "words",
    "text",
    "autoencoder",
    "vocoder",
    "latents",
    "generator",
    "pixels",
    "painter",
    "finisher",
    "classifier",
    "photo_judge",
    "package",
    "evaluate",
)

app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Data folder; docs/demo-models.md has its layout.")],
    out: Annotated[Path, typer.Option(help="Folder for features and checkpoints.")] = Path(
        "runs/demo"
    ),
    stage: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this stage; one of {', '.join(STAGES)}."),
    ] = None,
    steps: Annotated[
        list[str] | None, typer.Option(help="STAGE=STEPS, to train a stage shorter or longer.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="Where the demo models go.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of a stage.")] = 2,
) -> None:
    """Train the demo models, stage by stage; start it again after a kill and it goes on."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from clip2clap.core.errors import UserError
    from clip2clap.core.presets import DEMO_FOLDER
    from clip2clap.training.recipes.demo.data import DemoData
    from clip2clap.training.recipes.demo.recipe import Recipe

    keep_freed_memory()
    disable_progress_bar()
    torch.set_num_threads(threads)
    wanted = stage or STAGES
    unknown = [name for name in wanted if name not in STAGES]
    if unknown:
        raise typer.BadParameter(f"No stage {unknown[0]!r}; the stages are {', '.join(STAGES)}.")
    pairs = [pair.partition("=") for pair in steps or []]
    try:
        recipe = Recipe(DemoData(data), out, steps={name: int(count) for name, _, count in pairs})
    except UserError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    target = models or DEMO_FOLDER
    for name in wanted:
        if name == "package":
            from clip2clap.training.recipes.demo.package import package

            package(recipe, target)
        elif name == "evaluate":
            from clip2clap.training.recipes.demo.evaluate import evaluate_demo

            evaluate_demo(recipe, target)
        else:
            getattr(recipe, name)
    typer.echo(f"Done: {', '.join(wanted)}. The demo models are in {target}.")


if __name__ == "__main__":
    app()
