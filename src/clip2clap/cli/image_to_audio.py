"""The verb `image-to-audio`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clip2clap.cli.checks import (
    check_device,
    check_exists,
    choose_dtype,
    choose_run_device,
    ray_config,
    require,
)
from clip2clap.cli.describing import check_describe, load_prompter
from clip2clap.cli.generate import Bar, pipeline_settings
from clip2clap.cli.loading import check_models, load_pipeline
from clip2clap.cli.options.audio_files import audio_file_options
from clip2clap.cli.options.generation import ImageToAudio
from clip2clap.cli.outputs import Destination, choose_destination
from clip2clap.cli.progress import RunReport, note, progress_bar
from clip2clap.core.errors import UserError
from clip2clap.inference.batch.folder import check_folder
from clip2clap.inference.batch.jobs import Job, find_jobs
from clip2clap.search.labels import read_labels

if TYPE_CHECKING:
    from clip2clap.inference.batch.options import BatchOptions
    from clip2clap.media.writing import AudioFileOptions


def image_to_audio(options: ImageToAudio) -> None:
    """Generate audio from images, or from text prompts.

    Each audio file has the name of its image and is written as soon as its batch is done. A folder
    of them has a manifest.jsonl, by which a run that was stopped goes on and does nothing twice,
    and an index.html to see and hear them all. The nearest labels are printed on stderr.

    The initial noise of the input at position i, from 0, depends on the seed plus i alone.

    With --describe a caption of the image is the prompt, which the manifest and the tags have.

    An image that cannot be read is skipped; the exit code is then 1.
    """
    file_options, ray = _check(options), ray_config(options)
    jobs = partial(_find_jobs, options)
    total = sum(1 for _ in jobs())
    require(total, "inputs", "there is nothing to generate: the tables have no rows.")
    destination = choose_destination("audio", options, total, default="clip2clap-image-to-audio")
    file_options = replace(file_options, format=destination.format)
    if destination.stem is not None:
        one_file = "one file cannot hold several. Name a folder."
        require(options.num_variations == 1, "num_variations", one_file)
        require(not options.keep_candidates, "keep_candidates", one_file)
    else:
        check_folder(destination.folder)
    report = RunReport(options)
    from clip2clap.inference.batch.description import fill_call
    from clip2clap.inference.batch.run import generate_audio

    with Console(stderr=True).status("Loading the models"):
        pipeline = _load(options)
    report.lap("load")
    batch_options = _batch_options(pipeline, options, destination, file_options)
    batch_options = replace(batch_options, ray=ray, ray_device=str(choose_run_device(options)))
    batch_options = _describing(options, pipeline, batch_options)
    calls = fill_call(pipeline, _given_arguments(options), batch_options)
    _require_candidates(options, calls["num_candidates"])
    own = {"generator": options.generator or "demo", **calls, "batch_size": options.batch_size}
    report.settings |= own | pipeline_settings(pipeline)
    printer = _Printer(options, destination, report)
    named = (replace(job, name=destination.stem) for job in jobs())
    with progress_bar("Generating") as progress:
        try:
            generate_audio(
                pipeline,
                named,
                destination.folder,
                batch_options,
                on_entry=printer.print_entry,
                progress=Bar(progress, total),
                **calls,
            )
        except KeyboardInterrupt:
            report.interrupted = True
    report.lap("generate")
    files = f"{printer.files} audio file{'' if printer.files == 1 else 's'} in {destination.folder}"
    if printer.resumed:
        files += f" ({printer.resumed} from an earlier run)"
    report.summarize(files, total, done=printer.done)
    report.end()


def _batch_options(
    pipeline: Any,
    options: ImageToAudio,
    destination: Destination,
    file_options: "AudioFileOptions",
) -> "BatchOptions":
    from clip2clap.inference.batch.options import BatchOptions

    labels = read_labels(options.label_file or "demo-audio")
    if options.label_file is None and not pipeline.generator_clap.is_local:
        labels = []  # not worth a download
    return BatchOptions(
        seed=options.seed,
        num_variations=options.num_variations,
        keep_candidates=options.keep_candidates,
        labels=tuple(labels),
        min_similarity=options.min_similarity,
        spectrogram=options.spectrogram,
        manifest=destination.stem is None,
        overwrite=options.overwrite,
        allow_private=options.allow_private,
        batch_size=options.batch_size,
        file=file_options,
    )


def _describing(
    options: ImageToAudio, pipeline: Any, batch_options: "BatchOptions"
) -> "BatchOptions":
    """Return the options with what describes images, if they are to be described."""
    if not options.describe:
        return batch_options
    with Console(stderr=True).status("Loading the models"):
        prompter = load_prompter(options, "image", pipeline)

    def describe(image: Any) -> str:
        return prompter(pipeline.encode_image([image]))[0]

    return replace(batch_options, describe=describe, description=prompter.facts)


class _Printer:
    """Printer of the files, labels and failures of a run, which fills its report."""

    def __init__(self, options: ImageToAudio, destination: Destination, report: RunReport):
        self.report = report
        self.files, self.done, self.resumed = 0, 0, 0
        self._options, self._folder = options, destination.folder

    def print_entry(self, entry: dict[str, Any], resumed: bool) -> None:
        """Print an entry of the manifest; with True it is of an earlier run."""
        self.done += 1
        source = entry["prompt"] if entry["input"] is None else entry["input"]
        if entry["status"] != "done":
            self.report.skip(source, UserError(entry["reason"]))
            return
        outputs = [self._output(each) for each in entry["outputs"] if each["kept"]]
        self.files += len(outputs)
        self.resumed += len(outputs) if resumed else 0
        self.report.show(*(each["output"] for each in outputs))
        for each in outputs:
            if each["limited"] and not (resumed or self._options.as_json):
                line = f"{each['loudness']:.1f} LUFS, as the true peak allows no more"
                note(f"{each['output']}: {line}")
        shown: dict[str, Any] = {"input": source, "seed": entry["seed"]}
        if entry["input"] is not None and entry["prompt"] is not None:
            shown["prompt"] = entry["prompt"]
            if not (resumed or self._options.as_json):
                note(f"{entry['name']}: {entry['prompt']}")
        shown |= {"audios": outputs} if self._options.num_variations > 1 else outputs[0]
        if entry["heard_as"]:
            shown |= {"heard_as": entry["heard_as"], "fits": entry.get("fits")}
            if not resumed:
                self._print_labels(entry)
        if self._options.as_json:
            self.report.results.append(shown)

    def _output(self, output: dict[str, Any]) -> dict[str, Any]:
        kept = {
            name: value
            for name, value in output.items()
            if value is not None and name not in ("path", "kept", "spectrogram")
        }
        for key, name in (("output", "path"), ("spectrogram", "spectrogram")):
            if name in output:
                kept[key] = str(self._folder / output[name])
        return kept

    def _print_labels(self, entry: dict[str, Any]) -> None:
        labels = ", ".join(
            f"{each['label']} {each['probability']:.0%}" for each in entry["heard_as"]
        )
        line = f"{entry['name']}: {labels}"
        if entry["fits"] is False:
            line += " (warning: no label fits well; the audio may not, either)"
        if not self._options.as_json:
            note(line)


def _find_jobs(options: ImageToAudio) -> Iterator[Job]:
    if options.prompt:
        return (Job(prompt=prompt) for prompt in options.prompt)
    return find_jobs(options.inputs or [], recursive=options.recursive)


def _check(options: ImageToAudio) -> "AudioFileOptions":
    """Check the options, and return those of the files."""
    require(
        bool(options.inputs) != bool(options.prompt),
        "inputs",
        "give images, or --prompt, and not both.",
    )
    candidates = options.num_candidates
    if candidates is not None:
        _require_candidates(options, candidates)
        require(
            candidates >= options.num_variations,
            "num_candidates",
            f"expected at least --variations, {options.num_variations}, got {candidates}.",
        )
    require(
        options.ranker_translator is None or options.ranker is not None,
        "ranker_translator",
        "it maps into the space of a ranker. Add --ranker.",
    )
    if options.label_file is not None:
        check_exists(options.label_file, "label_file")
    check_describe(options)
    check_models(options)
    check_device(options.device, options.dtype)
    return audio_file_options(options)


def _require_candidates(options: ImageToAudio, num_candidates: int) -> None:
    require(
        options.ranker is None or num_candidates > 1,
        "ranker",
        "there is nothing to rank with one candidate. Add --num-candidates 4.",
    )


def _load(options: ImageToAudio) -> Any:
    device = choose_run_device(options)
    parts = ("clip", "translator", "ranker", "ranker_translator")
    return load_pipeline(
        "generator",
        options.generator or "demo",
        # Actors get the pipeline from here, and move it.
        device=device if options.engine == "local" else "cpu",
        dtype=choose_dtype(options.dtype, device),
        scheduler=options.scheduler,
        num_candidates=options.num_candidates or options.num_variations,
        low_memory=options.low_memory,
        **{part: getattr(options, part) for part in parts},
    )


def _given_arguments(options: ImageToAudio) -> dict[str, Any]:
    """Return the arguments of the pipeline's calls that options give."""
    names = ("num_inference_steps", "guidance_scale", "num_candidates", "negative_prompt")
    given = {name: getattr(options, name) for name in names}
    if options.guidance_end is not None:
        given["guidance_interval"] = (0.0, options.guidance_end)
    return given | {"audio_length_in_s": options.duration_s}
