"""Results of an evaluation as files that can be compared later."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, replacing
from clip2clap.core.output_folder import writing_to
from clip2clap.core.version import __version__
from clip2clap.evaluation.rows import EvaluatedRows, read_training
from clip2clap.evaluation.translation import EmbeddingEvaluation
from clip2clap.translator.base import Translator

RESULTS_FILE = "results.json"
PER_ROW_FILE = "results.npz"

FORMAT = 2
"""Version of the files' layout."""

LEVELS = ("embeddings", "audio", "images")
"""Parts of an evaluation."""

Part = tuple[dict[str, Any], dict[str, np.ndarray]]
"""Plain values for `results.json`, and arrays for `results.npz`."""

_NAMES = {"image": "images", "audio": "audio", "text": "captions"}

# Names of format 1; only those that `compare_results` reads are mapped.
_OLD_LEVELS = {"sounds": "audio", "pictures": "images"}
_OLD_METRICS = {
    "kind": "nearest_label",
    "judge": "classifier",
    "translated": "translated_similarity",
    "true_picture": "real_similarity",
    "round_trip_kind": "round_trip_nearest_label",
}


@dataclass(frozen=True)
class Results:
    """Metrics of an evaluation, overall and per row.

    Examples:
        >>> from clip2clap.evaluation import Results
        >>> results = Results({"format": 2, "embeddings": None, "audio": None, "images": None}, {})
        >>> results.write("report").name
        'results.json'
        >>> Results.read("report").metrics == results.metrics
        True
    """

    metrics: dict[str, Any]
    """Content of `results.json`."""

    per_row: dict[str, np.ndarray] = field(repr=False)
    """Content of `results.npz`: `embeddings/ids` and `embeddings/items`, and for each translator
    `embeddings/NAME/METRIC`; likewise under `audio` and `images`."""

    def write(self, folder: str | Path) -> Path:
        """Write `results.json` and `results.npz`.

        Returns:
            Path of `results.json`.

        Raises:
            UserError: If the folder cannot be written to.
        """
        folder = as_path(folder)
        path = folder / RESULTS_FILE
        with writing_to(folder):
            with replacing(folder / PER_ROW_FILE) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **self.per_row)  # pyright: ignore[reportArgumentType]
            with replacing(path) as partial:
                partial.write_text(json.dumps(self.metrics, indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read the files that `write` wrote, or an earlier version of the package.

        Args:
            path: `results.json`, or its folder.

        Raises:
            UserError: If there are no such files.
        """
        path = as_path(path)
        if path.is_dir():
            path = path / RESULTS_FILE
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            version = metrics["format"]
            with np.load(path.with_name(PER_ROW_FILE), allow_pickle=False) as file:
                per_row = dict(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} with {PER_ROW_FILE} beside it can't be read as the results of an "
                "evaluation. Expected a results.json that clip2clap evaluate wrote."
            ) from error
        if version not in (1, FORMAT):
            raise UserError(
                f"{path} has format {version}, and this version of clip2clap reads {FORMAT}. "
                "Evaluate again."
            )
        return cls(metrics, per_row) if version == FORMAT else _upgraded(metrics, per_row)


def embedding_results(
    rows: EvaluatedRows,
    evaluation: EmbeddingEvaluation,
    translators: dict[str, tuple[str, Translator]],
    *,
    table: str,
    labels: str | None,
) -> Part:
    """Convert an evaluation on embeddings to plain values and arrays.

    `translators` has the folder and the translator by name, `labels` is the column of labels.
    """
    pairs = rows.pairs
    found = asdict(replace(evaluation, per_row={}, clouds={}))
    del found["per_row"], found["clouds"]
    for scores in found["translators"]:
        folder, translator = translators[scores["scores"]["name"]]
        training = read_training(folder) or {}
        scores |= {
            "folder": folder,
            "architecture": type(translator).__name__,
            "recipe": dict(translator.config.get("recipe") or {}),
            "history": training.get("history", []),
            "best_epoch": training.get("best_epoch"),
        }
    metrics = {
        "table": table,
        "split": rows.split,
        "fingerprint": rows.fingerprint(),
        "source_column": pairs.source_column,
        "target_column": pairs.target_column,
        "source_space": pairs.source_space and pairs.source_space.to_dict(),
        "target_space": pairs.target_space and pairs.target_space.to_dict(),
        "labels": labels,
        "mean_of": "the rows left out" if rows.mean is not None else "the evaluated rows",
        **found,
    }
    items = rows.ids if pairs.items is None else pairs.items
    return metrics, rows_of_level("embeddings", rows.ids, items, evaluation.per_row)


def rows_of_level(
    level: str, ids: Sequence[str], items: Sequence[str], per_row: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the arrays of one level for `results.npz`."""
    arrays = {
        "ids": np.array(ids),
        "items": np.unique(np.array(items), return_inverse=True)[1].astype(np.int32),
        **{
            name: values.astype(np.float32) if values.dtype.kind == "f" else values
            for name, values in per_row.items()
        },
    }
    return {f"{level}/{name}": values for name, values in arrays.items()}


def retrieval_direction(embeddings: Mapping[str, Any]) -> str:
    """Describe the retrieval task of `results.json`, such as "images by translated audio"."""
    target, source = (
        _NAMES[space["modality"]]
        if (space := embeddings[f"{side}_space"])
        else embeddings[f"{side}_column"]
        for side in ("target", "source")
    )
    return f"{target} by translated {source}"


def leaderboard(embeddings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Sort the translators of `results.json` by mean reciprocal rank, the highest first."""
    return sorted(
        embeddings["translators"], key=lambda one: -one["scores"]["forward"]["mrr"]["value"]
    )


def join_results(*, seed: int, **parts: Part | None) -> Results:
    """Join the parts of an evaluation, `embeddings`, `audio` and `images`; any may be missing."""
    metrics: dict[str, Any] = {"format": FORMAT, "clip2clap": __version__, "seed": seed}
    per_row: dict[str, np.ndarray] = {}
    for name in LEVELS:
        part = parts.get(name)
        metrics[name] = None if part is None else part[0]
        per_row |= {} if part is None else part[1]
    return Results(metrics, per_row)


def _upgraded(metrics: dict[str, Any], per_row: dict[str, np.ndarray]) -> Results:
    """Rename the keys of format 1 that `compare_results` reads."""
    metrics = {_OLD_LEVELS.get(name, name): part for name, part in metrics.items()}
    renamed = {}
    for key, values in per_row.items():
        level, *name, metric = key.split("/")
        key = [_OLD_LEVELS.get(level, level), *name, _OLD_METRICS.get(metric, metric)]
        renamed["/".join(key)] = values
    return Results({**dict.fromkeys(LEVELS), **metrics}, renamed)
