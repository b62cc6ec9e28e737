"""Documentation of dataclass fields: the one place where an option is described."""

import ast
import inspect
import textwrap


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a class, on one line, by the field's name.

    Args:
        cls: Class whose source is on disk, such as a config dataclass.

    Examples:
        >>> from clip2clap.core.fields import field_docs
        >>> from clip2clap.training import TrainingConfig
        >>> field_docs(TrainingConfig)["blocks"]
        'Number of residual blocks.'
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(doc.value.value.split())
        for field, doc in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }
