"""Inputs for audio of an image, which several tabs have."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from clip2clap.web import forms
from clip2clap.web.making import AudioOrder
from clip2clap.web.models import Service


class ImageInput:
    """Image of a file, the webcam, the clipboard, an address or an example; length, seed, steps."""

    def __init__(self, service: Service):
        self._service, limits = service, service.limits
        default = min(service.models.image_to_audio.default_audio_length_in_s, limits.output_s)
        self._image = gr.Image(
            sources=["upload", "webcam", "clipboard"],
            type="filepath",
            label="Image",
            buttons=["fullscreen"],
        )
        self._address = gr.Textbox(label="Or the address of an image", max_lines=1)
        paths = [[str(path)] for path in service.examples.values()]
        gr.Examples(paths, [self._image], example_labels=list(service.examples))
        self._seconds = gr.Slider(
            0.5, limits.output_s, round(default, 1), step=0.1, label="Length in seconds"
        )

    def add_more(self) -> None:
        """Add the inputs that few need."""
        limits, pipeline = self._service.limits, self._service.models.image_to_audio
        steps = int(pipeline.config["default_num_inference_steps"])
        with gr.Accordion("More", open=False):
            self._seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            self._steps = gr.Slider(1, limits.steps, steps, step=1, label="Denoising steps")

    @property
    def _named(self) -> dict[str, Any]:
        return {
            "image": self._image,
            "address": self._address,
            "seconds": self._seconds,
            "seed": self._seed,
            "steps": self._steps,
        }

    @property
    def blocks(self) -> set[Any]:
        """Components of the inputs."""
        return set(self._named.values())

    def sent(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the values of the inputs by their names."""
        return {name: values[block] for name, block in self._named.items()}


def audio_order(service: Service, sent: Mapping[str, Any]) -> AudioOrder:
    """Return the order of the values of a form.

    Raises:
        UserError: If one is wrong.
    """
    limits, pipeline = service.limits, service.models.image_to_audio
    name, content = forms.image_source(sent["image"], sent["address"], service.folders)
    seconds = sent["seconds"]
    if seconds is None:
        seconds = min(pipeline.default_audio_length_in_s, limits.output_s)
    variations = forms.integer(sent["variations"], "variations", 1, limits.variations)
    steps = sent["steps"]
    return AudioOrder(
        name,
        content,
        seconds=forms.number(seconds, "seconds", 0.1, limits.output_s),
        variations=variations,
        candidates=max(variations, int(pipeline.config["default_num_candidates"])),
        negative_prompt=forms.text(sent["negative_prompt"], "negative_prompt"),
        seed=forms.integer(sent["seed"], "seed"),
        steps=None if steps is None else forms.integer(steps, "steps", 1, limits.steps),
    )
