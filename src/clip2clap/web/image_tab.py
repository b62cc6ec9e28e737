"""Tab and endpoint for audio from an image."""

from collections.abc import Generator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError
from clip2clap.web import forms
from clip2clap.web.image_input import ImageInput, audio_order
from clip2clap.web.layout import PageTab, Recipes, add_api, add_run, result_frame, status_line
from clip2clap.web.making import AudioOrder, make_audio, trim
from clip2clap.web.models import Service
from clip2clap.web.recipes import audio_recipes
from clip2clap.web.runs import Run

_OPTIONS = ("generator", "clip", "translator")


class ImageTab(PageTab):
    """Tab that generates audio from an image."""

    def __init__(self, service: Service):
        self._service = service
        limits = service.limits
        with gr.Tab("Image to sound", id="image"), gr.Row():
            with gr.Column():
                self.input = ImageInput(service)
                self.variations = gr.Slider(1, limits.variations, 2, step=1, label="Variations")
                self.negative = gr.Textbox(label="Negative words: what it should not sound like")
                self.input.add_more()
                with gr.Row():
                    self.start = gr.Button("Generate", variant="primary")
                    self.cancel = gr.Button("Cancel", variant="stop")
            with gr.Column():
                self.status = status_line()
                self.page = gr.HTML()
                self.recipes = Recipes()
                self._add_trimming()
                self.kept = gr.BrowserState(
                    None, storage_key="clip2clap-image-to-sound", render=False
                )
        self._add_events()

    def _add_trimming(self) -> None:
        with gr.Accordion("Trim", open=False):
            self.file = gr.Dropdown([], label="File", interactive=True)
            with gr.Row():
                self.from_s = gr.Number(0.0, label="From second", minimum=0)
                self.to_s = gr.Number(1.0, label="To second", minimum=0)
            self.cut = gr.Button("Trim")
            self.trimmed = gr.Audio(label="Trimmed", interactive=False, buttons=["download"])

    def _add_events(self) -> None:
        inputs = self.input.blocks | {self.variations, self.negative}
        shown = [self.status, self.page, self.file, self.kept, *self.recipes.blocks]
        add_run(
            self._service,
            self._generate,
            inputs,
            shown,
            start=self.start,
            cancel=self.cancel,
            status=self.status,
        )
        self.cut.click(
            self._trim,
            [self.file, self.from_s, self.to_s],
            self.trimmed,
            preprocess=False,
            concurrency_limit=None,
            api_visibility="private",
        )

    @property
    def restored(self) -> list[Any]:
        """Components that `restore` sets."""
        return [self.page, self.file, *self.recipes.blocks]

    def _shown(self, folder: Path) -> dict[Any, Any]:
        files = sorted(each.name for each in folder.glob("*.wav"))
        paths = [(name, f"{folder.name}/{name}") for name in files]
        return {
            self.page: result_frame(folder.name, "Generated audio"),
            self.file: gr.Dropdown(paths, value=paths[0][1] if paths else None),
        }

    def _generate(self, values: dict[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        sent = {
            **self.input.sent(values),
            "variations": values[self.variations],
            "negative_prompt": values[self.negative],
        }
        folder, order, entry = yield from forms.followed(
            follow(self._service, sent), lambda run: {self.status: forms.status(run)}
        )
        command, python = audio_recipes(order, self._service.models.options(*_OPTIONS))
        kept = {"token": folder.name, "command": command, "python": python}
        shown = self.show(folder, command, python)
        yield {**shown, self.status: _summary(entry), self.kept: kept}

    def _trim(self, file: Any, start: Any, end: Any) -> str:
        folders, longest = self._service.folders, self._service.limits.output_s
        try:
            source = folders.file(str(file))
            begin = forms.number(start, "start", 0, longest)
            return str(trim(folders.create(), source, begin, forms.number(end, "end", 0, longest)))
        except UserError as error:
            raise forms.refusal(error) from error


def follow(
    service: Service, sent: Mapping[str, Any]
) -> Generator[Run, None, tuple[Path, AudioOrder, dict[str, Any]]]:
    """Generate audio from the values of a form; return its folder, the order and its entry.

    Raises:
        gr.Error: If a value is wrong, or the run fails.
    """
    try:
        order = audio_order(service, sent)
        folder = service.folders.create()
    except UserError as error:
        raise forms.refusal(error) from error
    run = service.workers.follow(
        lambda run: make_audio(service.models, folder, order, run), "image_to_audio"
    )
    entry = yield from forms.explained(run)
    return folder, order, entry


def add_endpoint(service: Service) -> None:
    """Add `/image_to_audio` to the interface for programs."""

    def image_to_audio(
        image: FileData | None = None,
        address: str | None = None,
        seconds: float | None = None,
        variations: int = 1,
        negative_prompt: str | None = None,
        seed: int = 0,
        steps: int | None = None,
    ) -> Any:
        """Generate audio from an uploaded image, or from one at an address.

        Returns the audio files, the best first, and what the manifest of a run has of them.
        """
        sent = {"image": image, "address": address, "seconds": seconds, "variations": variations}
        sent |= {"negative_prompt": negative_prompt, "seed": seed, "steps": steps}
        folder, _, entry = yield from forms.followed(follow(service, sent), lambda _: ([], {}))
        files = [file_data(folder / each["path"]) for each in entry["outputs"]]
        # Clients take every path for that of a file to download.
        outputs = [{k: v for k, v in each.items() if k != "path"} for each in entry["outputs"]]
        yield files, {**entry, "outputs": outputs}

    add_api(service, image_to_audio, tuple[list[FileData], dict[str, Any]])


def file_data(path: Path) -> dict[str, Any]:
    """Return a file as clients of the interface download it."""
    return FileData(path=str(path), orig_name=path.name).model_dump()


def _summary(entry: Mapping[str, Any]) -> str:
    count = len([each for each in entry["outputs"] if each["kept"]])
    heard = entry["heard_as"]
    label = (
        f" Heard as {escape(heard[0]['label'])}, {heard[0]['probability']:.0%}." if heard else ""
    )
    return f"Done: {count} audio file{'' if count == 1 else 's'}.{label}"
