"""What an evaluation found, as files that can be compared later."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.core.version import __version__
from clip2clap.evaluation.rows import EvaluatedRows, read_training
from clip2clap.evaluation.translation import EmbeddingEvaluation
from clip2clap.translator.base import Translator

RESULTS_FILE = "results.json"
PER_ROW_FILE = "results.npz"

FORMAT = 1
"""Version of the files' layout."""

_THINGS = {"image": "pictures", "audio": "sounds", "text": "captions"}


@dataclass(frozen=True)
class Results:
    """All figures, and those of single rows."""

    figures: dict[str, Any]
    """What `results.json` holds."""

    per_row: dict[str, np.ndarray] = field(repr=False)
    """What `results.npz` holds: `embeddings/ids` and `embeddings/items`, and for each translator
    `embeddings/NAME/FIGURE`; the same under `sounds` and `pictures`."""

    @property
    def names(self) -> list[str]:
        """The translators measured on embeddings."""
        part = self.figures["embeddings"]
        return [] if part is None else [one["scores"]["name"] for one in part["translators"]]

    def write(self, folder: str | Path) -> Path:
        """Write `results.json` and `results.npz`.

        Returns:
            The path of `results.json`.

        Raises:
            UserError: If the folder can't be written to.
        """
        folder = Path(folder).expanduser()
        path = folder / RESULTS_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / PER_ROW_FILE) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **self.per_row)  # pyright: ignore[reportArgumentType]
            with replacing(path) as partial:
                partial.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"The results can't be written to {folder}: {error.strerror or error}. Give "
                "another folder."
            ) from error
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read what `write` wrote.

        Args:
            path: `results.json`, or the folder that holds it.

        Raises:
            UserError: If it isn't there, or is something else.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            path = path / RESULTS_FILE
        try:
            figures = json.loads(path.read_text(encoding="utf-8"))
            version = figures["format"]
            with np.load(path.with_name(PER_ROW_FILE), allow_pickle=False) as file:
                per_row = dict(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} with {PER_ROW_FILE} beside it can't be read as the results of an "
                "evaluation. Give a results.json that clip2clap evaluate wrote."
            ) from error
        if version != FORMAT:
            raise UserError(
                f"{path} has format {version}, and this version of clip2clap reads {FORMAT}. "
                "Evaluate again."
            )
        # Written before pictures were measured.
        figures.setdefault("pictures", None)
        return cls(figures, per_row)


def embedding_results(
    rows: EvaluatedRows,
    evaluation: EmbeddingEvaluation,
    translators: dict[str, tuple[str, Translator]],
    *,
    table: str,
    labels: str | None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Bring an evaluation on embeddings into the form of `results.json` and `results.npz`.

    Args:
        rows: What was measured on.
        evaluation: What was measured.
        translators: By name, where each was loaded from and what it is.
        table: The table's folder.
        labels: The column of kinds.

    Returns:
        Plain values, and arrays.
    """
    pairs = rows.pairs
    measured = []
    for one in evaluation.translators:
        folder, translator = translators[one.scores.name]
        training = read_training(folder) or {}
        measured.append(
            {
                **asdict(one),
                "folder": folder,
                "kind": type(translator).__name__,
                "recipe": dict(translator.config.get("recipe") or {}),
                "history": training.get("history", []),
                "best_epoch": training.get("best_epoch"),
            }
        )
    figures = {
        "table": table,
        "split": rows.split,
        "fingerprint": rows.fingerprint(),
        "rows": evaluation.rows,
        "items": evaluation.items,
        "gallery": evaluation.gallery,
        "resamples": evaluation.resamples,
        "source_column": pairs.source_column,
        "target_column": pairs.target_column,
        "source_space": pairs.source_space and pairs.source_space.to_dict(),
        "target_space": pairs.target_space and pairs.target_space.to_dict(),
        "labels": labels,
        "mean_of": "the rows left out" if rows.mean is not None else "the rows measured on",
        "gap_before": evaluation.gap_before
        and {name: asdict(figure) for name, figure in evaluation.gap_before.items()},
        "mean_vector": asdict(evaluation.mean_vector),
        "translators": measured,
    }
    items = rows.ids if pairs.items is None else pairs.items
    per_row = {
        "ids": np.array(rows.ids),
        "items": np.unique(np.array(items), return_inverse=True)[1].astype(np.int32),
        **{
            name: values.astype(np.float32) if values.dtype.kind == "f" else values
            for name, values in evaluation.per_row.items()
        },
    }
    return figures, {f"embeddings/{name}": values for name, values in per_row.items()}


def sought(embeddings: Mapping[str, Any]) -> str:
    """Say what is retrieved by what, such as "pictures by translated sounds".

    Args:
        embeddings: That part of `results.json`.
    """
    target, source = (
        _THINGS[space["modality"]] if space else embeddings[f"{side}_column"]
        for side, space in (
            ("target", embeddings["target_space"]),
            ("source", embeddings["source_space"]),
        )
    )
    return f"{target} by translated {source}"


def join_results(
    embeddings: tuple[dict[str, Any], dict[str, np.ndarray]] | None,
    sounds: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None,
    pictures: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None,
    *,
    seed: int,
) -> Results:
    """Put all levels of an evaluation together; any may be missing."""
    figures: dict[str, Any] = {"format": FORMAT, "clip2clap": __version__, "seed": seed}
    per_row: dict[str, np.ndarray] = {}
    levels = {"embeddings": embeddings, "sounds": sounds, "pictures": pictures}
    for name, part in levels.items():
        figures[name] = None if part is None else part[0]
        per_row |= {} if part is None else part[1]
    return Results(figures, per_row)
