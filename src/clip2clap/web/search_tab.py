"""Tab and endpoint that find images and audio of an index by words, images and audio."""

from collections.abc import Generator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError, expect
from clip2clap.search.query import Term
from clip2clap.web import forms
from clip2clap.web.layout import PageTab, Recipes, add_api, add_run, result_frame, status_line
from clip2clap.web.models import Service
from clip2clap.web.recipes import search_recipes
from clip2clap.web.runs import Run
from clip2clap.web.searching import SearchOrder, find_files

_FINDS = {"Images and audio": "all", "Images": "image", "Audio": "audio"}
_MOST = 24
_NO_INDEX = """\
There is no index open here. Make one of your images and sounds, and open it with the server; from
then on words, images and sounds find what is in it:

```bash
clip2clap index photos/ recordings/ --output library
clip2clap serve --index library
```
"""
_MODELS = ("index", "clip", "clap")


class SearchTab(PageTab):
    """Tab that finds files of an index."""

    def __init__(self, service: Service):
        self._service = service
        index = service.models.index
        with gr.Tab("Search", id="search"):
            if index is None:
                gr.Markdown(_NO_INDEX)
                return
            with gr.Row():
                self._add_inputs(index.counts)
                with gr.Column():
                    self.status = status_line()
                    self.page = gr.HTML()
                    self.recipes = Recipes()
                    self.kept = gr.BrowserState(None, storage_key="clip2clap-search", render=False)
        inputs = {self.words, self.unwanted, self.image, self.audio}
        add_run(
            service,
            self._search,
            inputs | {self.find, self.count, self.distinct},
            [self.status, self.page, self.kept, *self.recipes.blocks],
            start=self.start,
            cancel=self.cancel,
            status=self.status,
        )

    def _add_inputs(self, counts: Mapping[Any, int]) -> None:
        with gr.Column():
            held = f"{counts.get('image', 0):,} images and {counts.get('audio', 0):,} sounds"
            gr.Markdown(f"Find some of {held} by words, an image, a sound, or several of these.")
            self.words = gr.Textbox(label="Words", max_lines=1)
            self.unwanted = gr.Textbox(label="Words for what is not wanted", max_lines=1)
            self.image = gr.Image(
                sources=["upload", "webcam", "clipboard"],
                type="filepath",
                label="Image to search with",
                height=240,
                buttons=["fullscreen"],
            )
            self.audio = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Audio to search with",
                buttons=["download"],
            )
            self.find = gr.Radio(list(_FINDS), value=next(iter(_FINDS)), label="Find")
            self.count = gr.Slider(1, _MOST, 8, step=1, label="Results per type")
            self.distinct = gr.Checkbox(True, label="Leave out near-duplicates")
            with gr.Row():
                self.start = gr.Button("Search", variant="primary")
                self.cancel = gr.Button("Cancel", variant="stop")

    @property
    def restored(self) -> list[Any]:
        """Components that `restore` sets."""
        return [self.page, *self.recipes.blocks]

    def _shown(self, folder: Path) -> dict[Any, Any]:
        return {self.page: result_frame(folder.name, "Images and audio that were found")}

    def _search(self, values: dict[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        names = {"words": self.words, "unwanted": self.unwanted, "image": self.image}
        names |= {"audio": self.audio, "count": self.count, "distinct": self.distinct}
        sent = {name: values[component] for name, component in names.items()}
        sent["find"] = _FINDS.get(str(values[self.find]))
        folder, order, (files, notes) = yield from forms.followed(
            _follow(self._service, sent), lambda run: {self.status: forms.status(run)}
        )
        command, python = search_recipes(order, self._service.models.options(*_MODELS))
        count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
        yield {
            self.status: escape(" ".join([f"Done: {count}.", *notes])),
            self.kept: {"token": folder.name, "command": command, "python": python},
            **self.show(folder, command, python),
        }


def add_endpoint(service: Service) -> None:
    """Add `/search` to the interface for programs, where an index is open."""
    if service.models.index is None:
        return

    def search(
        words: str | None = None,
        unwanted: str | None = None,
        image: FileData | None = None,
        audio: FileData | None = None,
        find: str = "all",
        count: int = 8,
        distinct: bool = False,
    ) -> Any:
        """Find images and audio by words, an uploaded image, uploaded audio, or several of these.

        Returns the name, modality, score and address of each file, the best first.
        """
        sent = {"words": words, "unwanted": unwanted, "image": image, "audio": audio}
        sent |= {"find": find, "count": count, "distinct": distinct}
        runs = _follow(service, sent)
        folder, _, (files, _) = yield from forms.followed(runs, lambda _: [])
        yield [
            {"name": each["name"], "modality": each["modality"], "score": each["score"]}
            | {"address": f"/results/{folder.name}/{each['file']}"}
            for each in files
        ]

    add_api(service, search, list[dict[str, Any]])


def _follow(
    service: Service, sent: Mapping[str, Any]
) -> Generator[Run, None, tuple[Path, SearchOrder, tuple[list[dict[str, Any]], list[str]]]]:
    index = service.models.index
    assert index is not None
    try:
        order = _order(service, sent)
        folder = service.folders.create()
    except UserError as error:
        raise forms.refusal(error) from error
    run = service.workers.follow(
        lambda run: find_files(index, service.folders, folder, order, run), "search"
    )
    return folder, order, (yield from forms.explained(run))


def _order(service: Service, sent: Mapping[str, Any]) -> SearchOrder:
    # Never by `parse_query`, whose words may name files.
    terms, names = [], {}
    for name in ("image", "audio"):
        if sent[name] is not None:
            shown, path = forms.uploaded(sent[name], service.folders, what=name)
            terms.append(Term("image" if name == "image" else "audio", str(path)))
            names[str(path)] = shown
    for name, weight in (("words", 1.0), ("unwanted", -1.0)):
        if (text := forms.text(sent[name], name)) is not None:
            terms.append(Term("text", text, weight))
    if not any(term.weight > 0 for term in terms):
        raise UserError("There is nothing to search with yet. Write words, or upload a file.")
    expect(sent["find"] in _FINDS.values(), "find", "all, image or audio", sent["find"])
    expect(isinstance(sent["distinct"], bool), "distinct", "true or false", sent["distinct"])
    return SearchOrder(
        tuple(terms),
        names,
        find=sent["find"],
        count=forms.integer(sent["count"], "count", 1, _MOST),
        distinct=sent["distinct"],
    )
