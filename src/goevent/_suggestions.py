"""Suggestions: the name that a user has probably meant in place of an unknown one.

Every room and every driver may ask `did_you_mean` when it refuses a name. `suggest_options` does it
for the keyword arguments of a class or a function. `missing_members` names the members of a
protocol that an object lacks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

# The least similarity of two names, from 0 to 1. It lets `retries` find `retry`.
MIN_SIMILARITY = 0.65
# Names may come from a broker, and comparing takes some microseconds for each pair.
MAX_COMPARED_NAMES = 2_000
MAX_COMPARED_CHARS = 100

T = TypeVar("T")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of an error message that suggests the known name nearest to an unknown one.

    Returns:
        `"; did you mean 'timeout'?"`, or an empty text if no known name is near.

    Example:
        >>> did_you_mean("timout", ["timeout", "thread"])
        "; did you mean 'timeout'?"
        >>> did_you_mean("colour", ["timeout", "thread"])
        ''
    """
    best = nearest(name, known)
    return f"; did you mean {best!r}?" if best else ""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the known name that is nearest to an unknown one, or an empty text if none is near."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_COMPARED_CHARS:
        return ""
    wanted = name.casefold()
    best, best_similarity = "", MIN_SIMILARITY
    # Imported here, because only a mistake needs it.
    from difflib import SequenceMatcher

    # The matcher prepares its second text once for all comparisons.
    matcher = SequenceMatcher(b=wanted, autojunk=False)
    for _, candidate in zip(range(MAX_COMPARED_NAMES), known, strict=False):
        if len(candidate) > MAX_COMPARED_CHARS:
            continue
        matcher.set_seq1(candidate.casefold())
        if matcher.real_quick_ratio() < best_similarity or matcher.quick_ratio() < best_similarity:
            continue
        similarity = matcher.ratio()
        if similarity > best_similarity or (not best and similarity == best_similarity):
            best, best_similarity = candidate, similarity
    return best


def unknown_option(owner: str, name: str, known: Iterable[str]) -> TypeError:
    """Return the error for an option that does not exist."""
    options = tuple(known)
    hint = did_you_mean(name, options) or f"; its options are {', '.join(options)}"
    return TypeError(f"{owner} has no option {name!r}{hint}")


def suggest_options(target: T, *, config: type | None = None, keyword: str | None = None) -> T:
    """Have a class or a function refuse unknown keyword arguments with a suggestion.

    The decorated target keeps its signature. It pays one comparison of its keywords per call.

    Args:
        target: The class or the function.
        config: The class of the settings that the target takes as one object. Its options are not
            those of the target, but callers may mistake them for it.
        keyword: The parameter of the target for this object; None if it comes first.

    Example:
        >>> @suggest_options
        ... def connect(*, timeout: float = 1.0) -> None: ...
        >>> try:
        ...     connect(timout=2.0)
        ... except TypeError as error:
        ...     print(error)
        connect has no option 'timout'; did you mean 'timeout'?
    """
    if isinstance(target, type):
        cls = cast("Any", target)
        cls.__init__ = _checked(cls.__init__, cls.__name__, 1, config, keyword)
        return target
    function = cast("Callable[..., Any]", target)
    return cast("T", _checked(function, function.__name__, 0, config, keyword))


def missing_members(candidate: object, protocol: type) -> str:
    """Return the public members of a protocol that an object lacks, as a list for a message."""
    members = dict.fromkeys([*vars(protocol), *getattr(protocol, "__annotations__", ())])
    names = [name for name in members if not name.startswith("_") and not hasattr(candidate, name)]
    return " and no ".join(names)


def _checked(
    function: Callable[..., Any],
    owner: str,
    skipped: int,
    config: type | None,
    keyword: str | None,
) -> Callable[..., Any]:
    """Return a function that checks its arguments; the first `skipped` ones are not the user's."""
    parameters = [*inspect.signature(function).parameters.values()][skipped:]
    options = tuple(p.name for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_KEYWORD))
    known = frozenset(options)
    by_keyword_only = all(p.kind is p.KEYWORD_ONLY for p in parameters)

    @wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        if not given.keys() <= known:
            unknown = next(name for name in given if name not in known)
            if config is not None:
                inner = [*inspect.signature(config).parameters]
                call = f"{keyword}={config.__name__}" if keyword else config.__name__
                if unknown in inner:
                    example = f"{owner}({call}({unknown}=...))"
                    raise TypeError(f"{owner} has no option {unknown!r}; write {example}")
                if not did_you_mean(unknown, options) and (near := nearest(unknown, inner)):
                    example = f"{owner}({call}({near}=...))"
                    raise TypeError(f"{owner} has no option {unknown!r}; did you mean {example}?")
            raise unknown_option(owner, unknown, options)
        if by_keyword_only and len(args) > skipped:
            example = f"{owner}({options[0]}=...)"
            raise TypeError(f"{owner} takes its options by keyword only: {example}")
        return function(*args, **given)

    return checked
