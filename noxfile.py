"""Sessions of the checks: `nox -s lint types tests docs`; `nox -l` lists them."""

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.reuse_existing_virtualenvs = True
PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, import contracts and size limits, for which the package itself is not needed."""
    session.install("ruff", "import-linter")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run(".ci/limits", external=True)
    session.run(".ci/typing-tree", external=True)
    session.run("lint-imports", env={"PYTHONPATH": ".typing"})


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.install("-e", ".[dev]")
    session.run(".ci/typing-tree", external=True)
    session.run("pyright")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; what follows `--` goes to pytest."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, with warnings as errors."""
    session.install("-e", ".[docs]")
    session.run(".ci/docs", external=True)
