"""Declaration of verbs: options as dataclasses, old spellings, errors that name options.

typer reads a verb's options from its function's signature. Here the only parameter is a dataclass,
whose fields are declared with `option` and `argument`. `add_verb` puts its fields into the
signature that typer reads.
"""

import inspect
import re
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Any, dataclass_transform

import typer
from typer.core import TyperCommand

from clip2clap.core.errors import UserError

KEY = "clip2clap"
"""Key of a field's metadata that holds its declaration."""

_METAVARS = {int: "N", int | None: "N", float: "X", float | None: "X"}


def option(
    help: str,
    metavar: str | None = None,
    *,
    default: Any = None,
    flags: str = "",
    panel: str | None = None,
    was: str = "",
    api: str = "",
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    hidden: bool = False,
) -> Any:
    """Declare a field that is an option.

    Args:
        help: Help text.
        metavar: Placeholder of the value in the help; by default that of the type.
        default: Value if the option is not given.
        flags: Spellings, separated by spaces; by default the field's name, and `--no-NAME` for a
            bool that is not False by default.
        panel: Heading in the help; by default that of the class.
        was: Old spellings, accepted with a notice. `--old=value` is an old flag that now is a
            value of the option.
        api: Names of the library's parameters that the option sets, if not the field's name.
        min: Smallest value.
        max: Largest value.
        above: Value that is too small by itself.
        hidden: Whether to leave it out of the help.
    """
    settings = {"help": help, "metavar": metavar, "rich_help_panel": panel, "hidden": hidden}
    settings["show_default"] = default is not None and default is not False
    info = {"flags": flags.split(), "was": was.split(), "api": api.split(), "settings": settings}
    info["range"] = (min, max, above)
    return field(default=default, metadata={KEY: info})


def argument(help: str, metavar: str, *, required: bool = False, api: str = "") -> Any:
    """Declare a field that is a positional argument, None if it is not given."""
    declared = typer.Argument(metavar=metavar, help=help, show_default=False)
    info = {"argument": declared, "api": api.split()}
    return field(default=MISSING if required else None, metadata={KEY: info})


_AT_END: ContextVar[ExitStack] = ContextVar("at_end")


def until_end(resource: AbstractContextManager[Any]) -> None:
    """Enter a context that is left when the running verb ends."""
    _AT_END.get().enter_context(resource)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM before a verb had anything to report."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, argument))
class Options:
    """Base of the options of a verb: frozen dataclasses, whose bases are groups of options.

    The class argument `panel` is the heading of the class's own options in the help. Options of
    the last base come first, as in all dataclasses.
    """

    def __init_subclass__(cls, panel: str | None = None) -> None:
        for each in vars(cls).values():
            if isinstance(each, Field) and "settings" in each.metadata[KEY]:
                settings = each.metadata[KEY]["settings"]
                settings["rich_help_panel"] = settings["rich_help_panel"] or panel
        dataclass(frozen=True, kw_only=True)(cls)


def add_verb(app: typer.Typer, verb: Callable[[Any], None]) -> None:
    """Register a function of `Options` as the verb of its name."""
    (parameter,) = inspect.signature(verb).parameters.values()
    declared = declared_options(verb)

    def run(**values: Any) -> None:
        for each in declared.values():
            _check_range(each, values[each.name])
        with ExitStack() as stack:
            _AT_END.set(stack)
            verb(parameter.annotation(**values))

    class Verb(TyperCommand):
        """Verb that accepts old spellings and names its own options in errors."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, _respell(args, declared.values()))

        def invoke(self, ctx: Any) -> Any:
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                raise Interrupted from error
            except UserError as error:
                error.args = (name_options(error, declared.values()),)
                raise

    annotations = {name: _annotation(each) for name, each in declared.items()}
    run.__name__, run.__doc__, run.__annotations__ = verb.__name__, verb.__doc__, annotations
    run.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.default is MISSING else each.default,
                annotation=annotations[name],
            )
            for name, each in declared.items()
        ]
    )
    app.command(verb.__name__.replace("_", "-"), cls=Verb)(run)


def declared_options(verb: Callable[[Any], None]) -> dict[str, Field[Any]]:
    """Return the fields of a verb's options, by name."""
    (parameter,) = inspect.signature(verb).parameters.values()
    return {each.name: each for each in fields(parameter.annotation)}


def flag_of(each: Field[Any]) -> str:
    """Return the spelling of a declared option or argument that messages use."""
    info = each.metadata[KEY]
    if "argument" in info:
        return info["argument"].metavar.strip("[].")
    return info["flags"][0].split("/")[0] if info["flags"] else f"--{each.name.replace('_', '-')}"


def name_options(error: UserError, declared: Any) -> str:
    """Return an error's message with the library's parameters replaced by a verb's options."""
    options = {name: each for each in declared for name in (each.name, *each.metadata[KEY]["api"])}
    message = str(error)
    if error.param in options:
        flag = flag_of(options[error.param])
        if not message.startswith(flag):
            plain = re.sub(rf"^Expected {error.param} to be ", "expected ", message)
            message = f"{flag}: {re.sub('^Expected ', 'expected ', plain)}"
    names = "|".join(name for name, each in options.items() if flag_of(each).startswith("--"))
    return re.sub(
        rf"\b({names})=(\"[^\"]*\"|'[^']*'|\.\.\.|[^\s,;)]*[^\s,;).])",
        lambda found: _as_given(options[found[1]], found[2]),
        message,
    )


def _as_given(each: Field[Any], value: str) -> str:
    """Return how an option is given a value on the command line."""
    flag, metavar = flag_of(each), each.metadata[KEY]["settings"]["metavar"]
    if value == "...":
        return f"{flag} {metavar or 'VALUE'}"
    if each.type in (bool, bool | None) and value in ("True", "False"):
        return flag if value == "True" else f"--no-{flag[2:]}"
    unquoted = value.strip(chr(34) + chr(39))
    return f"{flag} {shlex.quote(unquoted)}" if unquoted else flag


def notice_renamed(old: str, new: str) -> None:
    """Print on stderr that an option has a new spelling."""
    typer.echo(f"note: {old} is now {new}; the next version drops the old spelling.", err=True)


def _annotation(each: Field[Any]) -> Any:
    info = each.metadata[KEY]
    if "argument" in info:
        return Annotated[each.type, info["argument"]]
    flags, settings = info["flags"] or [flag_of(each)], dict(info["settings"])
    if not info["flags"] and each.type is bool and each.default:
        flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
    settings["metavar"] = settings["metavar"] or _METAVARS.get(each.type)
    return Annotated[each.type, typer.Option(*flags, **settings)]


def _check_range(each: Field[Any], value: Any) -> None:
    smallest, largest, above = each.metadata[KEY].get("range", (None, None, None))
    if value is None or (smallest is None and largest is None and above is None):
        return
    expected = f"at least {smallest:g}" if above is None else f"above {above:g}"
    if largest is not None:
        expected = f"{smallest:g} to {largest:g}"
    # Not a number is in no range.
    inside = (smallest is None or value >= smallest) and (above is None or value > above)
    if not inside or not (largest is None or value <= largest):
        raise UserError(f"expected {expected}, got {value:g}.", param=each.name)


def _respell(args: list[str], declared: Any) -> list[str]:
    """Replace old spellings by the present ones, with a notice for each."""
    renamed: dict[str, list[str]] = {}
    for each in declared:
        for spelling in each.metadata[KEY].get("was", ()):
            old, is_flag, value = spelling.partition("=")
            renamed.setdefault(old, [flag_of(each), *([value] if is_flag else [])])
    respelled: list[str] = []
    for place, given in enumerate(args):
        if given == "--":
            return [*respelled, *args[place:]]
        old, has_value, value = given.partition("=")
        if old not in renamed:
            respelled.append(given)
            continue
        new = renamed[old]
        notice_renamed(old, " ".join(new))
        respelled += [f"{new[0]}={value}"] if has_value else new
    return respelled
