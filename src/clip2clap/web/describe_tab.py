"""Tab and endpoint that describe images and audio by keywords."""

from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError, expect
from clip2clap.search.labels import LABEL_SETS
from clip2clap.web import forms
from clip2clap.web.layout import RUNS, status_line
from clip2clap.web.models import Service
from clip2clap.web.name_tab import Named, documents_of, follow, table_of
from clip2clap.web.runs import Run

_DEFAULT = "audioset"
# Its names come with another package.
_NEEDS_OPEN_CLIP = "imagenet"


def add_describe_tab(service: Service) -> None:
    """Add the tab that describes images and audio."""
    with gr.Tab("Describe", id="describe"), gr.Row():
        with gr.Column():
            files = gr.File(file_count="multiple", label="Images and audio to describe")
            vocabulary = gr.Dropdown(_vocabularies(), value=_DEFAULT, label="Vocabulary")
            with gr.Row():
                start = gr.Button("Describe", variant="primary")
                cancel = gr.Button("Cancel", variant="stop")
        with gr.Column():
            status = status_line()
            table = gr.HTML()

    def describe(uploads: Any, chosen: Any) -> Generator[dict[Any, Any], None, None]:
        runs = _follow(service, uploads, chosen)
        while True:
            try:
                yield {status: forms.status(next(runs))}
            except StopIteration as end:
                yield {status: "Done.", table: table_of(end.value)}
                return

    started = start.click(
        describe,
        [files, vocabulary],
        [status, table],
        preprocess=False,
        concurrency_id=RUNS,
        concurrency_limit=service.limits.workers,
        show_progress_on=status,
        api_visibility="private",
    )
    cancel.click(lambda: "Cancelled.", None, status, cancels=[started], api_visibility="private")


def add_endpoint(service: Service) -> None:
    """Add `/keywords` to the interface for programs."""

    def keywords(files: list[FileData], vocabulary: str = _DEFAULT) -> Any:
        """Describe uploaded images and audio by the words of a label set.

        Returns the keywords of each file with their scores, the most likely first.
        """
        runs = _follow(service, files, vocabulary)
        while True:
            try:
                next(runs)
            except StopIteration as end:
                named = end.value
                break
            yield []
        yield documents_of(named)

    keywords.__annotations__["return"] = list[dict[str, Any]]
    gr.api(
        keywords,
        api_name="keywords",
        concurrency_id=RUNS,
        concurrency_limit=service.limits.workers,
    )


def _vocabularies() -> list[str]:
    has_all = find_spec("open_clip") is not None
    return [name for name in LABEL_SETS if has_all or name != _NEEDS_OPEN_CLIP]


def _follow(service: Service, uploads: Any, chosen: Any) -> Generator[Run, None, Named]:
    try:
        # Only a set of labels by its name: any other text may be that of a file.
        names = _vocabularies()
        expect(chosen in names, "vocabulary", f"one of {', '.join(names)}", chosen)
    except UserError as error:
        raise forms.refusal(error) from error
    return follow(service, uploads, lambda: service.extractor(chosen))
