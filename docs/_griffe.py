"""Shows the interactive examples of docstrings as code.

mkdocstrings shows a section `Example:` as Markdown, in which a line with `>>>` is a quotation. This
extension of griffe puts such lines into a fenced block.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# A line with a prompt, and the lines behind it up to an empty one: its continuation and its output.
EXAMPLE = re.compile(r"^(?P<indent>[ ]*)>>> .*\n?(?:(?P=indent)\S.*\n?)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Return a docstring with its interactive examples in fences."""

    def fence(found: re.Match[str]) -> str:
        indent = found["indent"]
        return f"{indent}```pycon\n{found[0].rstrip()}\n{indent}```\n"

    return EXAMPLE.sub(fence, text)


class InteractiveExamples(Extension):
    """Fences the examples of every object that griffe loads."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
