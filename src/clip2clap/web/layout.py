"""Parts of pages that several tabs have."""

from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from clip2clap.core.errors import UserError
from clip2clap.web.models import Service

RUNS = "runs"
"""Queue of everything that a worker computes."""


# The page of a result is as high as its content.
_FRAME = """\
<iframe class="result" title="{title}" src="results/{token}/index.html"
 onload="const fit = () => {{ this.style.height = this.contentDocument.documentElement.scrollHeight
 + 8 + 'px'; }}; fit(); new ResizeObserver(fit).observe(this.contentDocument.body);"></iframe>
<p><a href="results/{token}/index.html" target="_blank">Open in a window of its own</a></p>
"""


# gradio passes over clicks until a cancelled run has ended, so the button is off until then.
_WAITING = "() => { window.isCancelled = false; return 'Waiting.'; }"
_CANCELLING = """(text) => {
  window.isCancelled = /^Waiting|<progress/.test(text);
  const off = { __type__: "update", interactive: false };
  return window.isCancelled ? ["Cancelling.", off] : [text, { __type__: "update" }];
}"""
_ENDED = """(text) => {
  const isOpen = /^Waiting|^Cancelling|<progress/.test(text);
  const ended = window.isCancelled ? "Cancelled." : "Not done.";
  return [isOpen ? ended : text, { __type__: "update", interactive: true }];
}"""


def result_frame(token: str, title: str) -> str:
    """Return HTML that shows the page of a result by the name of its folder."""
    return _FRAME.format(token=escape(token), title=escape(title))


def read_static(name: str) -> str:
    """Return the text of a file that comes with the pages."""
    return (resources.files("clip2clap.web") / "static" / name).read_text(encoding="utf-8")


def create_theme() -> gr.Theme:
    """Return gradio's default theme without web fonts, and with text that contrasts enough."""
    theme = gr.themes.Default(
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_cancel_background_fill="*neutral_700",
        button_cancel_background_fill_hover="*neutral_800",
        link_text_color_dark="*secondary_300",
    )


class Recipes:
    """The same result on the command line and in Python, beside a result."""

    def __init__(self) -> None:
        with gr.Accordion("The same on the command line and in Python", open=False):
            # The colors of a language contrast too little.
            self._command = gr.Code(
                label="On the command line", language=None, interactive=False, wrap_lines=True
            )
            self._python = gr.Code(
                label="In Python", language=None, interactive=False, wrap_lines=True
            )
        self.blocks = (self._command, self._python)
        """Components that `shown` sets."""

    def shown(self, command: str, python: str) -> dict[Any, Any]:
        """Return the values of the components."""
        return {self._command: command, self._python: python}


class PageTab:
    """Tab whose result is a page in a folder of the session, kept in the browser by its token."""

    _service: Service
    recipes: Recipes

    def restore(self, kept: Any) -> dict[Any, Any]:
        """Return what a page that is loaded again shows of the last result, if it is kept."""
        token = kept.get("token") if isinstance(kept, Mapping) else None
        try:
            folder = self._service.folders.file(f"{token}/index.html").parent
        except UserError:
            return gr.skip()
        return self.show(folder, str(kept.get("command")), str(kept.get("python")))

    def show(self, folder: Path, command: str, python: str) -> dict[Any, Any]:
        """Return what shows the page in a folder, and the recipes beside it."""
        return {**self._shown(folder), **self.recipes.shown(command, python)}

    def _shown(self, folder: Path) -> dict[Any, Any]:
        """Return what shows the page in a folder."""
        raise NotImplementedError


def add_run(
    service: Service,
    function: Callable[..., Any],
    inputs: Any,
    outputs: list[Any],
    *,
    start: gr.Button,
    cancel: gr.Button,
    status: gr.HTML,
) -> None:
    """Run a function in the queue on a click, until it ends or is cancelled."""
    start.click(None, None, status, js=_WAITING, show_progress="hidden", api_visibility="private")
    started = start.click(
        function,
        inputs,
        outputs,
        preprocess=False,
        concurrency_id=RUNS,
        concurrency_limit=service.limits.workers,
        show_progress_on=status,
        api_visibility="private",
    )
    both: dict[str, Any] = {"outputs": [status, start], "show_progress": "hidden"}
    cancel.click(None, status, js=_CANCELLING, cancels=[started], api_visibility="private", **both)
    # `then` is for runs that were done or cancelled.
    for ended in (started.then, started.failure):
        ended(None, status, js=_ENDED, api_visibility="private", **both)


def add_api(service: Service, function: Callable[..., Any], returns: Any) -> None:
    """Add a function to the interface for programs, by its name; it runs in the queue."""
    function.__annotations__["return"] = returns
    gr.api(
        function,
        api_name=function.__name__,
        concurrency_id=RUNS,
        concurrency_limit=service.limits.workers,
    )


def status_line() -> gr.HTML:
    """Return the line that tells progress, which screen readers read aloud."""
    return gr.HTML(
        "",
        html_template='<div role="status" aria-live="polite">${value}</div>',
        elem_classes="status",
    )
