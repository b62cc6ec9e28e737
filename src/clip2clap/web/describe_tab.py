"""Tab and endpoint that describe images and audio by keywords and captions."""

from collections.abc import Generator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError, expect
from clip2clap.search.files import modality_of
from clip2clap.search.labels import LABEL_SETS
from clip2clap.web import forms
from clip2clap.web.layout import add_api
from clip2clap.web.models import Service
from clip2clap.web.name_tab import Named, add_naming, documents_of, uploads
from clip2clap.web.naming import name_files
from clip2clap.web.recipes import describing_recipes
from clip2clap.web.runs import Run

if TYPE_CHECKING:
    from clip2clap.search.keywords import KeywordExtractor

_DEFAULT = "audioset"
# Its names come with another package.
_NEEDS_OPEN_CLIP = "imagenet"
_NO_CAPTIONS = """\
Captions need a captioner of the CLIP or CLAP that is served: `--captioner NAME`, which
`clip2clap train-captioner` makes.
"""


def add_describe_tab(service: Service) -> None:
    """Add the tab that describes images and audio."""
    vocabulary = gr.Dropdown(_vocabularies(), value=_DEFAULT, label="Vocabulary", render=False)
    label = "Images and audio to describe"
    with gr.Tab("Describe", id="describe"):
        if service.models.captioner is None:
            gr.Markdown(_NO_CAPTIONS)
        with gr.Row():
            add_naming(service, label, [vocabulary], "Describe", partial(_follow, service))


def add_endpoint(service: Service) -> None:
    """Add `/describe` to the interface for programs."""

    def describe(files: list[FileData], vocabulary: str = _DEFAULT) -> Any:
        """Describe uploaded images and audio by a caption, and by the words of a label set.

        Returns the caption and the keywords of each file with their scores, the likeliest first.
        """
        named = yield from forms.followed(_follow(service, files, vocabulary), lambda _: [])
        yield documents_of(named.files)

    add_api(service, describe, list[dict[str, Any]])


def _vocabularies() -> list[str]:
    has_all = find_spec("open_clip") is not None
    return [name for name in LABEL_SETS if has_all or name != _NEEDS_OPEN_CLIP]


def _follow(service: Service, sent: Any, chosen: Any) -> Generator[Run, None, Named]:
    try:
        # Only a set of labels by its name: any other text may be that of a file.
        names = _vocabularies()
        expect(chosen in names, "vocabulary", f"one of {', '.join(names)}", chosen)
        files = uploads(service, sent)
    except UserError as error:
        raise forms.refusal(error) from error
    models, longest_s = service.models, service.limits.input_s
    runs = service.workers.follow(
        lambda run: name_files(
            files,
            lambda: service.extractor(chosen),
            run,
            longest_s=longest_s,
            captioner=models.captioner,
        ),
        "describe",
    )
    named = yield from forms.explained(runs)
    sources = [name for name, _ in files]
    recipes = describing_recipes(sources, chosen, models.options("clip", "clap", "captioner"))
    return Named(named, _note(service.extractor(chosen), sources), recipes)


def _note(extractor: "KeywordExtractor", sources: Sequence[str]) -> str:
    """Return what the scores of keywords are."""
    modalities = sorted({modality_of(each) for each in sources})
    others = [each for each in modalities if not extractor.is_calibrated(each)]
    if not others:
        return "The score of a keyword is how often such a keyword is right."
    return f"Scores of {' and '.join(others)} are the model's softmax over the vocabulary."
