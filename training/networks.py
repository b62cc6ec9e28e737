"""Networks as training starts them, and linear maps that are fitted in closed form."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError, with_article
from clip2clap.core.math import unit_norm
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.batches import Batches
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.training.splits import TrainingData, thin_out
from clip2clap.training.unpaired import MOST_ROWS
from clip2clap.training.validation import predict
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator
from clip2clap.translator.linear import LinearFitter, LinearTranslator
from clip2clap.translator.unpaired import fit_unpaired

# For unit vectors and thousands of pairs: ridge barely shrinks below the first, and
# predicts little but the mean above the last.
_ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)
_ROWS = 8_192

NETWORKS = {"mlp": "MLPTranslator", "residual": "ResidualTranslator", "prior": "PriorTranslator"}
"""Class of each architecture that is trained step by step."""


def new_network(data: TrainingData, config: TrainingConfig, batches: Batches) -> Any:
    """Return the network that training starts from, on the CPU.

    Raises:
        UserError: If the translator to continue from is of another class, or for other spaces.
    """
    dims = data.pairs.source.shape[1], data.pairs.target.shape[1]
    name = NETWORKS[config.architecture]
    if config.init_from is not None:
        return _continued(config.init_from, name, data.pairs)
    cls: Any = getattr(import_module(f"clip2clap.translator.{config.architecture}"), name)
    options = {
        "hidden_size": config.hidden_size,
        "blocks": config.blocks,
        "dropout": config.dropout,
        "centered": bool(config.center),
        "default_guidance_scale": config.prior_guidance_scale,
    }
    known = inspect.signature(cls).parameters
    chosen = {key: value for key, value in options.items() if key in known}
    network = cls(*dims, **chosen).float()
    network.initialize(torch.Generator().manual_seed(config.seed))
    if config.center:
        network.center(*batches.means())
    if network.objective == "diffusion":
        mean, covariance = batches.target_moments()
        if network.target_mean is not None:
            mean = mean - network.target_mean
        network.fit_whitening(mean, covariance)
    if config.init == "ridge":
        _start_as_ridge(network, data, config, batches)
    return network


def fit_closed_form(
    data: TrainingData, config: TrainingConfig
) -> tuple[Translator, dict[str, Any]]:
    """Fit a linear map to the training pairs; return the translator and its recipe."""
    if config.architecture == "unpaired":
        fitted = fit_unpaired(*_unpaired_sides(data, config.seed), seed=config.seed)
        return fitted, dict(fitted.provenance.recipe or {})
    fitter = LinearFitter()
    for rows in data.split.train.split(_ROWS):
        fitter.update(data.pairs.source[rows], data.pairs.target[rows])
    options = {"center": bool(config.center), "scale": config.scale, "rank": config.rank}
    if config.architecture == "procrustes":
        fitted = fitter.procrustes(**options)
    else:
        fitted = _best_ridge(fitter, data, config, lambda source: source, **options)
    return fitted, dict(fitted.provenance.recipe or {})


def _unpaired_sides(data: TrainingData, seed: int) -> tuple[Tensor, Tensor]:
    """Return the source of one half of the training items, and the target of the other half."""
    rows = data.split.train
    all_items = data.pairs.items_or_rows()
    items = [all_items[int(row)] for row in rows]
    names = sorted(set(items))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    first = {names[index] for index in order[: len(names) // 2]}
    is_first = torch.tensor([item in first for item in items])
    sides = ((data.pairs.source, rows[is_first]), (data.pairs.target, rows[~is_first]))
    source, target = (side[thin_out(part, most=MOST_ROWS)] for side, part in sides)
    return source, target


def _continued(init_from: str, name: str, pairs: Pairs) -> Translator:
    dims = pairs.source.shape[1], pairs.target.shape[1]
    network = AutoTranslator.from_pretrained(init_from)
    if type(network).__name__ != name:
        raise UserError(
            f"{init_from} is {with_article(type(network).__name__)}, and the architecture to "
            f"continue with is {with_article(name)}. Give another one of the two.",
            param="init_from",
        )
    if (network.source_dim, network.target_dim) != dims:
        raise UserError(
            f"{init_from} maps {network.source_dim} values to {network.target_dim}, the pairs "
            f"{dims[0]} to {dims[1]}. Give one that was trained on the same encoders.",
            param="init_from",
        )
    network.check_source(pairs.source_space)
    network.check_target(pairs.target_space)
    return network


@torch.no_grad()
def _start_as_ridge(
    network: Any, data: TrainingData, config: TrainingConfig, batches: Batches
) -> None:
    """Set the weights of a perceptron to the best linear map that its width can hold."""
    fitter = LinearFitter()
    for source, target in batches.in_order():
        fitter.update(network.prepare(source.cpu()), target.cpu())
    rank = config.hidden_size // 2
    linear = _best_ridge(
        fitter, data, config, lambda source: network.prepare(unit_norm(source)), rank=rank
    )
    if network.target_mean is not None:
        # The network adds it at the end.
        linear.linear.bias.sub_(network.target_mean)
    network.start_as(linear)


def _best_ridge(
    fitter: LinearFitter,
    data: TrainingData,
    config: TrainingConfig,
    prepare: Callable[[Tensor], Tensor],
    **options: Any,
) -> LinearTranslator:
    """Fit ridge with the given penalty, or the best one on held-out pairs."""
    alphas = _ALPHAS if config.alpha is None else (config.alpha,)
    noise = config.noise or 0.0
    candidates = [fitter.ridge(alpha=alpha, noise=noise, **options) for alpha in alphas]
    if len(candidates) == 1:
        return candidates[0]
    rows = thin_out(data.split.validation)
    source, target = prepare(data.pairs.source[rows]), data.pairs.target[rows]

    def score(candidate: Translator) -> tuple[float, float]:
        metrics = retrieval_metrics(predict(candidate, source), target)
        return metrics[config.monitor], metrics["cosine"]

    return max(candidates, key=score)
