"""Batches of images and prompts into a folder of audio files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from clip2clap.core.concurrency import read_ahead
from clip2clap.core.errors import InterruptedCallError, is_out_of_memory, one_line
from clip2clap.core.output_folder import sole_run
from clip2clap.inference.batch.description import describe, fill_call
from clip2clap.inference.batch.jobs import Job
from clip2clap.inference.batch.manifest import Entry, Manifest
from clip2clap.inference.batch.memory import BatchSize
from clip2clap.inference.batch.options import BatchOptions
from clip2clap.inference.batch.reading import Item, Reader, grouped
from clip2clap.inference.batch.repeat import describe_run
from clip2clap.inference.batch.writing import Generated, Writer
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.metrics.classification import describe_labels

FITS = 0.9
"""Probability of the nearest label below which none fits well. Of 600 photographs of the demo's
classes 5 % are below it, of 600 of other things 35 %; of the former the mean probability of the
nearest label is 0.98, and the share of right ones 0.94."""

_LABELS_KEPT = 3
# Failures without a success after which a run ends.
_MOST_FAILED = 3
_NO_MEMORY = "There is not enough memory for it. Make the audio shorter, or use bfloat16."


class Progress(Protocol):
    """Observer of a batch's progress."""

    def begin_batch(self, items: int, rounds: int) -> None:
        """Begin a call for some items, in some rounds of denoising."""

    def count_step(self, pipeline: Any, *_: Any) -> dict[str, Any]:
        """Count a denoising step."""
        ...

    def end_batch(self, count: int) -> None:
        """Count jobs that are done."""


def generate_audio(
    pipeline: ImageToAudioPipeline,
    jobs: Iterable[Job],
    folder: str | Path,
    options: BatchOptions | None = None,
    *,
    on_entry: Callable[[Entry, bool], None] | None = None,
    progress: Progress | None = None,
    **call: Any,
) -> dict[str, int]:
    """Generate an audio file for each job, with a manifest, a page, and resuming.

    Jobs of one length are generated together, while the next ones are read and the last ones are
    written. A job's audio depends on its seed, not on its batch; one that fails costs its entry.
    Jobs that were done with equal settings and models are not done again.

    Args:
        pipeline: Pipeline to generate with.
        jobs: Jobs, as `find_jobs` yields them.
        folder: Output folder, which is created.
        options: Options of the batch.
        on_entry: Called in another thread with each manifest entry once its files are written, and
            True for one of an earlier run.
        progress: Observer of the progress.
        **call: Arguments of the pipeline's call, from `num_inference_steps` to `negative_prompt`.

    Returns:
        Number of jobs by outcome: `done`, `resumed`, `skipped` and `failed`.

    Raises:
        UserError: If an option is invalid, or another run is writing to the folder.
        OSError: If a file cannot be written.
        Exception: If the first jobs all fail, the error of the first.

    Examples:
        >>> from clip2clap import ImageToAudioPipeline
        >>> pipe = ImageToAudioPipeline.from_pretrained("demo")
        >>> jobs = [Job("dog.jpg"), Job(prompt="rain")]
        >>> generate_audio(pipe, jobs, "sounds", num_inference_steps=1, num_candidates=1)
        {'done': 2, 'resumed': 0, 'skipped': 0, 'failed': 0}
    """
    options, folder = options or BatchOptions(), Path(folder)
    filled = fill_call(pipeline, call, options)
    facts = describe(pipeline, filled, options)
    counts: dict[str, int] = dict.fromkeys(("done", "resumed", "skipped", "failed"), 0)

    def count(entry: Entry, resumed: bool) -> None:
        counts["resumed" if resumed else entry["status"]] += 1
        if on_entry is not None:
            on_entry(entry, resumed)

    generation = _Generation(pipeline, filled, options, progress)
    with _opened(pipeline, folder, facts, options, count) as (reader, writer):
        for group in read_ahead(grouped(reader.read(jobs), generation.group_size)):
            for each in generation.run(group) if group[0].value is not None else group:
                writer.put(each)
            if progress is not None:
                progress.end_batch(len(group))
        generation.check()
    return counts


@contextmanager
def _opened(
    pipeline: Any,
    folder: Path,
    facts: Entry,
    options: BatchOptions,
    on_entry: Callable[[Entry, bool], None],
) -> Iterator[tuple[Reader, Writer]]:
    """Open an output folder for one run, and return what reads jobs and what writes files."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        manifest = None
        if options.manifest:
            stack.enter_context(sole_run(folder))
            manifest = stack.enter_context(Manifest(folder))
        reader = Reader(manifest, folder, facts, pipeline.count_samples, options)
        rate = pipeline.sampling_rate
        yield reader, stack.enter_context(Writer(folder, manifest, rate, options, on_entry))


class _Generation:
    """Generation of groups of items, which fits them to memory and isolates what fails."""

    def __init__(
        self,
        pipeline: ImageToAudioPipeline,
        call: dict[str, Any],
        options: BatchOptions,
        progress: Progress | None,
    ):
        self._pipeline, self._options, self._progress = pipeline, options, progress
        of_jobs = ("audio_length_in_s", "negative_prompt")
        self._call = {name: value for name, value in call.items() if name not in of_jobs}
        self._candidates = call["num_candidates"]
        self._size = BatchSize(pipeline._execution_device, options.batch_size)
        self._succeeded = False
        # The first items, if all failed: with them it may be the models that are at fault.
        self._failed: list[Item] = []
        self._error: Exception | None = None

    def check(self) -> None:
        """Raise the first error if nothing else came of the run."""
        if self._error is not None and not self._succeeded:
            raise self._error

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
                done += [*self._generate(group), *self._failed]
                self._succeeded, self._failed = True, []
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
        if self._succeeded or no_memory:
            done.append(item)
            return []
        self._error = self._error or error
        self._failed.append(item)
        if len(self._failed) == _MOST_FAILED:
            self.check()
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
                item.entry["heard_as"] = self._hear(result.audio_embeds[rows][:1])
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
        heard = self._hear(pipeline.translate(embeds, generator=[item.entry["seed"]]))
        if heard[0]["similarity"] >= least:
            return True
        reason = f"the nearest label, {heard[0]['label']}, has a similarity of "
        reason += f"{heard[0]['similarity']:.2f}, below {least:g}."
        reason = f"{_source(item)}: {reason}"
        item.entry |= {"heard_as": heard, "status": "skipped", "reason": reason}
        return False

    def _hear(self, embeds: Any) -> list[dict[str, Any]]:
        """Return the labels nearest to an embedding, shape (1, d), as the manifest has them."""
        (nearest,) = self._pipeline.nearest_labels(embeds, self._options.labels)
        scale = self._pipeline.generator_clap.logit_scale
        return describe_labels(nearest, scale, _LABELS_KEPT)


def _source(item: Item) -> str:
    return item.entry["input"] or item.entry["prompt"]
