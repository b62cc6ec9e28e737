"""Every public class and function has an example in its docstring, and the example runs."""

import doctest
import importlib
import inspect
from collections.abc import Iterator

import pytest

PACKAGES = ("media", "embeddings", "translator", "training", "inference", "evaluation", "search")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# What these packages export beside classes and functions needs no example.
NOT_SHOWN = {"UserError"}


def public() -> Iterator[tuple[str, object]]:
    """Yield each public name once, with what it stands for."""
    seen = set()
    for package in ("clip2clap", *(f"clip2clap.{name}" for name in PACKAGES)):
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if id(thing) not in seen and name not in NOT_SHOWN:
                seen.add(id(thing))
                yield f"{package}.{name}", thing


PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_a_docstring_run(name: str, folder: object) -> None:
    thing = PUBLIC[name]
    tests = [
        test for test in doctest.DocTestFinder(exclude_empty=True).find(thing) if test.examples
    ]
    assert any(test.name == name.split(".")[-1] for test in tests), f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in tests:
        failed, _ = runner.run(test)
        assert not failed, test.name


@pytest.mark.parametrize("name", PUBLIC)
def test_help_opens_with_a_sentence(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert text.splitlines()[0].endswith("."), name


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_at_most_twelve_names(package: str) -> None:
    assert len(importlib.import_module(f"clip2clap.{package}").__all__) <= 12
