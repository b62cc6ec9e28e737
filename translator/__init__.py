"""Maps from one embedding space to another."""

from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator, normalise
from clip2clap.translator.checkpoint import read_config
from clip2clap.translator.linear import LinearTranslator, fit_procrustes, fit_ridge
from clip2clap.translator.mlp import MLPTranslator

__all__ = [
    "AutoTranslator",
    "LinearTranslator",
    "MLPTranslator",
    "Translator",
    "fit_procrustes",
    "fit_ridge",
    "normalise",
    "read_config",
]
