"""Registry of backends: one module per library, imported when a checkpoint needs it."""

from clip2clap.embeddings.backends.base import CheckpointSpec
from clip2clap.embeddings.checkpoint import Checkpoint
from clip2clap.embeddings.space import Family


def read_spec(checkpoint: Checkpoint, family: Family) -> CheckpointSpec:
    """Read a checkpoint's metadata with the library that loads it.

    Args:
        checkpoint: Files of the model.
        family: Expected family.

    Returns:
        The spec, from which the model can be built.

    Raises:
        CheckpointError: If a file is damaged, or the model is not of that family.
        MissingExtraError: If the library is not installed.
    """
    if checkpoint.library == "open_clip":
        from clip2clap.embeddings.backends.open_clip import OpenClipSpec as Spec
    elif checkpoint.library == "laion_clap":
        from clip2clap.embeddings.backends.laion_clap import LaionClapSpec as Spec
    else:
        from clip2clap.embeddings.backends.transformers import TransformersSpec as Spec
    return Spec(checkpoint, family)
