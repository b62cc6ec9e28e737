"""Small translators and their inputs."""

from pathlib import Path

import torch
from torch import Tensor

from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator
from clip2clap.translator.residual import ResidualTranslator
from clip2clap.translator.saving import Provenance

FORMAT_1 = Path(__file__).parents[1] / "checkpoints" / "format_1"


CLIP = EmbeddingSpace("clip", "some/clip", "text", 8, True, "c11p")


CLAP = EmbeddingSpace("clap", "some/clap", "text", 6, True, "c1a9")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embeds(n: int = 5, dim: int = 8) -> Tensor:
    return torch.randn(n, dim, generator=seeded(1))


def mlp() -> MLPTranslator:
    translator = MLPTranslator(8, 6, hidden_size=16, provenance=Provenance(CLIP, CLAP))
    translator.initialize(seeded())
    return translator.eval()


def linear() -> LinearTranslator:
    return LinearTranslator(8, 6, provenance=Provenance(CLIP, CLAP)).eval()


def residual() -> ResidualTranslator:
    translator = ResidualTranslator(8, 6, hidden_size=16, provenance=Provenance(CLIP, CLAP))
    translator.initialize(seeded())
    return translator.eval()


def prior() -> PriorTranslator:
    translator = PriorTranslator(8, 6, hidden_size=16, provenance=Provenance(CLIP, CLAP))
    translator.initialize(seeded())
    return translator.eval()


KINDS = (mlp, linear, residual, prior)


def weights_of(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model.safetensors"
