"""Batches of images and prompts into a folder of audio files."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError
from clip2clap.core.output_folder import sole_run
from clip2clap.inference.batch.description import describe, fill_call
from clip2clap.inference.batch.generation import (
    Failures,
    Progress,
    generate_here,
    generate_on_ray,
)
from clip2clap.inference.batch.jobs import Job
from clip2clap.inference.batch.manifest import Entry, Manifest
from clip2clap.inference.batch.options import BatchOptions
from clip2clap.inference.batch.reading import Item, Reader
from clip2clap.inference.batch.writing import Generated, Writer
from clip2clap.inference.image_to_audio import ImageToAudioPipeline


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
        UserError: If an option or a job is invalid, or another run is writing to the folder.
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

    with _opened(pipeline, folder, facts, options, count) as (reader, writer):
        _generate(pipeline, filled, options, progress, reader.read(_checked(jobs)), writer)
    return counts


def _checked(jobs: Iterable[Job]) -> Iterator[Job]:
    for job in jobs:
        if not isinstance(job, Job):
            raise UserError(
                f"Expected jobs, as find_jobs([...]) gives, got {job!r}: Job({job!r}), say.",
                param="jobs",
            )
        yield job


def _generate(
    pipeline: Any,
    call: dict[str, Any],
    options: BatchOptions,
    progress: Progress | None,
    items: Iterator[Item],
    writer: Writer,
) -> None:
    """Generate items, here or on Ray, and hand them to what writes."""
    failures = Failures()

    def write(done: list[Item | Generated]) -> None:
        for each in failures.sort(done):
            writer.put(each)
        if progress is not None:
            progress.end_batch(len(done))

    if options.ray is None:
        groups = generate_here(items, pipeline, call, options, progress)
    else:
        groups = generate_on_ray(items, pipeline, call, options, write)
    with closing(groups):
        for done in groups:
            write(done)
    failures.check()


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
