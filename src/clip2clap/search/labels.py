"""Sets of labels: the classes of data sets, texts and files."""

import json
from collections.abc import Sequence
from pathlib import Path

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.core.files import as_path
from clip2clap.core.presets import DEMO_FOLDER

_ESC50 = """dog, rooster, pig, cow, frog, cat, hen, insects, sheep, crow, rain, sea waves, crackling
fire, crickets, chirping birds, water drops, wind, pouring water, toilet flush, thunderstorm,
crying baby, sneezing, clapping, breathing, coughing, footsteps, laughing, brushing teeth, snoring,
drinking sipping, door wood knock, mouse click, keyboard typing, door wood creaks, can opening,
washing machine, vacuum cleaner, clock alarm, clock tick, glass breaking, helicopter, chainsaw,
siren, car horn, engine, train, church bells, airplane, fireworks, hand saw"""
_US8K = """air conditioner, car horn, children playing, dog bark, drilling, engine idling, gun shot,
jackhammer, siren, street music"""

LABEL_SETS = ("demo", "esc50", "us8k", "imagenet")
"""Names of the label sets."""


def read_labels(labels: str | Path | Sequence[str]) -> list[str]:
    """Return the labels that a name, a file or a list names.

    Args:
        labels: `"demo"`, the 23 classes of the demo models; `"esc50"` (Piczak 2015), `"us8k"`
            (UrbanSound8K, Salamon et al. 2014) or `"imagenet"` (the 998 distinct names of the 1,000
            classes in Radford et al. 2021, which need the `open-clip` extra); a text file with one
            label per line; labels separated by commas; or a list of labels.

    Raises:
        UserError: If there are no labels, or a file cannot be read.
        MissingExtraError: If open_clip is not installed.

    Examples:
        >>> read_labels("dog, rain")
        ['dog', 'rain']
        >>> len(read_labels("esc50"))
        50
    """
    if not isinstance(labels, str | Path):
        return list(labels)
    if labels == "demo":
        return json.loads((DEMO_FOLDER / "kinds.json").read_text(encoding="utf-8"))["kinds"]
    if labels == "imagenet":
        return _imagenet()
    # A path is that of a file, whatever its name.
    words = labels if isinstance(labels, str) else ""
    text = {"esc50": _ESC50, "us8k": _US8K}.get(words)
    path = as_path(labels)
    if text is None and path.is_file():
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if not found:
            raise UserError(f"{labels} has no labels. Write one per line.", param="labels")
        return found
    if text is None and "," not in words:
        raise UserError(
            f"Expected labels separated by commas, a file with one per line, or "
            f"{', '.join(LABEL_SETS)}, got {str(labels)!r}.",
            param="labels",
        )
    return [" ".join(each.split()) for each in (text or words).split(",")]


def _imagenet() -> list[str]:
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    except ImportError as error:
        raise MissingExtraError(
            "The names of ImageNet's classes come with open_clip: pip install "
            "'clip2clap[open-clip]'."
        ) from error
    return list(dict.fromkeys(IMAGENET_CLASSNAMES))
