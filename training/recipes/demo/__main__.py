"""`python -m clip2clap.training.recipes.demo`: train the demo models from a data folder."""

from pathlib import Path
from typing import Annotated

import typer

from clip2clap.core.allocator import keep_freed_memory

STAGES = (
    "check_data",
    "image_activations",
    "image_features",
    "clip_space",
    "vision",
    "audio_features",
    "clap_space",
    "text_student",
    "text_encoders",
    "autoencoder",
    "vocoder",
    "latents",
    "generator",
    "tuned_generator",
    "pixels",
    "decoder",
    "tuned_decoder",
    "audio_classifier",
    "image_classifier",
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
        typer.Option(help=f"Run this stage only; one of {', '.join(STAGES)}."),
    ] = None,
    steps: Annotated[
        list[str] | None, typer.Option(help="STAGE=STEPS, the number of training steps of a stage.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="Output folder of the demo models.")] = None,
    per_class: Annotated[
        int, typer.Option(min=1, help="Images and recordings of each class to evaluate with.")
    ] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train the demo models, stage by stage; a killed run resumes where it stopped."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from clip2clap.core.errors import UserError
    from clip2clap.core.presets import DEMO_FOLDER
    from clip2clap.training.recipes.demo.data import DemoData
    from clip2clap.training.recipes.demo.recipe import Recipe

    keep_freed_memory()
    disable_progress_bar()
    torch.set_num_threads(threads)
    chosen = stage or STAGES
    unknown = [name for name in chosen if name not in STAGES]
    if unknown:
        raise typer.BadParameter(f"No stage {unknown[0]!r}; the stages are {', '.join(STAGES)}.")
    if "check_data" in chosen:
        _check_data(data)
    pairs = [pair.partition("=") for pair in steps or []]
    try:
        recipe = Recipe(DemoData(data), out, steps={name: int(count) for name, _, count in pairs})
    except UserError as error:
        flag = f"--{error.param}: " if error.param else ""
        typer.echo(f"{flag}{error}", err=True)
        raise typer.Exit(2) from None
    target = models or DEMO_FOLDER
    for name in chosen:
        if name == "package":
            from clip2clap.training.recipes.demo.package import package

            package(recipe, target)
        elif name == "evaluate":
            from clip2clap.training.recipes.demo.evaluate import evaluate_demo

            evaluate_demo(recipe, target, per_class=per_class)
        elif name != "check_data":
            getattr(recipe, name)
    typer.echo(f"Done: {', '.join(chosen)}. The demo models are in {target}.")


def _check_data(data: Path) -> None:
    """Exit with one line per problem of the data folder, if there is any."""
    from clip2clap.training.recipes.demo.layout import check_layout

    problems = check_layout(data)
    for problem in problems:
        typer.echo(f"--data: {problem}", err=True)
    if problems:
        typer.echo("docs/demo-models.md has the layout, and where the data is from.", err=True)
        raise typer.Exit(2)


if __name__ == "__main__":
    app()
