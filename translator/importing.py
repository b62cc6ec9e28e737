"""Import of translators from state dicts of PyTorch."""

from pathlib import Path

from torch import Tensor

from clip2clap.core.errors import CheckpointError
from clip2clap.core.files import as_path
from clip2clap.embeddings.fingerprint import load_legacy_weights
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance

_PLACES = (0, 2, 4)


def import_state_dict(path: str | Path, provenance: Provenance | None = None) -> MLPTranslator:
    """Read a perceptron with two hidden layers from a `.pth` or `.pt` file, without unpickling.

    Layers are taken in the order of the file, whatever their names: Linear, ReLU, Linear, ReLU,
    Linear, between unit spheres.

    Args:
        path: State dict, or a file that has one under `state_dict`.
        provenance: Spaces and facts that the file does not have.

    Raises:
        UserError: If the file cannot be read as plain weights, or is no such network.
    """
    file = as_path(path)
    if not file.is_file():
        raise CheckpointError(f"There is no file {path}.", param="file")
    weights = load_legacy_weights(file)
    layers = [name.removesuffix(".weight") for name, w in weights.items() if w.ndim == 2]
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    if len(layers) != len(_PLACES) or set(names) != set(weights) or not _fits(weights, layers):
        found = ", ".join(f"{name} {tuple(w.shape)}" for name, w in list(weights.items())[:8])
        raise CheckpointError(
            f"{path} is no perceptron with two hidden layers of one width: expected three "
            f"matrices with biases, got {found or 'no weights'}.",
            param="file",
        )
    hidden_size, source_dim = weights[f"{layers[0]}.weight"].shape
    target_dim = len(weights[f"{layers[2]}.weight"])
    translator = MLPTranslator(source_dim, target_dim, hidden_size, provenance=provenance)
    translator.load_state_dict(
        {
            f"layers.{place}.{part}": weights[f"{layer}.{part}"].float()
            for place, layer in zip(_PLACES, layers, strict=True)
            for part in ("weight", "bias")
        }
    )
    return translator.eval()


def _fits(weights: dict[str, Tensor], layers: list[str]) -> bool:
    """Return True if each layer has the inputs that the one before gives, and a bias."""
    sizes = [tuple(weights[f"{layer}.weight"].shape) for layer in layers]
    biases = [tuple(weights[f"{layer}.bias"].shape) for layer in layers]
    is_chain = sizes[1] == (sizes[0][0], sizes[0][0]) and sizes[2][1] == sizes[0][0]
    return is_chain and biases == [(rows,) for rows, _ in sizes]
