"""Tab about the models of a server, their licenses and what they know."""

from typing import Any

import gradio as gr

from clip2clap.core.version import __version__
from clip2clap.search.labels import read_labels
from clip2clap.web.models import Service

_HOW = """\
CLIP encodes an image as a vector, a translator maps it into the space of CLAP, which embeds audio
and text, and a diffusion model generates audio from it, in place of a text prompt. The same idea
runs backwards: from CLAP through a translator into CLIP's space, and on to an image decoder.
"""
_DEMO = """\
The demo models know {count} classes: {labels}. The generator makes audio of {further}, too. Images
of other things are heard as the nearest of them. Their weights hold EfficientNet-Lite0, YAMNet and
all-MiniLM-L6-v2 (Apache 2.0) in changed form, and were trained on Tiny ImageNet, CIFAR-10, ESC-50
(CC BY-NC 3.0) and others: they are for research and other non-commercial use. The code is under the
Apache License 2.0.
"""
_KEPT = """\
Uploads and results are kept for {minutes:.0f} minutes, under names that cannot be guessed, and then
removed. Nothing is sent to other servers; an image's address is fetched by this one.
"""


def add_about_tab(service: Service) -> None:
    """Add the tab about models and licenses."""
    models = service.models
    labels = read_labels("demo")
    further = read_labels("demo-audio")[len(labels) :]
    with gr.Tab("About", id="about"):
        gr.Markdown(f"clip2clap {__version__}. {_HOW}")
        named = ", ".join(f"`{name}` {value}" for name, value in models.names.items())
        if named:
            gr.Markdown(f"Models that are not the demo's: {named}. Their licenses are their own.")
        gr.Markdown(
            _DEMO.format(count=len(labels), labels=", ".join(labels), further=", ".join(further))
        )
        gr.Markdown(_KEPT.format(minutes=service.limits.kept_s / 60))
        gr.Markdown(_parts("Image to sound", models.image_to_audio))
        gr.Markdown(_parts("Sound to image", models.audio_to_image))


def _parts(title: str, pipeline: Any) -> str:
    """Return a Markdown table of a pipeline's networks and their sizes."""
    rows = [
        f"| {name.replace('_', ' ')} | {type(part).__name__} | {_millions(part)} |"
        for name, part in pipeline.components.items()
        if hasattr(part, "parameters")
    ]
    head = "| part | class | million parameters |\n|---|---|---|\n"
    return f"## {title}\n\n{head}" + "\n".join(rows)


def _millions(part: Any) -> str:
    return f"{sum(each.numel() for each in part.parameters()) / 1e6:.2f}"
