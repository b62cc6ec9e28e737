"""Tab and endpoint for images from audio, by a decoder or by painting."""

from collections.abc import Callable, Generator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError
from clip2clap.web import forms
from clip2clap.web.image_tab import file_data
from clip2clap.web.layout import Recipes, add_api, add_run, status_line
from clip2clap.web.making import ImageOrder, PaintingOrder, make_images, make_painting
from clip2clap.web.models import Service
from clip2clap.web.recipes import image_recipes, painting_recipes
from clip2clap.web.runs import Run

_DECODER, _PAINTING = "Image decoder", "Painting"
_DECODER_OPTIONS = ("decoder", "decoder_translator")


class SoundTab:
    """Tab that generates images from audio."""

    def __init__(self, service: Service):
        self._service = service
        limits = service.limits
        steps = int(service.models.audio_to_image.config["default_num_inference_steps"])
        with gr.Tab("Sound to image", id="sound"), gr.Row():
            with gr.Column():
                self.audio = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Audio",
                    buttons=["download"],
                )
                self.method = gr.Radio([_DECODER, _PAINTING], value=_DECODER, label="By")
                self.count = gr.Slider(1, limits.variations, 2, step=1, label="Images")
                with gr.Accordion("More", open=False):
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                    self.steps = gr.Slider(1, limits.steps, steps, step=1, label="Denoising steps")
                    gr.Markdown("Of paintings:")
                    self.iterations = gr.Slider(
                        1, limits.iterations, 150, step=1, label="Iterations"
                    )
                    self.step_size = gr.Slider(0.01, 1.0, 0.1, step=0.01, label="Step size")
                    self.cutouts = gr.Slider(1, 32, 8, step=1, label="Cutouts")
                    self.parts = gr.Slider(1, 8, 2, step=1, label="Break audio into parts")
                with gr.Row():
                    self.start = gr.Button("Generate", variant="primary")
                    self.cancel = gr.Button("Cancel", variant="stop")
            with gr.Column():
                self.status = status_line()
                self.gallery = gr.Gallery(
                    label="Images",
                    columns=2,
                    object_fit="contain",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                self.recipes = Recipes()
                self.kept = gr.BrowserState(None, storage_key="clip2clap-sound-to-image")
        self._add_events()

    def _add_events(self) -> None:
        inputs = {self.audio, self.method, self.count, self.seed, self.steps}
        inputs |= {self.iterations, self.step_size, self.cutouts, self.parts}
        add_run(
            self._service,
            self._generate,
            inputs,
            [self.status, self.gallery, self.kept, *self.recipes.blocks],
            start=self.start,
            cancel=self.cancel,
            status=self.status,
        )

    @property
    def restored(self) -> list[Any]:
        """Components that `restore` sets."""
        return [self.gallery, *self.recipes.blocks]

    def restore(self, kept: Any) -> dict[Any, Any]:
        """Return what a page that is loaded again shows of the last result, if it is kept."""
        names = kept.get("files") if isinstance(kept, Mapping) else None
        try:
            files = [str(self._service.folders.file(str(name))) for name in names or ()]
        except UserError:
            return gr.skip()
        if not files:
            return gr.skip()
        recipes = self.recipes.shown(str(kept.get("command")), str(kept.get("python")))
        return {self.gallery: files, **recipes}

    def _generate(self, values: dict[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        names = {"audio": self.audio, "count": self.count, "seed": self.seed, "steps": self.steps}
        names |= {"iterations": self.iterations, "step_size": self.step_size}
        names |= {"cutouts": self.cutouts, "parts": self.parts}
        sent = {name: values[component] for name, component in names.items()}
        is_painting = values[self.method] == _PAINTING
        order, made = yield from forms.followed(
            _follow(self._service, sent, painting=is_painting), self._progress
        )
        options = self._service.models.options(*_DECODER_OPTIONS)
        options = {name.removeprefix("decoder_"): value for name, value in options.items()}
        recipes = painting_recipes if is_painting else image_recipes
        command, python = recipes(order, options)
        root = self._service.folders.root
        files = [str(path.relative_to(root)) for path in made["files"]]
        yield {
            self.status: _summary(made),
            self.gallery: [str(path) for path in made["files"]],
            self.kept: {"files": files, "command": command, "python": python},
            **self.recipes.shown(command, python),
        }

    def _progress(self, run: Run) -> dict[Any, Any]:
        shown = {} if run.preview is None else {self.gallery: [run.preview]}
        return {self.status: forms.status(run), **shown}


def add_endpoint(service: Service) -> None:
    """Add `/audio_to_image` to the interface for programs."""

    def audio_to_image(
        audio: FileData, count: int = 1, seed: int = 0, steps: int | None = None
    ) -> Any:
        """Generate images from uploaded audio.

        Returns the image files, the most similar first, and the nearest labels.
        """
        sent = {"audio": audio, "count": count, "seed": seed, "steps": steps}
        runs = _follow(service, sent, painting=False)
        _, made = yield from forms.followed(runs, lambda _: ([], []))
        yield [file_data(path) for path in made["files"]], [name for name, _ in made["labels"]]

    add_api(service, audio_to_image, tuple[list[FileData], list[str]])


def _follow(
    service: Service, sent: Mapping[str, Any], *, painting: bool
) -> Generator[Run, None, tuple[Any, dict[str, Any]]]:
    """Generate images from the values of a form; return the order and what was made."""
    make: Callable[..., dict[str, Any]] = make_painting if painting else make_images
    longest_s = service.limits.input_s
    try:
        name, path = forms.uploaded(sent["audio"], service.folders, what="audio")
        order = (_painting_order if painting else _image_order)(service, name, path, sent)
        folder = service.folders.create()
    except UserError as error:
        raise forms.refusal(error) from error
    run = service.workers.follow(
        lambda run: make(service.models, folder, order, run, longest_s=longest_s)
    )
    made = yield from forms.explained(run)
    return order, made


def _image_order(service: Service, name: str, path: Path, sent: Mapping[str, Any]) -> ImageOrder:
    limits, steps = service.limits, sent["steps"]
    return ImageOrder(
        name,
        path,
        count=forms.integer(sent["count"], "count", 1, limits.variations),
        seed=forms.integer(sent["seed"], "seed"),
        steps=None if steps is None else forms.integer(steps, "steps", 1, limits.steps),
    )


def _painting_order(
    service: Service, name: str, path: Path, sent: Mapping[str, Any]
) -> PaintingOrder:
    return PaintingOrder(
        name,
        path,
        iterations=forms.integer(sent["iterations"], "iterations", 1, service.limits.iterations),
        step_size=forms.number(sent["step_size"], "step_size", 0.001, 10.0),
        cutouts=forms.integer(sent["cutouts"], "cutouts", 1, 32),
        parts=forms.integer(sent["parts"], "parts", 1, 8),
        seed=forms.integer(sent["seed"], "seed"),
    )


def _summary(made: Mapping[str, Any]) -> str:
    if "labels" in made:
        labels = ", ".join(f"{escape(label)} {value:.2f}" for label, value in made["labels"])
        count = len(made["files"])
        nearest = f" Nearest labels: {labels}." if labels else ""
        return f"Done: {count} image{'' if count == 1 else 's'}.{nearest}"
    scores = f"similarity to the audio {made['similarity']:.2f}"
    if made.get("brisque") is not None:
        scores += f", BRISQUE {made['brisque']:.1f}"
    return f"Done: {scores}."
