"""Extends griffe, which reads the sources for the reference.

mkdocstrings shows a section `Example:` as Markdown, in which a line with `>>>` is a quotation. This
extension puts such lines into a fenced block. It also shows a default such as `_DefaultNumber(0)`,
which only the code of its class needs, as its value.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, ExprCall, Extension, Object

# A line with a prompt, and the lines behind it up to an empty one: its continuation and its output.
EXAMPLE = re.compile(r"^(?P<indent>[ ]*)>>> .*\n?(?:(?P=indent)\S.*\n?)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Return a docstring with its interactive examples in fences."""

    def fence(found: re.Match[str]) -> str:
        indent = found["indent"]
        return f"{indent}```pycon\n{found[0].rstrip()}\n{indent}```\n"

    return EXAMPLE.sub(fence, text)


class PublicReference(Extension):
    """Fences the examples of every object, and shows private defaults as their values."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
        if isinstance(obj, Attribute) and isinstance(obj.value, ExprCall):
            call = obj.value
            if str(call.function).startswith("_") and len(call.arguments) == 1:
                obj.value = call.arguments[0]
