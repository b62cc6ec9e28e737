"""Check of labels. Imports no torch."""

from collections.abc import Sequence

from clip2clap.core.errors import UserError, expect


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return labels as a list.

    Raises:
        UserError: If there are none, or one is blank, no text or there twice.

    Examples:
        >>> check_labels(("dog", "rain"))
        ['dog', 'rain']
    """
    found = [] if isinstance(labels, str) else list(labels)
    texts = all(isinstance(label, str) and label.strip() for label in found)
    expect(found and texts, "labels", "a list of texts that are not blank", labels)
    twice = sorted({label for label in found if found.count(label) > 1})
    if twice:
        raise UserError(f"labels has {twice[0]!r} twice. Leave one out.", param="labels")
    return found
