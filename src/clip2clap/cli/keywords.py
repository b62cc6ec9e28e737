"""The verb `keywords`."""

from rich.console import Console

from clip2clap.cli.checks import check_device, require
from clip2clap.cli.loading import check_models
from clip2clap.cli.naming import (
    SegmentPrinter,
    check_timeline,
    find_files,
    load_encoders,
    name_files,
)
from clip2clap.cli.options.search import Keywords
from clip2clap.cli.progress import RunReport, note
from clip2clap.search.labels import read_vocabulary


def keywords(options: Keywords) -> None:
    """Describe images and audio by the nearest words of a vocabulary, with calibrated scores.

    The score of a word is how often such a word is right, if its vocabulary is calibrated: the
    label sets are for the demo models. Other scores are the model's softmax, and a line on stderr
    says so.

    With --translator demo-back, audio is described in CLIP: by what it would look like.

    A file that cannot be read is skipped; the exit code is then 1.
    """
    read_vocabulary(options.vocabulary)
    sources = find_files(options.inputs, recursive=options.recursive)
    require(
        not (options.as_json and options.as_csv), "as_csv", "it cannot be combined with --json."
    )
    check_timeline(options.timeline, sources)
    check_models(options)
    check_device(options.device, None)
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.search.files import modality_of
        from clip2clap.search.keywords import KeywordExtractor

        extractor = KeywordExtractor(
            options.vocabulary,
            **load_encoders(options, sources),
            templates=options.template,
        )
    report.lap("load")
    modalities = sorted(set(map(modality_of, sources)))
    report.settings["calibrated"] = {each: extractor.is_calibrated(each) for each in modalities}
    for modality in modalities:
        if not extractor.is_calibrated(modality):
            note(
                f"note: scores of {modality} are the model's softmax: it has no calibration for "
                f"{options.vocabulary}."
            )
    printer = SegmentPrinter(
        report,
        key="keywords",
        columns=("keyword", "score"),
        top_k=options.top,
        as_csv=options.as_csv,
        timeline=options.timeline,
    )
    top, description = options.top, "Extracting keywords"
    printer.print_all(name_files(extractor, options, sources, top=top, description=description))
    report.end()
