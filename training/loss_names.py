"""Names of the training losses, and weighted sums of them. Imports no torch."""

import math
from typing import Literal, cast, get_args

from clip2clap.core.errors import UserError

LossName = Literal["cosine", "mse", "contrastive", "infonce", "bank"]

DEFAULT_TEMPERATURES: dict[LossName, float] = {"contrastive": 0.5, "infonce": 0.07, "bank": 0.07}


def parse_loss(spec: str) -> dict[LossName, float]:
    """Return the weight of every term of a loss, such as `cosine` or `cosine:1+contrastive:0.1`.

    Args:
        spec: Names joined by `+`, each with `:` and its weight, which is 1 if left out.

    Raises:
        UserError: If there is no such loss, one is named twice, or a weight is not positive.
    """
    terms: dict[LossName, float] = {}
    for part in str(spec).split("+"):
        name, colon, number = part.strip().partition(":")
        if name not in get_args(LossName):
            names = ", ".join(get_args(LossName))
            raise UserError(
                f"Expected loss to be one of {names}, or a sum such as cosine:1+contrastive:0.1, "
                f"got {spec!r}.",
                param="loss",
            )
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UserError(
                f"Expected a positive weight after {name}:, got {number!r}.", param="loss"
            )
        if name in terms:
            raise UserError(f"The loss {spec!r} names {name} twice.", param="loss")
        terms[cast(LossName, name)] = weight
    return terms


def check_loss(name: str, *, temperature: float | None, learn_temperature: bool) -> None:
    """Raise an error for an unknown loss, or a temperature that it does not have.

    Raises:
        UserError: If the loss is unknown, or the temperature is invalid or not part of it.
    """
    has_temperature = any(term in DEFAULT_TEMPERATURES for term in parse_loss(name))
    if temperature is not None and not 0 < temperature < math.inf:
        raise UserError(f"Expected a positive temperature, got {temperature!r}.")
    if not has_temperature and (temperature is not None or learn_temperature):
        raise UserError(f"The {name} loss has no temperature: leave it out.", param="temperature")
