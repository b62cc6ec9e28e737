"""Train a translator on pairs, stop when it no longer gets better, and measure it."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.batches import Batches, generator_for
from clip2clap.training.config import TrainingConfig
from clip2clap.training.losses import TranslationLoss, distinct_targets
from clip2clap.training.pairs import MOST_MONITORED, Pairs, Split, read_pairs, split_pairs, thin_out
from clip2clap.training.prior_loss import prior_loss
from clip2clap.training.report import TrainingProgress, TrainingReport
from clip2clap.training.run_folder import RunFolder
from clip2clap.training.trainer_state import (
    TrainerState,
    computes_in_bf16,
    held_out_loss,
    learning_rate_at,
)
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator
from clip2clap.translator.linear import LinearFitter, LinearTranslator
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator
from clip2clap.translator.residual import ResidualTranslator

OnProgress = Callable[[TrainingProgress], None]

# Unit vectors and thousands of pairs: below the first ridge hardly shrinks, above the last it is
# little more than the mean.
_ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)

_NETWORKS: dict[str, "type[Network]"] = {
    "mlp": MLPTranslator,
    "residual": ResidualTranslator,
    "prior": PriorTranslator,
}

# A large table is gone through so many rows at a time.
_ROWS = 8_192


def train(
    table: str | Path | EmbeddingTable | Pairs,
    output: str | Path,
    config: TrainingConfig | None = None,
    *,
    device: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 10.0,
    on_progress: OnProgress | None = None,
) -> TrainingReport:
    """Train a translator, write it into a folder, and report.

    A run that was killed continues where its last checkpoint stands and ends with the weights it
    would have had; one that was finished is not repeated.

    Args:
        table: An embedding table or its folder; or pairs.
        output: The translator's folder: `config.json`, one safetensors file, and `training.json`.
        config: Settings; the defaults if None.
        device: Such as `cpu` or `cuda`; accelerate's choice if None.
        overwrite: Whether a translator or run with other settings in `output` may be replaced.
        checkpoint_seconds: How often the state is written, at the end of an epoch.
        on_progress: Called after every step.

    Returns:
        Loss curves, held-out figures and controls.

    Raises:
        UserError: If the table lacks a column, can't be split, or holds vectors without direction;
            if `output` holds something else; if the device isn't there; if training diverges.
    """
    _, report = _train(
        table,
        config or TrainingConfig(),
        output=Path(output),
        device=device,
        overwrite=overwrite,
        checkpoint_seconds=checkpoint_seconds,
        on_progress=on_progress,
    )
    return report


def train_translator(
    table: str | Path | EmbeddingTable | Pairs,
    config: TrainingConfig | None = None,
    *,
    output_dir: str | Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 10.0,
    on_progress: OnProgress | None = None,
) -> Translator:
    """Train a translator and give it back; as `train`, but a folder isn't needed.

    Args:
        table: An embedding table or its folder; or pairs.
        config: Settings; the defaults if None.
        output_dir: Where to write it, and the checkpoints of the run; nothing is written if None.
        device: Such as `cpu` or `cuda`; accelerate's choice if None.
        overwrite: Whether a translator or run with other settings there may be replaced.
        checkpoint_seconds: How often the state is written, at the end of an epoch.
        on_progress: Called after every step.

    Returns:
        The translator of the best epoch, on the CPU, in evaluation mode; its config holds both
        spaces, the recipe and the held-out figures.

    Raises:
        UserError: As in `train`.
    """
    translator, _ = _train(
        table,
        config or TrainingConfig(),
        output=None if output_dir is None else Path(output_dir),
        device=device,
        overwrite=overwrite,
        checkpoint_seconds=checkpoint_seconds,
        on_progress=on_progress,
    )
    return translator


def _train(
    table: str | Path | EmbeddingTable | Pairs,
    config: TrainingConfig,
    *,
    output: Path | None,
    device: str | None,
    overwrite: bool,
    checkpoint_seconds: float,
    on_progress: OnProgress | None,
) -> tuple[Translator, TrainingReport]:
    started = time.monotonic()
    pairs = table if isinstance(table, Pairs) else read_pairs(table, config)
    split = split_pairs(pairs, validation=config.validation, seed=config.seed)
    data = pairs.fingerprint()
    folder = None
    if output is not None:
        folder = RunFolder(output, settings=asdict(config), data=data, overwrite=overwrite)
        if (report := folder.finished()) is not None:
            return AutoTranslator.from_pretrained(output), report
    settled = config.resolved(len(split.train), pairs.source_space)
    course: TrainerState | None = None
    resumed_after: int | None = None
    if config.architecture in _NETWORKS:
        run = _Run(pairs, split, settled, _device(device), folder)
        run.to_the_end(checkpoint_seconds, on_progress)
        translator, recipe = run.best_translator(), run.recipe()
        course, resumed_after = run.course, run.resumed_after
        started -= run.earlier_seconds
    else:
        translator, recipe = _fit(pairs, split, settled)
    report = finish(
        translator,
        recipe,
        pairs,
        split,
        config,
        data=data,
        course=course,
        output=output,
        resumed_after=resumed_after,
        seconds=time.monotonic() - started,
    )
    if folder is not None:
        folder.publish(translator, report)
    return translator, report


def finish(
    translator: Translator,
    recipe: dict[str, Any],
    pairs: Pairs,
    split: Split,
    config: TrainingConfig,
    *,
    data: str,
    course: TrainerState | None,
    output: Path | None,
    resumed_after: int | None,
    seconds: float,
) -> TrainingReport:
    """Measure a trained translator, write all facts into its config, and report.

    Args:
        translator: On the CPU, in evaluation mode.
        recipe: What made it.
        pairs: What it was trained on, with what was held out.
        split: Which is which.
        config: The settings as the user gave them.
        data: Fingerprint of the pairs.
        course: The figures of every epoch; None for a closed-form fit.
        output: The translator's folder, if there is one.
        resumed_after: The epoch after which a killed run was taken up.
        seconds: Spent on training.
    """
    measured_on: Literal["validation", "test"] = "test" if len(split.test) else "validation"
    figures = _measure(translator, pairs, split, measured_on, config.seed)
    translator.record(
        source_space=pairs.source_space,
        target_space=pairs.target_space,
        recipe={
            **recipe,
            "source_column": pairs.source_column,
            "target_column": pairs.target_column,
            "pairs": len(split.train),
            "seed": config.seed,
        },
        data=data,
        metrics={
            "measured_on": measured_on,
            **figures["metrics"],
            "shuffled_pairs": figures["shuffled_pairs"],
            "mean_vector": figures["mean_vector"],
        },
    )
    history = [] if course is None else course.history
    return TrainingReport(
        output=None if output is None else str(output),
        settings=asdict(config),
        data=data,
        source_column=pairs.source_column,
        target_column=pairs.target_column,
        pairs={name: len(rows) for name, rows in vars(split).items()},
        monitor=config.monitor,
        history=history,
        best_epoch=None if course is None else course.best_epoch,
        stopped_early=bool(history) and len(history) < config.epochs,
        resumed_after=resumed_after,
        seconds=seconds,
        measured_on=measured_on,
        **figures,
    )


class _Run:
    """The state of a network's training, which a checkpoint holds whole."""

    def __init__(
        self,
        pairs: Pairs,
        split: Split,
        config: TrainingConfig,
        device: torch.device,
        folder: RunFolder | None,
    ):
        self.config, self.device, self.folder = config, device, folder
        assert config.batch_size is not None
        self.batches = Batches(
            pairs, split.train, batch_size=config.batch_size, seed=config.seed, device=device
        )
        self.network = new_network(pairs, split, config, self.batches).to(device)
        self.loss = new_loss(config).to(device)
        self.bank = self.batches.bank() if self.loss.needs_bank else None
        self.optimizer = torch.optim.Adam(
            [*self.network.parameters(), *self.loss.parameters()],
            lr=learning_rate_at(config, 0, config.epochs * self.batches.steps),
            fused=device.type in ("cpu", "cuda"),
        )
        self.held_out = HeldOut(pairs, split, self.loss.needs_bank, device)
        self.course = TrainerState(config)
        self.earlier_seconds = 0.0
        self.resumed_after: int | None = None
        if folder is not None and (checkpoint := folder.load()) is not None:
            self._restore(*checkpoint)

    def to_the_end(self, checkpoint_seconds: float, on_progress: OnProgress | None) -> None:
        """Train until the epochs or the patience run out."""
        started = written = time.monotonic()
        while not self.course.is_over:
            # Dropout draws from torch's own generators: they start alike in every such epoch.
            with torch.random.fork_rng():
                torch.manual_seed(self.config.seed + len(self.course.history))
                self._epoch(on_progress)
            self.course.keep_if_best(self.network.state_dict)
            self.course.seconds = self.earlier_seconds + time.monotonic() - started
            if self.folder is not None and time.monotonic() - written >= checkpoint_seconds:
                self._save(self.folder)
                written = time.monotonic()

    def best_translator(self) -> Translator:
        """Give the translator of the best epoch, on the CPU."""
        best = self.network.to("cpu")
        best.load_state_dict(self.course.best_weights)
        return best.eval()

    def recipe(self) -> dict[str, Any]:
        """Give what made the translator, for its config."""
        return recipe_of(self.config, self.course, self.loss.temperatures)

    def _epoch(self, on_progress: OnProgress | None) -> None:
        config, course, batches = self.config, self.course, self.batches
        self.network.train()
        number = len(course.history) + 1
        total, pairs = torch.zeros((), device=self.device), 0
        noise = generator_for("noise", config.seed, number)
        last, best = (course.history[-1] if course.history else None), course.best
        for step, (source, target) in enumerate(batches.epoch(number), start=1):
            at = (number - 1) * batches.steps + step - 1
            rate = learning_rate_at(config, at, config.epochs * batches.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self._loss(source, target, noise)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.loss.keep_scale_in_bounds()
            total += loss.detach() * len(source)
            pairs += len(source)
            if on_progress is not None:
                on_progress(
                    TrainingProgress(
                        epoch=number,
                        epochs=config.epochs,
                        step=step,
                        steps=batches.steps,
                        last=last,
                        best=best,
                    )
                )
        self.network.eval()
        with torch.no_grad():
            figures = self._held_out_figures()
        course.add(total.item() / pairs, *figures)

    def _loss(self, source: Tensor, target: Tensor, noise: torch.Generator) -> Tensor:
        if not isinstance(self.network, PriorTranslator):
            return self.loss(self._predict(source, noise), target, self.bank)
        prepared = self._prepare(source, noise)
        share = self.config.condition_dropout
        return prior_loss(self.network, prepared, target, condition_dropout=share, generator=noise)

    def _held_out_figures(self) -> tuple[float, dict[str, float]]:
        held_out = self.held_out
        if not isinstance(self.network, PriorTranslator):
            predicted = self._predict(held_out.source, None)
            return held_out.figures(predicted, self.loss, self.batches.batch_size)
        # The same noise after every epoch, so that the figures can be compared.
        loss = prior_loss(
            self.network,
            self.network.prepare(held_out.source),
            held_out.target,
            condition_dropout=0.0,
            generator=generator_for("noise", self.config.seed, 0),
        )
        if not bool(loss.isfinite()):
            return float("nan"), {}
        return loss.item(), retrieval_metrics(self.network(held_out.source), held_out.target)

    def _prepare(self, source: Tensor, noise: torch.Generator | None) -> Tensor:
        prepared = self.network.prepare(source)
        if noise is not None and self.config.noise:
            prepared = add_noise(prepared, self.config.noise, noise)
        return prepared

    def _predict(self, source: Tensor, noise: torch.Generator | None) -> Tensor:
        """Translate unit vectors, with noise on them while training."""
        prepared = self._prepare(source, noise)
        bf16 = computes_in_bf16(self.config, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            translated = self.network.translate(prepared)
        return self.network.finish(translated)

    def _save(self, folder: RunFolder) -> None:
        parts = {
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "best": self.course.best_weights,
            **{
                f"adam.{index}": moments
                for index, moments in self.optimizer.state_dict()["state"].items()
            },
        }
        folder.save(
            {f"{part}/{key}": t for part, values in parts.items() for key, t in values.items()},
            self.course.state(),
        )

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, key = name.split("/", 1)
            parts.setdefault(part, {})[key] = tensor
        self.network.load_state_dict(parts["network"])
        self.loss.load_state_dict(parts.get("loss", {}))
        moments = {
            int(part.removeprefix("adam.")): values
            for part, values in parts.items()
            if part.startswith("adam.")
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.course.restore(state, parts["best"])
        self.earlier_seconds = self.course.seconds
        self.resumed_after = len(self.course.history)


class HeldOut:
    """The held-out pairs that tell after every epoch how good a network is.

    Args:
        pairs: All pairs.
        split: Which of them are held out.
        with_bank: Whether a loss needs the bank of their distinct targets.
        device: Where the network is.
    """

    def __init__(self, pairs: Pairs, split: Split, with_bank: bool, device: torch.device):
        rows = thin_out(split.validation, MOST_MONITORED)
        self.source = unit_norm(pairs.source[rows].to(device))
        self.target = unit_norm(pairs.target[rows].to(device))
        self.bank = distinct_targets(self.target) if with_bank else None

    def figures(
        self, predicted: Tensor, loss: TranslationLoss, batch_size: int
    ) -> tuple[float, dict[str, float]]:
        """Give the loss and what `retrieval_metrics` gives.

        Args:
            predicted: What the network makes of `source`, shape (n, d).
            loss: Its loss.
            batch_size: Pairs a step in training, on which some losses depend.
        """
        if not bool(predicted.isfinite().all()):
            return float("nan"), {}
        value = held_out_loss(loss, predicted, self.target, self.bank, batch_size)
        return value, retrieval_metrics(predicted, self.target)


Network = MLPTranslator | ResidualTranslator | PriorTranslator


def new_network(pairs: Pairs, split: Split, config: TrainingConfig, batches: Batches) -> Network:
    """Make the network that training begins with, on the CPU.

    Args:
        pairs: What it is to translate.
        split: Which of them are held out.
        config: The run's settings, resolved.
        batches: What it is to be trained on.

    Raises:
        UserError: If the translator to go on from is of another kind, or for other spaces.
    """
    dims = pairs.source.shape[1], pairs.target.shape[1]
    if config.init_from is not None:
        network = AutoTranslator.from_pretrained(config.init_from)
        kind = _NETWORKS[config.architecture]
        if not isinstance(network, kind):
            raise UserError(
                f"{config.init_from} is a {type(network).__name__}, and the model to go on with is "
                f"{config.architecture}, a {kind.__name__}. Give another one of the two."
            )
        if (network.source_dim, network.target_dim) != dims:
            raise UserError(
                f"{config.init_from} maps {network.source_dim} values to {network.target_dim}, the "
                f"pairs {dims[0]} to {dims[1]}. Give one that was trained on the same encoders."
            )
        if pairs.source_space is not None:
            network.check_source(pairs.source_space)
        if pairs.target_space is not None:
            network.check_target(pairs.target_space)
        return network.float()
    shape: dict[str, Any] = {"hidden_size": config.hidden_size, "centered": bool(config.center)}
    if config.architecture in ("residual", "prior"):
        shape |= {"blocks": config.blocks, "dropout": config.dropout}
    if config.architecture == "prior":
        shape["default_guidance_scale"] = config.prior_guidance_scale
    network = _NETWORKS[config.architecture](*dims, **shape)
    network.initialize(torch.Generator().manual_seed(config.seed))
    if config.center:
        network.center(*batches.means())
    if isinstance(network, PriorTranslator):
        mean, covariance = batches.target_moments()
        if network.target_mean is not None:
            mean = mean - network.target_mean
        network.fit_whitening(mean, covariance)
    if config.init == "ridge":
        assert isinstance(network, MLPTranslator)
        _start_as_ridge(network, pairs, split, config, batches)
    return network


@torch.no_grad()
def _start_as_ridge(
    network: MLPTranslator, pairs: Pairs, split: Split, config: TrainingConfig, batches: Batches
) -> None:
    """Give a perceptron the weights with which it is a linear map: the best that it can hold."""
    fitter = LinearFitter()
    for source, target in batches.in_order():
        fitter.update(network.prepare(source.cpu()), target.cpu())
    held_out = thin_out(split.validation)
    source, target = network.prepare(unit_norm(pairs.source[held_out])), pairs.target[held_out]
    linear = _best_ridge(fitter, source, target, config, rank=config.hidden_size // 2)
    if network.target_mean is not None:
        # The network adds it at the end.
        linear.linear.bias.sub_(network.target_mean)
    network.start_as(linear)


def new_loss(config: TrainingConfig) -> TranslationLoss:
    """Make a run's loss."""
    return TranslationLoss(
        config.loss, temperature=config.temperature, learn_temperature=config.learn_temperature
    )


def add_noise(units: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise to unit vectors, and scale to unit norm again, as CapDec does.

    Args:
        units: Shape (n, d), unit norm.
        deviation: Standard deviation of the noise on each value.
        generator: On the CPU.

    Returns:
        Shape (n, d), unit norm.
    """
    drawn = torch.randn(units.shape, generator=generator).to(units.device)
    return unit_norm(units + deviation * drawn)


def recipe_of(
    config: TrainingConfig, course: TrainerState, temperatures: dict[str, float]
) -> dict[str, Any]:
    """Give what made a network, for its config.

    Args:
        config: The run's settings, resolved.
        course: How it went.
        temperatures: Of the terms of the loss, as they ended.
    """
    return {
        "method": config.architecture,
        "loss": config.loss,
        "temperature": next(iter(temperatures.values()), None),
        **({"temperatures": temperatures} if len(temperatures) > 1 else {}),
        "learn_temperature": config.learn_temperature,
        "init": config.init,
        "noise": config.noise,
        "center": bool(config.center),
        "init_from": config.init_from,
        "optimizer": "adam",
        "learning_rate": config.learning_rate,
        "schedule": config.schedule,
        "warmup": config.warmup,
        "precision": config.precision,
        "batch_size": config.batch_size,
        "epochs": len(course.history),
        "best_epoch": course.best_epoch,
        "monitor": config.monitor,
    }


def _fit(pairs: Pairs, split: Split, config: TrainingConfig) -> tuple[Translator, dict[str, Any]]:
    """Fit a linear translator; ridge's penalty is the best of several on held-out pairs."""
    fitter = LinearFitter()
    for rows in split.train.split(_ROWS):
        fitter.update(pairs.source[rows], pairs.target[rows])
    options = {"center": bool(config.center), "scale": config.scale}
    if config.architecture == "procrustes":
        fitted = fitter.procrustes(**options)
    else:
        held_out = thin_out(split.validation)
        source, target = pairs.source[held_out], pairs.target[held_out]
        fitted = _best_ridge(fitter, source, target, config, **options)
    return fitted, dict(fitted.config["recipe"])


def _best_ridge(
    fitter: LinearFitter, source: Tensor, target: Tensor, config: TrainingConfig, **options: Any
) -> LinearTranslator:
    """Fit ridge with the penalty that is best on held-out pairs, if none is given."""
    alphas = _ALPHAS if config.alpha is None else (config.alpha,)
    noise = config.noise or 0.0
    candidates = [fitter.ridge(alpha=alpha, noise=noise, **options) for alpha in alphas]
    if len(candidates) == 1:
        return candidates[0]

    def score(candidate: Translator) -> tuple[float, float]:
        figures = retrieval_metrics(_predict(candidate, source), target)
        return figures[config.monitor], figures["cosine"]

    return max(candidates, key=score)


@torch.no_grad()
def _measure(
    translator: Translator,
    pairs: Pairs,
    split: Split,
    measured_on: Literal["validation", "test"],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Measure the translator beside what chance and a constant answer give."""
    rows = thin_out(split.test if measured_on == "test" else split.validation)
    target = pairs.target[rows]
    predicted = _predict(translator, pairs.source[rows])
    # A random cycle through all rows, so that each gets another's target.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    mean = torch.zeros(target.shape[1])
    for part in split.train.split(_ROWS):
        mean += unit_norm(pairs.target[part]).sum(0)
    return {
        "metrics": retrieval_metrics(predicted, target),
        "shuffled_pairs": retrieval_metrics(predicted, target[other]),
        "mean_vector": retrieval_metrics(mean.expand(len(rows), -1), target),
    }


@torch.no_grad()
def _predict(translator: Translator, source: Tensor) -> Tensor:
    return torch.cat([translator(part) for part in source.split(1024)])


def _device(name: str | None) -> torch.device:
    """Find the device to train on.

    Raises:
        UserError: If it isn't there, or several processes were started.
    """
    if name is not None:
        try:
            name = torch.device(name).type
        except RuntimeError as error:
            raise UserError(f"Expected a device such as cpu or cuda, got {name!r}.") from error
    accelerator = Accelerator(cpu=name == "cpu")
    if name is not None and accelerator.device.type != name:
        raise UserError(
            f"Asked to train on {name}, but this machine offers {accelerator.device.type}."
        )
    if accelerator.num_processes > 1:
        raise UserError(
            "A translator is trained in one process: it is too small for more to be faster. Start "
            "it without `accelerate launch`; a sweep is spread over processes."
        )
    return accelerator.device
