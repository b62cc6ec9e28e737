"""Tab and endpoints for images and films from audio, by a decoder or by painting."""

from collections.abc import Callable, Generator, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.data_classes import FileData

from clip2clap.core.errors import UserError, expect
from clip2clap.metrics.image_quality import require_brisque
from clip2clap.web import forms
from clip2clap.web.filming import FilmOrder, make_film
from clip2clap.web.image_tab import file_data
from clip2clap.web.layout import Recipes, add_api, add_run, status_line
from clip2clap.web.making import ImageOrder, PaintingOrder, make_images, make_painting
from clip2clap.web.models import Service
from clip2clap.web.recipes import film_recipes, image_recipes, painting_recipes
from clip2clap.web.runs import Run

_DECODER, _PAINTING, _FILM = "Image decoder", "Painting", "Film"
_DECODER_OPTIONS = ("decoder", "decoder_translator")
_FASTEST_FPS, _MOST_PER_FRAME = 24, 50


class SoundTab:
    """Tab that generates images and films from audio."""

    def __init__(self, service: Service):
        self._service = service
        self._blocks: dict[str, Any] = {}
        with gr.Tab("Sound to image", id="sound"), gr.Row():
            with gr.Column():
                self._add_inputs()
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
                self.film = gr.Video(
                    label="Film", interactive=False, visible=False, buttons=["download"]
                )
                self.recipes = Recipes()
                self.kept = gr.BrowserState(
                    None, storage_key="clip2clap-sound-to-image", render=False
                )
        self._add_events()

    def _add_inputs(self) -> None:
        blocks = self._blocks
        self.method = gr.Radio([_DECODER, _PAINTING, _FILM], value=_DECODER, label="By")
        blocks["audio"] = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Audio",
            buttons=["download"],
        )
        blocks["audios"] = gr.File(
            file_count="multiple", label="Audio files, one after another", visible=False
        )
        self._groups = {
            _DECODER: gr.Group(),
            _PAINTING: gr.Group(visible=False),
            _FILM: gr.Group(visible=False),
        }
        limits = self._service.limits
        steps = int(self._service.models.audio_to_image.config["default_num_inference_steps"])
        with self._groups[_DECODER]:
            blocks["count"] = gr.Slider(1, limits.variations, 2, step=1, label="Images")
        with self._groups[_PAINTING]:
            blocks["iterations"] = gr.Slider(1, limits.iterations, 150, step=1, label="Iterations")
            blocks["step_size"] = gr.Slider(0.01, 1.0, 0.1, step=0.01, label="Step size")
            blocks["cutouts"] = gr.Slider(1, 32, 8, step=1, label="Cutouts")
            blocks["parts"] = gr.Slider(1, 8, 2, step=1, label="Break audio into parts")
            blocks["brisque"] = gr.Slider(
                0, 0.01, 0, step=0.001, label="Weight of BRISQUE, against distortion"
            )
        with self._groups[_FILM]:
            blocks["fps"] = gr.Slider(1, _FASTEST_FPS, 8, step=1, label="Frames per second")
            blocks["crossfade"] = gr.Slider(
                0, 5, 1, step=0.1, label="Crossfade from one file to the next, in seconds"
            )
            blocks["title"] = gr.Textbox(label="Text of an opening title", max_lines=1)
            blocks["paint_on"] = gr.Slider(
                0, _MOST_PER_FRAME, 0, step=1, label="Iterations of painting per frame, 0 for none"
            )
        with gr.Accordion("More", open=False):
            blocks["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0)
            blocks["steps"] = gr.Slider(
                1, limits.steps, steps, step=1, label="Denoising steps of the decoder"
            )

    def _add_events(self) -> None:
        add_run(
            self._service,
            self._generate,
            {self.method, *self._blocks.values()},
            [self.status, self.gallery, self.film, self.kept, *self.recipes.blocks],
            start=self.start,
            cancel=self.cancel,
            status=self.status,
        )
        self.method.change(
            self._show_inputs,
            [self.method],
            [self._blocks["audio"], self._blocks["audios"], *self._groups.values()],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def _show_inputs(self, method: str) -> list[Any]:
        is_film = method == _FILM
        return [
            gr.Audio(visible=not is_film),
            gr.File(visible=is_film),
            *(gr.Group(visible=each == method) for each in self._groups),
        ]

    @property
    def restored(self) -> list[Any]:
        """Components that `restore` sets."""
        return [self.gallery, self.film, *self.recipes.blocks]

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
        return {**self._shown(files), **recipes}

    def _shown(self, files: list[str]) -> dict[Any, Any]:
        is_film = Path(files[0]).suffix == ".mp4"
        return {
            self.gallery: gr.Gallery(None if is_film else files, visible=not is_film),
            self.film: gr.Video(files[0] if is_film else None, visible=is_film),
        }

    def _generate(self, values: dict[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        sent = {name: values[block] for name, block in self._blocks.items()}
        method = str(values[self.method])
        order, made = yield from forms.followed(
            _follow(self._service, sent, method), self._progress
        )
        options = self._service.models.options(*_DECODER_OPTIONS)
        options = {name.removeprefix("decoder_"): value for name, value in options.items()}
        command, python = _METHODS[method].recipes(order, options)
        root = self._service.folders.root
        yield {
            self.status: _summary(made),
            self.kept: {
                "files": [str(path.relative_to(root)) for path in made["files"]],
                "command": command,
                "python": python,
            },
            **self._shown([str(path) for path in made["files"]]),
            **self.recipes.shown(command, python),
        }

    def _progress(self, run: Run) -> dict[Any, Any]:
        preview = run.preview
        if preview is None:
            return {self.status: forms.status(run)}
        # The latest image, also of a film, is shown as it goes.
        shown = {
            self.gallery: gr.Gallery([preview], visible=True),
            self.film: gr.Video(visible=False),
        }
        return {self.status: forms.status(run), **shown}


def add_endpoint(service: Service) -> None:
    """Add `/audio_to_image` and `/film` to the interface for programs."""

    def audio_to_image(
        audio: FileData, count: int = 1, seed: int = 0, steps: int | None = None
    ) -> Any:
        """Generate images from uploaded audio.

        Returns the image files, the most similar first, and the nearest labels.
        """
        sent = {"audio": audio, "count": count, "seed": seed, "steps": steps}
        runs = _follow(service, sent, _DECODER)
        _, made = yield from forms.followed(runs, lambda _: ([], []))
        yield [file_data(path) for path in made["files"]], [name for name, _ in made["labels"]]

    def film(
        audios: list[FileData],
        fps: int = 8,
        crossfade: float = 1.0,
        title: str | None = None,
        paint_on: int = 0,
        seed: int = 0,
        steps: int | None = None,
    ) -> Any:
        """Generate a film of uploaded audio files, one after another.

        Returns the film as MP4.
        """
        sent = {"audios": audios, "fps": fps, "crossfade": crossfade, "title": title}
        sent |= {"paint_on": paint_on, "seed": seed, "steps": steps}
        _, made = yield from forms.followed(_follow(service, sent, _FILM), lambda _: None)
        yield file_data(made["files"][0])

    add_api(service, audio_to_image, tuple[list[FileData], list[str]])
    add_api(service, film, FileData)


def _follow(
    service: Service, sent: Mapping[str, Any], method: str
) -> Generator[Run, None, tuple[Any, dict[str, Any]]]:
    """Generate from the values of a form; return the order and what was made."""
    longest_s = service.limits.input_s
    try:
        expect(method in _METHODS, "method", f"one of {', '.join(_METHODS)}", method)
        way = _METHODS[method]
        order = way.order(service, sent)
        folder = service.folders.create()
    except UserError as error:
        raise forms.refusal(error) from error
    run = service.workers.follow(
        lambda run: way.make(service.models, folder, order, run, longest_s=longest_s), way.task
    )
    made = yield from forms.explained(run)
    return order, made


def _image_order(service: Service, sent: Mapping[str, Any]) -> ImageOrder:
    return ImageOrder(
        *forms.uploaded(sent["audio"], service.folders, what="audio"),
        count=forms.integer(sent["count"], "count", 1, service.limits.variations),
        seed=forms.integer(sent["seed"], "seed"),
        steps=_steps(service, sent),
    )


def _painting_order(service: Service, sent: Mapping[str, Any]) -> PaintingOrder:
    brisque = forms.number(sent["brisque"], "brisque", 0, 1)
    if brisque:
        require_brisque()
    return PaintingOrder(
        *forms.uploaded(sent["audio"], service.folders, what="audio"),
        iterations=forms.integer(sent["iterations"], "iterations", 1, service.limits.iterations),
        step_size=forms.number(sent["step_size"], "step_size", 0.001, 10.0),
        cutouts=forms.integer(sent["cutouts"], "cutouts", 1, 32),
        parts=forms.integer(sent["parts"], "parts", 1, 8),
        brisque=brisque,
        seed=forms.integer(sent["seed"], "seed"),
    )


def _film_order(service: Service, sent: Mapping[str, Any]) -> FilmOrder:
    files = forms.uploads(sent["audios"], service.folders, service.limits.files, what="audio files")
    most = _MOST_PER_FRAME
    return FilmOrder(
        tuple(name for name, _ in files),
        tuple(path for _, path in files),
        fps=forms.integer(sent["fps"], "fps", 1, _FASTEST_FPS),
        crossfade_s=forms.number(sent["crossfade"], "crossfade", 0, 5),
        title=forms.text(sent["title"], "title", longest=100),
        paint_on=forms.integer(sent["paint_on"], "paint_on", 0, most),
        seed=forms.integer(sent["seed"], "seed"),
        steps=_steps(service, sent),
    )


def _steps(service: Service, sent: Mapping[str, Any]) -> int | None:
    steps = sent["steps"]
    return None if steps is None else forms.integer(steps, "steps", 1, service.limits.steps)


class _Method(NamedTuple):
    """Way to make images of audio."""

    task: str
    """Name in the metrics."""
    order: Callable[[Service, Mapping[str, Any]], Any]
    """Returns the order of the values of a form."""
    make: Callable[..., dict[str, Any]]
    """Makes what an order asks for."""
    recipes: Callable[[Any, Mapping[str, str]], tuple[str, str]]
    """Returns the same on the command line and in Python."""


_METHODS = {
    _DECODER: _Method("audio_to_image", _image_order, make_images, image_recipes),
    _PAINTING: _Method("paint", _painting_order, make_painting, painting_recipes),
    _FILM: _Method("film", _film_order, make_film, film_recipes),
}


def _summary(made: Mapping[str, Any]) -> str:
    if "frames" in made:
        return f"Done: {made['frames']} frames, {made['seconds']:.1f} s."
    if "labels" in made:
        labels = ", ".join(f"{escape(label)} {value:.2f}" for label, value in made["labels"])
        count = len(made["files"])
        nearest = f" Nearest labels: {labels}." if labels else ""
        return f"Done: {count} image{'' if count == 1 else 's'}.{nearest}"
    scores = f"similarity to the audio {made['similarity']:.2f}"
    if made.get("brisque") is not None:
        scores += f", BRISQUE {made['brisque']:.1f}"
    return f"Done: {scores}."
