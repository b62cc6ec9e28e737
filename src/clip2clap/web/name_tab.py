"""Tab and endpoint that name images and audio by texts."""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError, one_line
from clip2clap.search.classify import FileClassifier
from clip2clap.search.files import modality_of
from clip2clap.search.keywords import KeywordExtractor
from clip2clap.search.labels import read_labels
from clip2clap.web import forms
from clip2clap.web.layout import add_api, add_run, status_line
from clip2clap.web.making import read_audio
from clip2clap.web.models import Service
from clip2clap.web.runs import Run

_MOST_LABELS = 600
_LONGEST_LABELS = 20_000
_SHOWN = 5

Named = list[tuple[str, list[tuple[str, float]], str | None]]
"""Name of each file, its labels with their probabilities, and the reason if it has none."""


def add_name_tab(service: Service) -> None:
    """Add the tab that names images and audio."""
    labels = gr.Textbox(
        ", ".join(read_labels("demo")),
        lines=4,
        label="Labels to choose from, with commas between",
        render=False,
    )
    with gr.Tab("Name it", id="name"), gr.Row():
        add_naming(service, "Images and audio", labels, "Name", partial(_follow, service))


def add_endpoint(service: Service) -> None:
    """Add `/classify` to the interface for programs."""

    def classify(files: list[FileData], labels: str) -> Any:
        """Name uploaded images and audio by labels with commas between.

        Returns the labels of each file with their probabilities, the most likely first.
        """
        named = yield from forms.followed(_follow(service, files, labels), lambda _: [])
        yield documents_of(named)

    add_api(service, classify, list[dict[str, Any]])


def _follow(service: Service, uploads: Any, texts: Any) -> Generator[Run, None, Named]:
    try:
        # Never by `read_labels`, which also reads files.
        labels = forms.texts(texts, "labels", longest=_LONGEST_LABELS, most=_MOST_LABELS)
    except UserError as error:
        raise forms.refusal(error) from error
    models = service.models
    return follow(
        service, uploads, lambda: FileClassifier(labels, clip=models.clip, clap=models.clap)
    )


def add_naming(
    service: Service,
    label: str,
    option: Any,
    verb: str,
    follow: Callable[[Any, Any], Generator[Run, None, Named]],
) -> None:
    """Add the content of a tab that names uploads: a column of inputs, and one of results.

    Args:
        service: Service of the app.
        label: Label of the uploads.
        option: Component of what to name them by, which is not rendered yet.
        verb: Text of the button.
        follow: Follows a run that names uploads by the value of `option`.
    """
    with gr.Column():
        files = gr.File(file_count="multiple", label=label)
        option.render()
        with gr.Row():
            start = gr.Button(verb, variant="primary")
            cancel = gr.Button("Cancel", variant="stop")
    with gr.Column():
        status = status_line()
        table = gr.HTML()

    def name(uploads: Any, chosen: Any) -> Generator[dict[Any, Any], None, None]:
        named = yield from forms.followed(
            follow(uploads, chosen), lambda run: {status: forms.status(run)}
        )
        yield {status: "Done.", table: table_of(named)}

    inputs, outputs = [files, option], [status, table]
    add_run(service, name, inputs, outputs, start=start, cancel=cancel, status=status)


def follow(
    service: Service, uploads: Any, load: Callable[[], FileClassifier | KeywordExtractor]
) -> Generator[Run, None, Named]:
    """Name uploaded files by what `load` returns in a worker.

    Raises:
        gr.Error: If there are none, or too many.
    """
    most = service.limits.files
    try:
        given = uploads if isinstance(uploads, list) else []
        files = [forms.uploaded(each, service.folders, what="file") for each in given]
        if not 0 < len(files) <= most:
            raise UserError(f"Upload 1 to {most} images or audio files.")
    except UserError as error:
        raise forms.refusal(error) from error
    runs = service.workers.follow(lambda run: _name(service, files, load, run))
    return (yield from forms.explained(runs))


def _name(
    service: Service,
    files: Sequence[tuple[str, Path]],
    load: Callable[[], FileClassifier | KeywordExtractor],
    run: Run,
) -> Named:
    run.advance(0.0, "Encoding the labels")
    classifier = load()
    named: Named = []
    for number, (name, path) in enumerate(files, 1):
        run.advance((number - 1) / len(files), f"File {number} of {len(files)}")
        try:
            if modality_of(str(path)) == "audio":
                read_audio(path, name, service.limits.input_s)
            (file,) = classifier([path], k=_SHOWN)
            if file.reason is not None:
                raise file.reason
            named.append((name, file.segments[0].labels, None))
        except (UserError, OSError) as error:
            reason = one_line(error).replace(str(path), name)
            named.append((name, [], reason))
    return named


def documents_of(named: Named) -> list[dict[str, Any]]:
    """Return the labels of files as clients get them."""
    return [
        {"file": name, "labels": [list(each) for each in found], "reason": reason}
        for name, found, reason in named
    ]


def table_of(named: Named) -> str:
    """Return an HTML table of files and their labels."""
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{_cell(found, reason)}</td></tr>"
        for name, found, reason in named
    )
    head = "<tr><th scope='col'>File</th><th scope='col'>Labels</th></tr>"
    return f"<table class='labels'>{head}{rows}</table>"


def _cell(found: Sequence[tuple[str, float]], reason: str | None) -> str:
    if reason is not None:
        return escape(reason)
    return ", ".join(f"{escape(label)} {probability:.0%}" for label, probability in found)
