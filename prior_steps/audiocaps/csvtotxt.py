"""Export of a table as one text file per pair, as the reference project's training reads them.

python csvtotxt.py [TABLE] [--out FOLDER] [--format csv]
"""

from pathlib import Path
from typing import Annotated, Literal

import typer


def main(
    table: Annotated[
        Path, typer.Argument(help="Table with embeddings of a CLIP and of a CLAP.")
    ] = Path("audiocaps-train"),
    *,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; by default TABLE-FORMAT.")
    ] = None,
    format: Annotated[
        Literal["text", "csv", "numpy", "parquet"], typer.Option(help="Output format.")
    ] = "text",
) -> None:
    """Export a table's pairs for other programs."""
    from clip2clap.core.errors import UserError
    from clip2clap.embeddings.table.convert import export_table
    from clip2clap.embeddings.table.reader import EmbeddingTable

    try:
        opened = EmbeddingTable.open(table)
        folder = export_table(opened, out or f"{table}-{format}", format)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    print(f"{len(opened)} pairs in {folder}")


if __name__ == "__main__":
    typer.run(main)
