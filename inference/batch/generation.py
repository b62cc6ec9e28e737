"""Generation of groups of items, fitted to memory, in this process or on Ray's actors."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from clip2clap.core.actors import Stored, map_on_actors
from clip2clap.core.concurrency import read_ahead
from clip2clap.core.errors import InterruptedCallError, UserError, is_out_of_memory, one_line
from clip2clap.inference.batch.memory import BatchSize
from clip2clap.inference.batch.options import BatchOptions
from clip2clap.inference.batch.reading import Item, grouped
from clip2clap.inference.batch.repeat import describe_run
from clip2clap.inference.batch.writing import Generated
from clip2clap.metrics.classification import describe_labels

LEAST_PROBABILITY = 0.9
"""Probability of the nearest label below which none fits."""

LEAST_SIMILARITY = {"db7edbae515041f9": 0.7}
"""Similarity to the nearest label below which none fits, by fingerprint of the generator's CLAP.

It is known of the demo CLAP alone. Of 55 full-size photographs of the demo's classes 4 % are below
one of both, of 378 others 62 %; of 1,300 small validation images 16 %, of 474 others 60 %.
"""

_LABELS_KEPT = 3
# Failures without a success after which a run ends.
_MOST_FAILED = 3
_NO_MEMORY = (
    "There is not enough memory for it. Make the audio shorter, or use bfloat16 if the models are "
    "not in it."
)


class Progress(Protocol):
    """Observer of a batch's progress."""

    def begin_batch(self, items: int, rounds: int) -> None:
        """Begin a call for some items, in some rounds of denoising."""

    def count_step(self, pipeline: Any, *_: Any) -> dict[str, Any]:
        """Count a denoising step."""
        ...

    def end_batch(self, count: int) -> None:
        """Count jobs that are done."""


def generate_here(
    items: Iterable[Item],
    pipeline: Any,
    call: dict[str, Any],
    options: BatchOptions,
    progress: Progress | None,
) -> Generator[list[Item | Generated]]:
    """Yield what is generated of items, group by group, while a thread reads the next ones."""
    generation = Generation(pipeline, call, options, progress)
    for group in read_ahead(grouped(items, generation.group_size)):
        yield generation.run(group) if group[0].value is not None else list(group)


def generate_on_ray(
    items: Iterable[Item],
    pipeline: Any,
    call: dict[str, Any],
    options: BatchOptions,
    on_finished: Callable[[list[Item | Generated]], None],
) -> Generator[list[Item | Generated]]:
    """Yield what actors generate of items, in order; those that are final go to `on_finished`."""
    assert options.ray is not None
    size = BatchSize.largest(options.ray_device, options.batch_size)

    def unfinished() -> Iterator[list[Item]]:
        groups = grouped(items, lambda _: max(1, size // call["num_candidates"]))
        for group in read_ahead(groups):
            if group[0].value is None:
                on_finished(list(group))
            else:
                yield group

    return map_on_actors(
        GeneratingActor,
        # Images are described by what reads them, in this process.
        (pipeline, call, replace(options, describe=None)),
        "run",
        unfinished(),
        options.ray,
        on_gpu=options.ray_device.startswith("cuda"),
    )


class GeneratingActor:
    """Actor that holds a pipeline, which it is sent with the call and the options."""

    def __init__(self) -> None:
        self._generation: Generation | None = None

    def run(self, stored: Stored, group: list[Item]) -> list[Item | Generated]:
        """Generate audio for a group; errors that Ray may not be able to send become plain ones."""
        if self._generation is None:
            pipeline, call, options = stored.read()
            if options.ray_device != "cpu":
                pipeline = pipeline.to(options.ray_device)
            pipeline.set_progress_bar_config(disable=True)
            self._generation = Generation(pipeline, call, options, None)
        done = self._generation.run(group)
        for each in done:
            if isinstance(each, Item) and not isinstance(each.error, UserError | None):
                each.error = RuntimeError(one_line(each.error))
        return done


class Failures:
    """Failures of a run, which ends with the first error if nothing else comes of it."""

    def __init__(self) -> None:
        self._succeeded = False
        # The first items, if all failed: with them it may be the models that are at fault.
        self._held: list[Item] = []

    def sort(self, done: Iterable[Item | Generated]) -> Iterator[Item | Generated]:
        """Yield what can be written; failures wait for a success.

        Raises:
            Exception: The first error, if the first jobs all failed.
        """
        for each in done:
            if isinstance(each, Item) and each.error is not None and not self._succeeded:
                self._held.append(each)
                if len(self._held) == _MOST_FAILED:
                    self.check()
                continue
            yield each
            if isinstance(each, Generated):
                self._succeeded = True
                yield from self._held
                self._held = []

    def check(self) -> None:
        """Raise the first error if all jobs failed."""
        if self._held and self._held[0].error is not None:
            raise self._held[0].error


class Generation:
    """Generation of groups of items, which fits them to memory and isolates what fails."""

    def __init__(
        self,
        pipeline: Any,
        call: dict[str, Any],
        options: BatchOptions,
        progress: Progress | None,
    ):
        self._pipeline, self._options, self._progress = pipeline, options, progress
        of_jobs = ("audio_length_in_s", "negative_prompt")
        self._call = {name: value for name, value in call.items() if name not in of_jobs}
        self._candidates = call["num_candidates"]
        self._size = BatchSize(pipeline._execution_device, options.batch_size)

    def group_size(self, seconds: float) -> int:
        """Return the number of items of a length that are generated together."""
        return max(1, self._size.of(seconds) // self._candidates)

    def run(self, items: Sequence[Item]) -> list[Item | Generated]:
        """Generate audio for items of one kind; those that failed or do not fit have the reason."""
        fitting = [each for each in items if self._fits(each)]
        done: list[Item | Generated] = [each for each in items if each not in fitting]
        pending = [fitting] if fitting else []
        while pending:
            group = pending.pop()
            size = self.group_size(group[0].entry["seconds"])
            if len(group) > size:
                pending += [group[size:], group[:size]]
                continue
            error = None
            try:
                done += self._generate(group)
            except InterruptedCallError:
                raise
            except Exception as raised:
                # The frames of its traceback hold the tensors that filled the memory.
                error = raised.with_traceback(None) if is_out_of_memory(raised) else raised
            if error is not None:
                pending += self._retry(group, error, done)
        return done

    def _retry(
        self, group: list[Item], error: Exception, done: list[Item | Generated]
    ) -> list[list[Item]]:
        """Return smaller groups to try again, or add the one item with the reason to `done`."""
        size = self._size.of(group[0].entry["seconds"])
        no_memory = is_out_of_memory(error)
        if no_memory and size > 1:
            self._size.halve(size)
            return [group]
        if len(group) > 1:
            return [[each] for each in reversed(group)]
        (item,) = group
        reason = _NO_MEMORY if no_memory else one_line(error)
        item.entry |= {"status": "failed", "reason": f"{_source(item)}: {reason}"}
        item.error = None if no_memory else error
        done.append(item)
        return []

    def _generate(self, group: Sequence[Item]) -> list[Item | Generated]:
        entry, options = group[0].entry, self._options
        size = self._size.of(entry["seconds"])
        call: dict[str, Any] = {"audio_length_in_s": entry["seconds"], "batch_size": size}
        call["images" if entry["prompt"] is None else "prompt"] = [each.value for each in group]
        if entry["negative_prompt"] is not None:
            call["negative_prompt"] = [each.entry["negative_prompt"] for each in group]
        if self._progress is not None:
            rounds = -(-len(group) * self._candidates // size)
            self._progress.begin_batch(len(group), rounds)
            call["callback_on_step_end"] = self._progress.count_step
        kept = self._candidates if options.keep_candidates else options.num_variations
        self._size.begin()
        result = self._pipeline(
            generator=[each.entry["seed"] for each in group],
            num_variations=kept,
            **self._call,
            **call,
        )
        self._size.end(entry["seconds"])
        generated: list[Item | Generated] = []
        run = describe_run(self._pipeline, items=len(group), place=0, batch_size=size)
        for place, item in enumerate(group):
            rows = slice(place * kept, (place + 1) * kept)
            similarities = None
            if result.similarities is not None:
                similarities = sorted(result.similarities[place].tolist(), reverse=True)
            if options.labels and item.image is not None:
                self._hear(item, result.audio_embeds[rows][:1])
            item.shrink()
            own_run = run | {"place": place}
            generated.append(Generated(item, result.audios[rows], similarities, own_run))
        return generated

    def _fits(self, item: Item) -> bool:
        """Return True unless an item's image is less similar to every label than it should be."""
        least, pipeline = self._options.min_similarity, self._pipeline
        if least is None or item.image is None:
            return True
        embeds = pipeline.encode_image([item.image])
        nearest = self._hear(item, pipeline.translate(embeds, generator=[item.entry["seed"]]))
        if nearest["similarity"] >= least:
            return True
        reason = f"the nearest label, {nearest['label']}, has a similarity of "
        reason += f"{nearest['similarity']:.2f}, below {least:g}."
        item.entry |= {"status": "skipped", "reason": f"{_source(item)}: {reason}"}
        return False

    def _hear(self, item: Item, embeds: Any) -> dict[str, Any]:
        """Enter the labels nearest to an embedding, shape (1, d), and return the first."""
        (nearest,) = self._pipeline.nearest_labels(embeds, self._options.labels)
        scale = self._pipeline.generator_clap.logit_scale
        heard = describe_labels(nearest, scale, _LABELS_KEPT)
        space = self._pipeline.generator_space
        least = LEAST_SIMILARITY.get(space.fingerprint, -1.0) if space else -1.0
        is_sure = heard[0]["probability"] >= LEAST_PROBABILITY
        item.entry |= {"heard_as": heard, "fits": is_sure and heard[0]["similarity"] >= least}
        return heard[0]


def _source(item: Item) -> str:
    return item.entry["input"] or item.entry["prompt"]
