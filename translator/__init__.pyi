from .auto import AutoTranslator
from .base import Translator
from .checkpoint import read_config
from .linear import LinearFitter, LinearTranslator, fit_procrustes, fit_ridge
from .mlp import MLPTranslator
from .prior import PriorTranslator
from .residual import ResidualTranslator
from .saving import Provenance
from .unpaired import fit_unpaired

__all__ = [
    "AutoTranslator",
    "LinearFitter",
    "LinearTranslator",
    "MLPTranslator",
    "PriorTranslator",
    "Provenance",
    "ResidualTranslator",
    "Translator",
    "fit_procrustes",
    "fit_ridge",
    "fit_unpaired",
    "read_config",
]
