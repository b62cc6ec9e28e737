"""Command of the recipe: `python -m clip2clap.training.recipes.speech --data DATA`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from clip2clap.core.allocator import keep_freed_memory

app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Data folder; docs/demo-models.md has its layout.")],
    whisper: Annotated[
        Path, typer.Option(help="Folder of Whisper tiny.en in the format of CTranslate2.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for speech, frames and checkpoints.")] = Path(
        "runs/speech"
    ),
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    evaluate_only: Annotated[bool, typer.Option(help="Measure the encoder in MODEL.")] = False,
    model: Annotated[Path | None, typer.Option(help="Folder of the speech encoder.")] = None,
    transcripts: Annotated[bool, typer.Option(help="Measure Whisper's transcripts too.")] = True,
    generated: Annotated[
        bool, typer.Option(help="Measure images generated and painted from speech too.")
    ] = False,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train the demo speech encoder, and measure it; a killed run resumes where it stopped."""
    import torch

    from clip2clap.core.presets import DEMO_FOLDER
    from clip2clap.embeddings.encoders.speech import SpeechEncoder
    from clip2clap.training.recipes.demo.data import DemoData
    from clip2clap.training.recipes.speech.evaluate import SpeechEvaluation, whisper_transcriber
    from clip2clap.training.recipes.speech.recipe import SpeechRecipe, package

    keep_freed_memory()
    torch.set_num_threads(threads)
    target = model or DEMO_FOLDER / "speech"
    source = DemoData(data)
    if not evaluate_only:
        package(SpeechRecipe(source, out, whisper / "model.bin", steps=steps), target)
    transcribe = whisper_transcriber(whisper) if transcripts else None
    encoder = SpeechEncoder.from_pretrained(str(target))
    evaluation = SpeechEvaluation(source, out / "evaluation", encoder, transcribe)
    evaluation.run(typer.echo)
    if generated:
        from clip2clap.inference.audio_to_image import AudioToImagePipeline
        from clip2clap.training.recipes.demo.recipe import Recipe

        pipeline = AudioToImagePipeline.from_pretrained("demo")
        pipeline.set_progress_bar_config(disable=True)
        classifier = Recipe(source, out / "classifier").image_classifier
        evaluation.generate_images(pipeline, classifier.predict, typer.echo)
        evaluation.paint_images(_painter(evaluation.clip), classifier.predict, typer.echo)


def _painter(clip: Any) -> Callable[[Any], Any]:
    """Return a function that paints an image of 64 pixels towards an embedding."""
    import torch

    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.inference.painting.paint import PaintingOptions, Target, paint

    canvas, options = Canvas.from_pretrained("demo"), PaintingOptions(iterations=20, cutouts=2)

    def painted(embed: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        latent, targets = canvas.noise(64, 64, generator), [Target(embed)]
        found = paint(canvas, clip, targets, latent=latent, options=options, generator=generator)
        return found.image

    return painted


if __name__ == "__main__":
    app()
