"""Hooks of pytest: how tests are spread over processes, and what each process does."""

import gc
from importlib import import_module

import pytest

from clip2clap.core.allocator import keep_freed_memory


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run on up to four processes where pytest-xdist is installed; `-n` overrides this.

    The tests of a file share one process, since they share fixtures that are slow to make.
    """
    option = config.option
    worker = hasattr(config, "workerinput")
    if worker or not config.pluginmanager.hasplugin("xdist") or option.numprocesses is not None:
        return
    option.numprocesses = "logical"
    option.maxprocesses = option.maxprocesses or 4
    if option.dist == "no":
        option.dist = "loadfile"
        option.loadscopereorder = False


def pytest_configure(config: pytest.Config) -> None:
    """Import the fixtures where tests run; a process that only hands them out needs no torch."""
    option, worker = config.option, hasattr(config, "workerinput")
    if worker or option.collectonly or config.getoption("dist", "no") == "no":
        fixtures = import_module(".fixtures", __package__)
        config.pluginmanager.register(fixtures, fixtures.__name__)


def pytest_collection_finish() -> None:
    """Let garbage collection pass over the libraries, which stay."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Reuse freed memory, also after a test in low memory."""
    keep_freed_memory()
