"""Generation from batches of inputs, with one random generator per input."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clip2clap.cli.inputs import Input


@dataclass(frozen=True)
class Generated:
    """Output of one input within the output of its batch."""

    result: Any
    """Output of the pipeline for the batch."""

    place: int
    """Position of the input in the batch."""

    seed: int
    """Seed of its generator; with it the output can be generated again alone."""


def generate(
    pipeline: Any,
    batches: Iterable[list[Input]],
    calls: dict[str, Any],
    *,
    argument: str,
    num_candidates: int,
    seed: int,
    advance: Callable[[float], None],
    weights: Sequence[float] | None = None,
) -> Iterator[tuple[Input, Generated | None]]:
    """Call a pipeline on batches of inputs.

    Args:
        pipeline: `ImageToAudioPipeline` or `AudioToImagePipeline`.
        batches: Batches of inputs, those that cannot be read among them.
        calls: Further arguments of the call, `batch_size` among them.
        argument: Name of the argument that the inputs are.
        num_candidates: Outputs that the pipeline makes per input.
        seed: Seed of the first input; the input at position i has this plus i.
        advance: Called with the share of an input that is done after each denoising step.
        weights: Mix each batch into one item by these weights; there is no output if one of its
            inputs cannot be read.

    Yields:
        Each input in order with its output, or None if it cannot be read; of a mix the first.
    """
    import torch

    for batch in batches:
        readable = [each for each in batch if each.value is not None]
        if weights is not None and len(readable) < len(batch):
            yield from ((each, None) for each in batch if each.value is None)
            continue
        advance(0 if weights is not None else len(batch) - len(readable))
        items = readable[:1] if weights is not None else readable
        outputs: dict[int, Generated] = {}
        if items:
            rounds = -(-len(items) * num_candidates // calls["batch_size"])
            share = len(items) / rounds

            def count_step(
                running: Any, step: int, *_: Any, share: float = share
            ) -> dict[str, Any]:
                advance(share / running.num_timesteps)
                return {}

            seeds = [seed + each.index for each in items]
            result = pipeline(
                **{argument: [each.value for each in readable]},
                **({} if weights is None else {"weights": weights}),
                generator=[torch.Generator().manual_seed(number) for number in seeds],
                callback_on_step_end=count_step,
                **calls,
            )
            for place, each in enumerate(items):
                outputs[each.index] = Generated(result, place, seeds[place])
        for each in batch if weights is None else items:
            yield each, outputs.get(each.index)
