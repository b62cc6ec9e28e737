"""Templates that make prompts of captions and keywords. Imports no torch."""

import string
from collections.abc import Sequence

from clip2clap.core.errors import UserError

_FIELDS = ("caption", "keywords")


class PromptTemplate:
    """Template of a prompt with the fields `{caption}` and `{keywords}`.

    Args:
        template: Text around the fields, such as `"{caption}, {keywords}, oil painting"`.

    Raises:
        UserError: If it has another field or none.

    Examples:
        >>> from clip2clap.inference.prompts import PromptTemplate
        >>> template = PromptTemplate("{caption}, {keywords}, oil painting")
        >>> template("a dog barks", ["dog", "growling"])
        'a dog barks, dog, growling, oil painting'
        >>> template("", ["dog"])
        'dog, oil painting'
    """

    def __init__(self, template: str = "{caption}, {keywords}"):
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise UserError(
                f"{template!r} is no template: {error}.", param="prompt_template"
            ) from error
        fields = {name for _, name, *_ in parsed if name is not None}
        plain = all(not form and not conversion for _, _, form, conversion in parsed)
        if not fields or not fields <= set(_FIELDS) or not plain:
            raise UserError(
                f"Expected a template with {{caption}} or {{keywords}} and no other field, got "
                f"{template!r}.",
                param="prompt_template",
            )
        self.template = template
        self.has_caption, self.has_keywords = (name in fields for name in _FIELDS)

    def __call__(self, caption: str = "", keywords: Sequence[str] = ()) -> str:
        """Return the prompt; commas around a field that is empty are left out."""
        text = self.template.format(caption=caption, keywords=", ".join(keywords))
        return ", ".join(part for each in text.split(",") if (part := " ".join(each.split())))
