"""Maps from one embedding space to another."""

from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import read_config
from clip2clap.translator.linear import (
    LinearFitter,
    LinearTranslator,
    fit_procrustes,
    fit_ridge,
)
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator
from clip2clap.translator.residual import ResidualTranslator

__all__ = [
    "AutoTranslator",
    "LinearFitter",
    "LinearTranslator",
    "MLPTranslator",
    "PriorTranslator",
    "ResidualTranslator",
    "Translator",
    "fit_procrustes",
    "fit_ridge",
    "read_config",
]
