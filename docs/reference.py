"""Write the reference pages while mkdocs builds: one per package and one per verb."""

import ast
import inspect
from pathlib import Path

import mkdocs_gen_files
import typer

from clip2clap.cli.app import app

PACKAGES = {
    "clip2clap": Path("src/clip2clap"),
    "clip2clap.embeddings": Path("embeddings"),
    "clip2clap.translator": Path("translator"),
    "clip2clap.training": Path("training"),
    "clip2clap.inference": Path("inference"),
    "clip2clap.inference.batch": Path("inference/batch"),
    "clip2clap.evaluation": Path("evaluation"),
    "clip2clap.search": Path("src/clip2clap/search"),
}


def public_names(folder: Path) -> dict[str, str]:
    """Return each name of a package's `__init__.pyi` with the module it is imported from."""
    tree = ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        alias.name: node.module or ""
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def write_python() -> None:
    """Write the pages of the packages."""
    rows = []
    documented: set[str] = set()
    for package, folder in PACKAGES.items():
        if package == "clip2clap":
            continue
        names = public_names(folder)
        with mkdocs_gen_files.open(f"reference/python/{package.split('.')[-1]}.md", "w") as page:
            page.write(f"# {package}\n\n::: {package}\n    options:\n      members: false\n")
            page.write("      show_root_heading: false\n\n")
            for name in sorted(names):
                page.write(f"::: {package}.{names[name]}.{name}\n\n")
                documented.add(name)
        rows.append(f"| [`{package}`]({package.split('.')[-1]}.md) | {', '.join(sorted(names))} |")
    top = public_names(PACKAGES["clip2clap"])
    with mkdocs_gen_files.open("reference/python/index.md", "w") as page:
        page.write("# Python\n\nWhat most programs need is importable from `clip2clap`:\n\n")
        page.write(f"{', '.join(f'`{name}`' for name in sorted(top))}.\n\n")
        page.write("| package | public names |\n|---|---|\n" + "\n".join(rows) + "\n\n")
        for name in sorted(set(top) - documented):
            page.write(f"::: clip2clap.{top[name]}.{name}\n\n")


def write_command_line() -> None:
    """Write the pages of the verbs, with a table of options for each."""
    root = typer.main.get_command(app)
    verbs = root.commands  # type: ignore[attr-defined]
    with mkdocs_gen_files.open("reference/cli/index.md", "w") as page:
        page.write('# Command line\n\n--8<-- "docs/reference-cli.txt"\n\n| verb | what it does |\n')
        page.write("|---|---|\n")
        for name, verb in verbs.items():
            summary = inspect.cleandoc(verb.help or "").splitlines()[0]
            page.write(f"| [`{name}`]({page_of(name)}) | {summary} |\n")
    for name, verb in verbs.items():
        with mkdocs_gen_files.open(f"reference/cli/{page_of(name)}", "w") as page:
            page.write(f"# clip2clap {name}\n\n{inspect.cleandoc(verb.help or '')}\n\n")
            arguments = [p for p in verb.params if p.param_type_name == "argument"]
            usage = " ".join(argument.metavar or argument.name.upper() for argument in arguments)
            page.write(f"```text\nclip2clap {name} [OPTIONS] {usage}\n```\n\n")
            for argument in arguments:
                page.write(f"- `{argument.metavar or argument.name.upper()}`: {argument.help}\n")
            write_options(page, verb)


def page_of(verb: str) -> str:
    """Return the file of a verb's page; index.md is that of all verbs."""
    return "index-verb.md" if verb == "index" else f"{verb}.md"


def write_options(page, verb) -> None:
    """Write a verb's visible options, panel by panel."""
    context = typer.Context(verb)
    panels: dict[str, list] = {}
    for option in verb.params:
        if option.param_type_name == "option" and not option.hidden:
            panels.setdefault(option.rich_help_panel or "Options", []).append(option)
    for panel, options in panels.items():
        page.write(f"\n## {panel}\n\n| option | default | meaning |\n|---|---|---|\n")
        for option in options:
            flags = ", ".join([*option.opts, *option.secondary_opts])
            metavar = "" if option.is_flag else option.metavar or option.display_type(context)
            default = (
                ""
                if option.default in (None, False, ()) or callable(option.default)
                else f"`{option.default}`"
            )
            text = " ".join((option.help or "").split()).replace("|", "\\|")
            usage = f"{flags} {metavar}".strip()
            page.write(f"| `{usage}` | {default} | {text} |\n")


write_python()
write_command_line()
