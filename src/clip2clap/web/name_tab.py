"""Tab and endpoint that name images and audio by texts."""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.media.synthesis import find_synthesizer
from clip2clap.search.classify import FileClassifier
from clip2clap.search.labels import read_labels
from clip2clap.web import forms
from clip2clap.web.layout import Recipes, add_api, add_run, status_line
from clip2clap.web.models import Service
from clip2clap.web.naming import NamedFile, choose_images, name_files, speak_answer
from clip2clap.web.recipes import choosing_recipes, naming_recipes
from clip2clap.web.runs import Run

_MOST_LABELS = 600
_LONGEST_LABELS = 20_000


_NO_SPEECH = """\
By speech, images are chosen where there is a speech encoder of the CLIP that is served:
`--speech-encoder NAME`, which `clip2clap train-speech` makes.
"""


class Named(NamedTuple):
    """Files with their names, and what a page says of them."""

    files: list[NamedFile]
    note: str
    """Text on the scores."""
    recipes: tuple[str, str]
    """The same on the command line and in Python."""
    answer: Path | None = None
    """The names, spoken."""


def add_name_tab(service: Service) -> None:
    """Add the tab that names images and audio."""
    labels = gr.Textbox(
        ", ".join(read_labels("demo")),
        lines=4,
        label="Labels to choose from, with commas between",
        render=False,
    )
    options: list[Any] = [labels]
    if service.models.speech is not None:
        sources: Any = ["microphone", "upload"]
        label = "Or say in English what one of the images shows"
        options.append(
            gr.Audio(
                sources=sources, type="filepath", label=label, buttons=["download"], render=False
            )
        )
    if _can_speak():
        options.append(gr.Checkbox(False, label="Speak the answer", render=False))
    with gr.Tab("Name it", id="name"):
        if service.models.speech is None:
            gr.Markdown(_NO_SPEECH)
        with gr.Row():
            add_naming(service, "Images and audio", options, "Name", partial(_follow, service))


def _can_speak() -> bool:
    try:
        find_synthesizer()
    except MissingExtraError:
        return False
    return True


def add_endpoint(service: Service) -> None:
    """Add `/classify` to the interface for programs."""

    def classify(files: list[FileData], labels: str) -> Any:
        """Name uploaded images and audio by labels with commas between.

        Returns the labels of each file with their probabilities, the most likely first.
        """
        named = yield from forms.followed(_follow(service, files, labels), lambda _: [])
        yield documents_of(named.files)

    add_api(service, classify, list[dict[str, Any]])


def _follow(service: Service, sent: Any, texts: Any, *more: Any) -> Generator[Run, None, Named]:
    """Name uploads by texts, or by speech; a further value of True has the answer spoken."""
    speech = next((each for each in more if isinstance(each, Mapping)), None)
    try:
        files = uploads(service, sent)
        if speech is not None and service.models.speech is not None:
            said = forms.uploaded(speech, service.folders, what="speech")
            return (yield from _choose(service, files, said))
        # Never by `read_labels`, which also reads files.
        labels = forms.texts(texts, "labels", longest=_LONGEST_LABELS, most=_MOST_LABELS)
    except UserError as error:
        raise forms.refusal(error) from error
    models, longest_s = service.models, service.limits.input_s
    load = partial(FileClassifier, labels, clip=models.clip, clap=models.clap)
    is_aloud = any(each is True for each in more)

    def work(run: Run) -> tuple[list[NamedFile], Path | None]:
        named = name_files(files, load, run, longest_s=longest_s)
        return named, speak_answer(service.folders.create(), named) if is_aloud else None

    named, answer = yield from forms.explained(service.workers.follow(work, "classify"))
    names = [name for name, _ in files]
    recipes = naming_recipes(names, labels, models.options("clip", "clap"))
    return Named(named, "", recipes, answer)


def _choose(
    service: Service, files: Sequence[Any], said: tuple[str, Path]
) -> Generator[Run, None, Named]:
    models, longest_s = service.models, service.limits.input_s
    runs = service.workers.follow(
        lambda run: choose_images(files, said, models, run, longest_s=longest_s), "listen"
    )
    named = yield from forms.explained(runs)
    names = models.options("clip", "speech_encoder")
    recipes = choosing_recipes([name for name, _ in files], said[0], names)
    return Named(named, "The likeliest image stands first.", recipes)


def uploads(service: Service, sent: Any) -> list[Any]:
    """Return the names and paths of uploads.

    Raises:
        UserError: If there are none, or too many.
    """
    what = "images or audio files"
    return forms.uploads(sent, service.folders, service.limits.files, what=what)


def add_naming(
    service: Service,
    label: str,
    options: Sequence[Any],
    verb: str,
    follow: Callable[..., Generator[Run, None, Named]],
) -> None:
    """Add the content of a tab that names uploads: a column of inputs, and one of results.

    Args:
        service: Service of the app.
        label: Label of the uploads.
        options: Components of what to name them by, and how, which are not rendered yet.
        verb: Text of the button.
        follow: Follows a run that names uploads by the values of the options.
    """
    with gr.Column():
        files = gr.File(file_count="multiple", label=label)
        for each in options:
            each.render()
        with gr.Row():
            start = gr.Button(verb, variant="primary")
            cancel = gr.Button("Cancel", variant="stop")
    with gr.Column():
        status = status_line()
        table = gr.HTML()
        answer = gr.Audio(
            label="The answer",
            interactive=False,
            visible=False,
            autoplay=True,
            buttons=["download"],
        )
        recipes = Recipes()

    def name(sent: Any, *chosen: Any) -> Generator[dict[Any, Any], None, None]:
        named = yield from forms.followed(
            follow(sent, *chosen), lambda run: {status: forms.status(run)}
        )
        spoken = None if named.answer is None else str(named.answer)
        yield {
            status: f"Done. {escape(named.note)}",
            table: table_of(named.files),
            answer: gr.Audio(spoken, visible=spoken is not None),
            **recipes.shown(*named.recipes),
        }

    inputs, outputs = [files, *options], [status, table, answer, *recipes.blocks]
    add_run(service, name, inputs, outputs, start=start, cancel=cancel, status=status)


def documents_of(files: Sequence[NamedFile]) -> list[dict[str, Any]]:
    """Return the labels of files as clients get them."""
    return [
        {
            "file": each.name,
            "labels": [list(pair) for pair in each.labels],
            "caption": each.caption,
            "reason": each.reason,
        }
        for each in files
    ]


def table_of(files: Sequence[NamedFile]) -> str:
    """Return an HTML table of files, their captions and their labels."""
    has_captions = any(each.caption is not None for each in files)
    heads = ["File", "Caption", "Keywords"] if has_captions else ["File", "Labels"]
    head = "".join(f"<th scope='col'>{each}</th>" for each in heads)
    rows = "".join(_row(each, has_captions=has_captions) for each in files)
    return f"<table class='labels'><tr>{head}</tr>{rows}</table>"


def _row(file: NamedFile, *, has_captions: bool) -> str:
    labels = ", ".join(f"{escape(label)} {score:.0%}" for label, score in file.labels)
    cells = [escape(file.caption or "")] if has_captions else []
    cells.append(escape(file.reason) if file.reason is not None else labels)
    inside = "".join(f"<td>{each}</td>" for each in cells)
    return f"<tr><th scope='row'>{escape(file.name)}</th>{inside}</tr>"
