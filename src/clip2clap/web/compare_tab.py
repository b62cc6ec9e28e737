"""Tab that compares two translators by the audio of one image, blind or open, with votes."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from clip2clap.core.errors import UserError
from clip2clap.web import forms
from clip2clap.web.comparing import Comparison, Contest
from clip2clap.web.image_input import ImageInput, audio_order
from clip2clap.web.layout import Recipes, add_run, status_line
from clip2clap.web.models import Service
from clip2clap.web.recipes import audio_recipes
from clip2clap.web.runs import Run
from clip2clap.web.votes import Choice, Tally

_NO_TRANSLATORS = """\
There is one translator here. Name a second one of the same CLIP into the generator's CLAP, and the
file to write votes to:

```bash
clip2clap serve --translator first/ --second-translator second/ --votes votes.csv
```
"""
_BUTTONS: dict[Choice, str] = {
    "left": "Left is better",
    "same": "Both alike",
    "right": "Right is better",
}


class CompareTab:
    """Tab that compares two translators."""

    def __init__(self, service: Service):
        self._service = service
        contest = service.contest
        with gr.Tab("Compare translators", id="compare"):
            if contest is None:
                gr.Markdown(_NO_TRANSLATORS)
                return
            self._contest = contest
            with gr.Row():
                self._add_inputs()
                self._add_results()
        self._add_events()

    def _add_inputs(self) -> None:
        with gr.Column():
            gr.Markdown(
                "Two translators make sound of one image, from the same noise. Which one fits it "
                "better?"
            )
            self.input = ImageInput(self._service)
            self.input.add_more()
            self.blind = gr.Checkbox(True, label="Hide which is which until the vote")
            with gr.Row():
                self.start = gr.Button("Compare", variant="primary")
                self.cancel = gr.Button("Cancel", variant="stop")

    def _add_results(self) -> None:
        with gr.Column():
            self.status = status_line()
            with gr.Row():
                self.left, self.right = (
                    gr.Audio(label=side, interactive=False, buttons=["download"], min_width=200)
                    for side in ("Left", "Right")
                )
            with gr.Row():
                self.buttons: dict[Choice, gr.Button] = {
                    choice: gr.Button(text, interactive=False, min_width=100)
                    for choice, text in _BUTTONS.items()
                }
            self.recipes = Recipes()
            self.summary = gr.HTML(self._table())
            self.kept = gr.BrowserState(
                None, storage_key="clip2clap-compare-translators", render=False
            )

    def _add_events(self) -> None:
        shown = [self.status, self.kept, *self.restored]
        add_run(
            self._service,
            self._compare,
            self.input.blocks | {self.blind},
            shown,
            start=self.start,
            cancel=self.cancel,
            status=self.status,
        )
        for choice, button in self.buttons.items():
            button.click(
                partial(self._vote, choice),
                [self.kept],
                [self.status, *self.restored],
                preprocess=False,
                concurrency_limit=None,
                api_visibility="private",
            )

    @property
    def restored(self) -> list[Any]:
        """Components that `restore` sets."""
        buttons = self.buttons.values()
        return [self.left, self.right, self.summary, *buttons, *self.recipes.blocks]

    def restore(self, kept: Any) -> dict[Any, Any]:
        """Return what a page that is loaded again shows of the last comparison, if it is kept."""
        try:
            return self._shown(self._contest.find(_token(kept)))
        except UserError:
            return {self.summary: self._table()}

    def _compare(self, values: dict[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        sent = {**self.input.sent(values), "variations": 1, "negative_prompt": None}
        sent["blind"] = values[self.blind]
        comparison = yield from forms.followed(
            _follow(self._service, self._contest, sent),
            lambda run: {self.status: forms.status(run)},
        )
        yield {
            self.status: "Done. Listen to both, then vote.",
            self.kept: {"token": comparison.folder.name},
            **self._shown(comparison),
        }

    def _vote(self, choice: Choice, kept: Any) -> dict[Any, Any]:
        try:
            comparison = self._contest.find(_token(kept))
            self._contest.vote(comparison, choice)
        except UserError as error:
            raise forms.refusal(error) from error
        left, right = (f"<b>{escape(each.name)}</b>" for each in comparison.sides)
        return {
            self.status: f"Your vote: {_BUTTONS[choice]}. Left was {left}, right was {right}.",
            **self._shown(comparison),
        }

    def _shown(self, comparison: Comparison) -> dict[Any, Any]:
        is_open = comparison.choice is not None or not comparison.is_blind
        titles, recipes = ["Left", "Right"], ("", "")
        if is_open:
            names = [each.name for each in comparison.sides]
            titles = [f"{side}: {name}" for side, name in zip(titles, names, strict=True)]
            recipes = self._recipes(comparison)
        audio = {
            player: gr.Audio(str(path), label=title)
            for player, path, title in zip(
                (self.left, self.right), comparison.files, titles, strict=True
            )
        }
        may_vote = comparison.choice is None
        return {
            **audio,
            **{each: gr.Button(interactive=may_vote) for each in self.buttons.values()},
            **self.recipes.shown(*recipes),
            self.summary: self._table(),
        }

    def _recipes(self, comparison: Comparison) -> tuple[str, str]:
        models = self._service.models.options("generator", "clip")
        parts = []
        for each in comparison.sides:
            named = {} if each.translator is None else {"translator": each.translator}
            parts.append(audio_recipes(comparison.order, {**models, **named}))
        commands, codes = zip(*parts, strict=True)
        return "\n".join(commands), "\n".join(codes)

    def _table(self) -> str:
        first, second = self._contest.pair
        pair, votes = (first.fingerprint, second.fingerprint), self._contest.votes
        tallies = {"Blind": votes.tally(*pair, blind=True), "Open": votes.tally(*pair, blind=False)}
        rows = "".join(_row(name, tally) for name, tally in tallies.items())
        heads = ["Votes", first.name, second.name, "Alike", "p"]
        head = "".join(f"<th scope='col'>{escape(each)}</th>" for each in heads)
        return f"<table class='labels votes'><tr>{head}</tr>{rows}</table>"


def _row(name: str, tally: Tally) -> str:
    p_value = "" if tally.p_value is None else f"{tally.p_value:.3g}"
    cells = "".join(f"<td>{each}</td>" for each in (tally.wins, tally.losses, tally.ties, p_value))
    return f"<tr><th scope='row'>{name}</th>{cells}</tr>"


def _token(kept: Any) -> Any:
    return kept.get("token") if isinstance(kept, Mapping) else None


def _follow(
    service: Service, contest: Contest, sent: Mapping[str, Any]
) -> Generator[Run, None, Comparison]:
    try:
        # One each: a choice among several would be a comparison of the ranking, too.
        order = replace(audio_order(service, sent), candidates=1)
        folder = service.folders.create()
    except UserError as error:
        raise forms.refusal(error) from error
    is_blind = sent["blind"] is not False
    run = service.workers.follow(
        lambda run: contest.compare(folder, order, run, is_blind=is_blind), "compare"
    )
    return (yield from forms.explained(run))
