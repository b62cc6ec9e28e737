"""Odd values of every verb's options: done, or refused by one clear line, never a traceback."""

import contextlib
import io
from dataclasses import Field
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from clip2clap.cli.app import VERBS, app, main
from clip2clap.cli.command import KEY, declared_options, flag_of

from .builders import bounded_time, few

# What each verb reads is not there, which it says once its options are in order.
VERBS_BY_NAME = {verb.__name__.replace("_", "-"): verb for verb in VERBS}
INPUTS = {"norms": "absent", "train": "absent", "sweep": "absent", "evaluate": "absent/x/y"}
NUMBERS = st.sampled_from(
    ["0", "1", "-1", "2", "0.5", "1e3", "1e400", "nan", "-inf", "9" * 40, "0x10", "1,2", "1x2"]
)
TEXTS = st.sampled_from(
    [
        *("", " ", "a:b", "a:nan", ":", "auto", "demo", "cuda:99", "--", "-", "é\udce9", "a\nb"),
        *("x" * 300, "../..", "/dev/null", "~nobody-here/a", "a/b/c", "[*]", "http://[", "$_$"),
        *("cosine:1+mse:x", "[bold]", "\u0661"),
    ]
)


def words_of(option: Field[Any]) -> st.SearchStrategy[list[str]]:
    """Return a strategy of an option with a value, or of an argument."""
    values = NUMBERS | TEXTS | st.text(st.characters(exclude_characters="\0"), max_size=4)
    choices = [
        str(choice) for part in (option.type, *get_args(option.type)) for choice in get_args(part)
    ]
    values = values | st.sampled_from(choices) if choices else values
    if "argument" in option.metadata[KEY]:
        return values.map(lambda value: [value])
    if option.type is bool:
        return st.just([flag_of(option)])
    return values.map(lambda value: [flag_of(option), value])


@pytest.mark.parametrize("name", sorted(VERBS_BY_NAME))
def test_odd_values_end_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # Declared once, since that takes longer than all else.
    command = typer.main.get_command(app)
    monkeypatch.setattr("typer.main.get_command", lambda _: command)
    options = [o for o in declared_options(VERBS_BY_NAME[name]).values() if o.name != "output"]

    @few(15)
    @given(st.lists(st.sampled_from(options).flatmap(words_of), min_size=1, max_size=3))
    def check(given_options: list[list[str]]) -> None:
        words = [word for option in given_options for word in option]
        with bounded_time():
            status, complaint = run([name, INPUTS.get(name, "absent.wav"), *words, "-o", "out"])
        assert status in (0, 1, 2), complaint
        assert "Traceback" not in complaint
        if status == 2:
            errors = [line for line in complaint.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1
            assert complaint.rstrip().endswith(errors[0])

    check()


def run(words: list[str]) -> tuple[int, str]:
    """Run the command line in this process; returns its exit code and what it says on stderr."""
    stderr = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as ended,
    ):
        main(words)
    return int(str(ended.value.code)), stderr.getvalue()
