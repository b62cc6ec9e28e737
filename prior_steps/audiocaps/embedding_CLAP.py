"""AudioCaps captions to CLAP text embeddings, beside those of embedding_CLIP.py.

python prior_steps/audiocaps/embedding_CLAP.py train.csv tables/train --pair-with tables/train_clip
"""

from pathlib import Path
from typing import Annotated

import typer


def main(
    captions: Annotated[Path, typer.Argument(help="An AudioCaps CSV as published.")],
    folder: Annotated[Path, typer.Argument(help="Where the table goes.")],
    *,
    model: Annotated[
        str, typer.Option(help="A preset, hub id or folder of a CLAP; an AudioLDM has its own.")
    ] = "audioldm-s-full-v2",
    pair_with: Annotated[
        Path | None, typer.Option(help="embedding_CLIP.py's table, to be joined by id.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions in a batch.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first captions.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute, such as cuda.")] = "cpu",
) -> None:
    """Embed every caption with a CLAP; run again to go on where a run was stopped."""
    from clip2clap.embeddings import ClapEncoder, UserError, embed_captions

    try:
        table = embed_captions(
            captions,
            ClapEncoder.from_pretrained(model, device=device, towers=("text",)),
            folder,
            pair_with=pair_with,
            batch_size=batch_size,
            limit=limit,
            show_progress=True,
        )
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    print(f"{len(table)} captions in {folder}, {len(table.failures())} failed")


if __name__ == "__main__":
    typer.run(main)
