"""Sets of labels: the classes of data sets, texts and files."""

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from clip2clap.core.errors import MissingExtraError, UserError, is_utf8, one_line
from clip2clap.core.files import as_path
from clip2clap.core.labels import check_labels
from clip2clap.core.presets import DEMO_FOLDER

_ESC50 = """dog, rooster, pig, cow, frog, cat, hen, insects, sheep, crow, rain, sea waves, crackling
fire, crickets, chirping birds, water drops, wind, pouring water, toilet flush, thunderstorm,
crying baby, sneezing, clapping, breathing, coughing, footsteps, laughing, brushing teeth, snoring,
drinking sipping, door wood knock, mouse click, keyboard typing, door wood creaks, can opening,
washing machine, vacuum cleaner, clock alarm, clock tick, glass breaking, helicopter, chainsaw,
siren, car horn, engine, train, church bells, airplane, fireworks, hand saw"""
_US8K = """air conditioner, car horn, children playing, dog bark, drilling, engine idling, gun shot,
jackhammer, siren, street music"""
_IMAGEHEAR = """accordion, bass, bells, bird, bongo, car, cat, chicken, cow, cricket, dog, drums,
duck, flute, frog, guitar, gun, harmonica, horse, lion, motorcycle, people, piano, police, rain,
saxophone, sheep, train, trumpet, waterfall"""

_FOLDER = Path(__file__).parent / "label_sets"
_SEPARATOR = "|"
# Columns of labels in tables, such as AudioSet's class_labels_indices.csv.
_COLUMNS = ("display_name", "label", "name")
_FILES = ("audioset", "fsd50k", "objectnet")
_DEMO_KINDS = {"demo": "kinds", "demo-audio": "audio_kinds"}

LABEL_SETS = (
    "demo",
    "demo-audio",
    "esc50",
    "us8k",
    "audioset",
    "fsd50k",
    "imagenet",
    "imagehear",
    "objectnet",
)
"""Names of the label sets."""

Vocabulary = dict[str, list[str]]
"""Texts that stand for each label: synonyms, or the label itself."""


def read_labels(labels: str | Path | Sequence[str]) -> list[str]:
    """Return the labels that a name, a file or a list names.

    Args:
        labels: As for `read_vocabulary`.

    Raises:
        UserError: If there are no labels, or a file cannot be read.
        MissingExtraError: If open_clip is not installed.

    Examples:
        >>> read_labels("dog, rain")
        ['dog', 'rain']
        >>> len(read_labels("esc50"))
        50
    """
    return list(read_vocabulary(labels) if isinstance(labels, str | Path) else labels)


def read_vocabulary(labels: str | Path | Sequence[str]) -> Vocabulary:
    """Return the labels that a name, a file or a list names, with their synonyms.

    Args:
        labels: `"demo"`, the 23 classes of the demo models; `"demo-audio"`, these and 7 more that
            the demo generator makes; `"esc50"` (Piczak 2015), `"us8k"` (UrbanSound8K, Salamon et
            al. 2014), `"audioset"` (the 527 classes of Gemmeke et al. 2017) or `"fsd50k"` (the 200
            of Fonseca et al. 2022), both with synonyms; `"imagenet"` (the 998 distinct names of the
            1,000 classes in Radford et al. 2021, which need the `open-clip` extra); `"imagehear"`
            (the 30 of Sheffer and Adi 2023); `"objectnet"` (the 313 of Barbu et al. 2019); a text
            file with one label per line, which texts that stand for it may follow, each after a
            `|`; a JSON list; a table with the column `display_name`, `label` or `name`; labels
            separated by commas; or a list of labels.

    Raises:
        UserError: If there are no labels, or a file cannot be read.
        MissingExtraError: If open_clip is not installed.

    Examples:
        >>> read_vocabulary("dog, rain")
        {'dog': ['dog'], 'rain': ['rain']}
        >>> read_vocabulary("audioset")["Male speech, man speaking"]
        ['male speech', 'man speaking']
    """
    if not isinstance(labels, str | Path):
        return {label: [label] for label in check_labels(labels)}
    if isinstance(labels, str) and labels in _DEMO_KINDS:
        kinds = json.loads((DEMO_FOLDER / "kinds.json").read_text(encoding="utf-8"))
        return _vocabulary(kinds[_DEMO_KINDS[labels]])
    if labels == "imagenet":
        return _vocabulary(_imagenet())
    # A path is that of a file, whatever its name.
    words = labels if isinstance(labels, str) else ""
    text = {"esc50": _ESC50, "us8k": _US8K, "imagehear": _IMAGEHEAR}.get(words)
    path = _FOLDER / f"{words}.txt" if words in _FILES else as_path(labels)
    if text is None and path.is_file():
        found = _vocabulary(line.strip(f" \t{_SEPARATOR}") for line in _lines(path))
        if not found:
            raise UserError(f"{labels} has no labels. Write one per line.", param="labels")
        return found
    if text is None and "," not in words:
        raise UserError(
            f"Expected labels separated by commas, a file with one per line, or "
            f"{', '.join(LABEL_SETS)}, got {str(labels)!r}.",
            param="labels",
        )
    named = [" ".join(each.split()) for each in (text or words).split(",")]
    return _vocabulary(check_labels(named))


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of labels, or the labels in a JSON list or a table."""
    from clip2clap.embeddings.datasets.readers import is_table, open_text

    found = _listed(path) if is_table(path) else None
    if found is None:
        with open_text(path, newline="") as file:
            found = file.read().splitlines()
    for label in found:
        if not is_utf8(label):
            raise UserError(
                f"{path} is not valid UTF-8: {label!a}. Save it as UTF-8.", param="labels"
            )
    return found


def _listed(path: Path) -> list[str] | None:
    """Return the labels in a JSON list or a table; None for a file of lines."""
    from clip2clap.embeddings.datasets.base import caption_of
    from clip2clap.embeddings.datasets.readers import PROBLEM, open_text, read_table

    suffix, text = path.suffix.lower(), ""
    if suffix in (".json", ".csv", ".tsv"):
        with open_text(path, newline="") as file:
            text = file.read()
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(text) if suffix == ".json" else None
        if isinstance(values, list) and all(isinstance(each, str) for each in values):
            return values
    columns, records = read_table(path)
    names = {column.strip().lower(): column for column in columns}
    known = [names[name] for name in _COLUMNS if name in names]
    if not known and suffix in (".csv", ".tsv") and not re.match(r".*[,;\t]", text):
        return None
    rows = list(records) if known else []
    for row in rows:
        if PROBLEM in row:
            raise UserError(f"{path} has a damaged row: {row[PROBLEM]}.", param="labels")
    for column in known:
        labels = [caption_of(row.get(column)) or "" for row in rows]
        if not all(label.strip().isdecimal() for label in labels):  # numbers of classes
            return labels
    raise UserError(
        f"{path} has the columns {one_line(', '.join(columns)) or '(none)'}: expected labels in "
        f"{', '.join(_COLUMNS[:-1])} or {_COLUMNS[-1]}, a JSON list of them, or one per line in a "
        ".txt file.",
        param="labels",
    )


def _vocabulary(lines: Iterable[str]) -> Vocabulary:
    """Return the label and the texts in each line, the label itself where there are none."""
    found: Vocabulary = {}
    for line in lines:
        label, *texts = (each.strip() for each in line.split(_SEPARATOR))
        if label:
            found.setdefault(label, [each for each in texts if each] or [label])
    return found


def _imagenet() -> list[str]:
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    except ImportError as error:
        raise MissingExtraError(
            "The names of ImageNet's classes come with open_clip: pip install "
            "'clip2clap[open-clip]'."
        ) from error
    return list(dict.fromkeys(IMAGENET_CLASSNAMES))
