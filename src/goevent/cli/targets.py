"""Targets: the bus that an argument of the command stands for.

A target is `module:bus`, a factory `module:make_bus()`, or the URL of a broker, for which a bus
without listeners is made. Every command that takes a target calls `load_target` or `load_bus`. The
module of the user runs while it is imported. What it prints goes to stderr, because stdout holds
the result of the command. The text of a URL may hold a password, so no error here quotes a target.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

import click

from .failures import TargetError, describe, one_line

if TYPE_CHECKING:
    from goevent import GoEvent

F = TypeVar("F", bound="Callable[..., Any] | click.Command")

URL_VARIABLE = "GOEVENT_URL"
_OBJECT = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)(\(\))?")


@dataclass(frozen=True, slots=True)
class Target:
    """The bus of a target.

    Attributes:
        bus: The bus; it is not open.
        is_url: True if the target is a URL, so the bus has no listeners and no event types.
        name: The target without the login of a URL.
        group: The consumer group of its driver; None if it has none.
    """

    bus: GoEvent = field(repr=False)
    is_url: bool
    name: str
    group: str | None = None


def load_bus(target: str) -> GoEvent:
    """Return the bus that a target stands for; see `load_target`."""
    return load_target(target).bus


def load_target(target: str, *, group: str | None = None) -> Target:
    """Return the bus that a target stands for, not open.

    Args:
        target: `module:bus`, `module:make_bus()`, or a URL. Modules are looked for in the working
            directory, too.
        group: The consumer group that the driver has to have; None for any. A URL gets it as its
            option, in place of the one in it.

    Raises:
        TargetError: It stands for no bus, or its module cannot be imported. The text is one line
            without secrets.
    """
    if "://" in target:
        bus = _bus_of_url(target if group is None else _with_group(target, group))
        return Target(bus, True, one_line(target.partition("?")[0]), _group_of(bus))
    found = _OBJECT.fullmatch(target)
    if found is None:
        raise TargetError(
            "a target is written module:bus, module:make_bus() or scheme://host, for example "
            "shop.app:bus or redis://localhost:6379"
        )
    module, path, call = found.groups()
    value = _attribute(_imported(module), module, path)
    if call:
        value = _called(value, target)
    bus = _checked(value, target)
    own = _group_of(bus)
    if group is not None and own is not None and group != own:
        raise TargetError(
            f"{target} belongs to the group {own!r}: give the URL of its broker to ask for another"
        )
    return Target(bus, False, target, own)


def _with_group(url: str, group: str) -> str:
    start, _, query = url.partition("?")
    others = [each for each in parse_qsl(query, keep_blank_values=True) if each[0] != "group"]
    return f"{start}?{urlencode([*others, ('group', group)])}"


def _group_of(bus: GoEvent) -> str | None:
    """Return the group in the settings of a driver, which are its `config` or its `streams`."""
    for settings in ("streams", "config"):
        group = getattr(getattr(bus.driver, settings, None), "group", None)
        if isinstance(group, str):
            return group
    return None


def _bus_of_url(url: str) -> GoEvent:
    from goevent import DriverError, GoEvent

    try:
        return GoEvent(url)
    except (DriverError, ValueError, TypeError) as error:
        # The texts of drivers hold no secrets; `UnsupportedError` is one of these, too.
        raise TargetError(str(error)) from error


def _imported(name: str) -> Any:
    # The console script does not begin with the working directory, as `python -m` does.
    directory = os.getcwd()
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)
    try:
        with _stdout_to_stderr():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise TargetError(f"there is no module {name!r} in {directory} or installed") from error
        raise _import_error(name, error) from error
    # `SystemExit`: a module without `if __name__ == "__main__"`, for instance.
    except (Exception, SystemExit) as error:
        raise _import_error(name, error) from error


def _import_error(name: str, error: BaseException) -> TargetError:
    return TargetError(f"{name} cannot be imported: {describe(error)}{_place_in_program(error)}")


def _place_in_program(error: BaseException) -> str:
    """Return the file and the line at which the user's code failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({_short(error.filename)}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith("<") and frame.filename != importlib.__file__
    ]
    # The line of the user's program says more than that of a library which it called. The first
    # frames are those of this module.
    package = os.path.dirname(os.path.dirname(__file__))
    program = [
        frame
        for frame in own
        if "site-packages" not in frame.filename and not frame.filename.startswith(package)
    ]
    return f" ({_short(program[-1].filename)}:{program[-1].lineno})" if program else ""


def _short(filename: str) -> str:
    relative = os.path.relpath(filename)
    return filename if relative.startswith("..") else relative


def _attribute(module: Any, name: str, path: str) -> Any:
    value = module
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            from goevent.drivers import did_you_mean

            hint = did_you_mean(part, [each for each in dir(value) if not each.startswith("_")])
            raise TargetError(f"{name} has no {path}{hint}") from error
    return value


def _called(value: Any, target: str) -> Any:
    if not callable(value):
        raise TargetError(f"{target}: this is a {type(value).__name__}, not a function")
    try:
        with _stdout_to_stderr():
            made = cast("Callable[[], Any]", value)()
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"{target} failed: {describe(error)}{_place_in_program(error)}"
        ) from error
    if hasattr(made, "close") and hasattr(made, "cr_frame"):
        made.close()
        raise TargetError(f"{target} is an `async def`; a factory is a `def` that returns the bus")
    return made


def _checked(value: object, target: str) -> GoEvent:
    from goevent import GoEvent

    if isinstance(value, GoEvent):
        return value
    may_be_factory = callable(value) and not target.endswith("()")
    hint = f"; if it is a factory, write {target}()" if may_be_factory else ""
    raise TargetError(f"{target} is a {type(value).__name__}, not a GoEvent{hint}")


@contextlib.contextmanager
def _stdout_to_stderr() -> Generator[None]:
    with contextlib.redirect_stdout(sys.stderr):
        yield


def is_target(text: str) -> bool:
    """Tell whether a text is written as a target is."""
    return "://" in text or _OBJECT.fullmatch(text) is not None


class TargetCommand(click.Command):
    """A command whose first argument is a target, by default that of the environment."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; add the target of the environment if there is none among them."""
        default = os.environ.get(URL_VARIABLE)
        if default and not ctx.resilient_parsing and self._lacks_target(ctx, args):
            args = [default, *args]
        return super().parse_args(ctx, args)

    def _lacks_target(self, ctx: click.Context, args: list[str]) -> bool:
        declared = [each for each in self.params if isinstance(each, click.Argument)]
        # Only to count: click reports what is wrong with the arguments when it parses them itself.
        try:
            values = self.make_parser(ctx).parse_args(args=[*args])[0]
        except click.UsageError:
            return False
        first = values.get(declared[0].name or "")
        if isinstance(first, str) and is_target(first):
            return False
        last = declared[-1]
        return last.nargs == -1 or not isinstance(values.get(last.name or ""), str)


def target_argument(function: F) -> F:
    """Give a command the argument for any target."""
    return click.argument("target", metavar="TARGET")(function)


def url_argument(function: F) -> F:
    """Give a command the argument for a broker, or for a bus whose broker is asked."""
    return click.argument("target", metavar="URL")(function)
