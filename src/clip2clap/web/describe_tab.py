"""Tab and endpoint that describe images and audio by keywords."""

from collections.abc import Generator
from functools import partial
from importlib.util import find_spec
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError, expect
from clip2clap.search.labels import LABEL_SETS
from clip2clap.web import forms
from clip2clap.web.layout import add_api
from clip2clap.web.models import Service
from clip2clap.web.name_tab import Named, add_naming, documents_of, follow
from clip2clap.web.runs import Run

_DEFAULT = "audioset"
# Its names come with another package.
_NEEDS_OPEN_CLIP = "imagenet"


def add_describe_tab(service: Service) -> None:
    """Add the tab that describes images and audio."""
    vocabulary = gr.Dropdown(_vocabularies(), value=_DEFAULT, label="Vocabulary", render=False)
    label = "Images and audio to describe"
    with gr.Tab("Describe", id="describe"), gr.Row():
        add_naming(service, label, vocabulary, "Describe", partial(_follow, service))


def add_endpoint(service: Service) -> None:
    """Add `/keywords` to the interface for programs."""

    def keywords(files: list[FileData], vocabulary: str = _DEFAULT) -> Any:
        """Describe uploaded images and audio by the words of a label set.

        Returns the keywords of each file with their scores, the most likely first.
        """
        named = yield from forms.followed(_follow(service, files, vocabulary), lambda _: [])
        yield documents_of(named)

    add_api(service, keywords, list[dict[str, Any]])


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
