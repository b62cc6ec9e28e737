"""Generation from batches of inputs, with one random generator per input."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.progress import Progress

from clip2clap.cli.inputs import Input
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.concurrency import read_ahead

# Share of a batch's time that its denoising steps take, until it is measured: the demo models', by
# benchmarks/candidates.py.
_STEPS_SHARE = 0.55


def call_arguments(pipeline: Any, options: Any) -> dict[str, Any]:
    """Return the arguments that calls of both pipelines have, with the defaults filled in."""
    config, scale, steps = pipeline.config, options.guidance_scale, options.num_inference_steps
    return {
        "negative_prompt": options.negative_prompt,
        "num_inference_steps": steps or config["default_num_inference_steps"],
        "guidance_scale": config["default_guidance_scale"] if scale is None else scale,
        "batch_size": options.batch_size or (1 if options.low_memory else 4),
    }


def pipeline_settings(pipeline: Any) -> dict[str, Any]:
    """Return the solver, number format and device of a pipeline for the report."""
    return {
        "scheduler": type(pipeline.scheduler).__name__,
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "device": str(pipeline._execution_device),
    }


def generate(
    pipeline: Any,
    batches: Iterable[list[Input]],
    calls: dict[str, Any],
    write: Callable[[Input, Any, int], dict[str, Any]],
    report: RunReport,
    *,
    total: int,
    weights: Sequence[float] | None = None,
    condition: Callable[[list[Input]], dict[str, Any]] | None = None,
) -> None:
    """Generate from batches of inputs under a progress bar, and write each output at once.

    Args:
        pipeline: `AudioToImagePipeline`.
        batches: Batches of inputs, those that cannot be read among them.
        calls: Further arguments of the pipeline's call.
        write: Writes an input's output, of the batch's output and the position in it; returns the
            entry for the report.
        report: Report of the run. The input at position i has its seed plus i.
        total: Number of outputs.
        weights: Mix each batch into one item by these, if all of its inputs can be read.
        condition: Returns the arguments of the pipeline's call for readable inputs; by default
            their audio.
    """
    import torch

    with progress_bar("Generating") as progress:
        bar = Bar(progress, total)
        try:
            for batch in read_ahead(batches):
                readable = [each for each in batch if each.value is not None]
                for each in batch:
                    if each.value is None:
                        report.skip(each.source, each.reason)
                items = readable
                if weights is not None:
                    items = readable[:1] if len(readable) == len(batch) else []
                if items:
                    seeds = [report.settings["seed"] + each.index for each in items]
                    rounds = -(-len(items) * calls["num_candidates"] // calls["batch_size"])
                    bar.begin_batch(len(items), rounds)
                    condition = condition or _audio_of
                    result = pipeline(
                        **condition(readable),
                        **({} if weights is None else {"weights": weights}),
                        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                        callback_on_step_end=bar.count_step,
                        **calls,
                    )
                    for place, (each, seed) in enumerate(zip(items, seeds, strict=True)):
                        entry = write(each, result, place)
                        report.results.append({"input": each.source, "seed": seed, **entry})
                bar.end_batch(len(batch) if weights is None else 1)
        except KeyboardInterrupt:
            report.interrupted = True


def _audio_of(inputs: list[Input]) -> dict[str, Any]:
    return {"audios": [each.value for each in inputs]}


class Bar:
    """Bar whose time left counts encoding, decoding, ranking and writing.

    A step counts as the share of a batch's time that the steps of the batch before took.
    """

    def __init__(self, progress: Progress, total: int):
        self._items, self._rounds = 1, 1
        self._progress, self._task = progress, progress.add_task("", total=total)
        self._done, self._share = 0, _STEPS_SHARE
        self._begun = self._last_step = time.perf_counter()

    def begin_batch(self, items: int, rounds: int) -> None:
        """Begin a call for some items, in some rounds of denoising."""
        self._items, self._rounds = items, rounds

    def count_step(self, pipeline: Any, *_: Any) -> dict[str, Any]:
        """Count a denoising step."""
        self._last_step = time.perf_counter()
        steps = self._rounds * pipeline.num_timesteps
        self._progress.advance(self._task, self._items * self._share / steps)
        return {}

    def end_batch(self, count: int) -> None:
        """Count items that are done."""
        now = time.perf_counter()
        if self._last_step > self._begun:
            self._share = (self._last_step - self._begun) / (now - self._begun)
        self._done, self._begun = self._done + count, now
        self._progress.update(self._task, completed=self._done)
