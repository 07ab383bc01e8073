"""Documents as text: YAML and JSON, written in a fixed order, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

LINE_CHARS = 100
NO_YAML = 'YAML needs a package: pip install "goevent[asyncapi]"'


def as_json(document: Mapping[str, object]) -> str:
    """Return a document as indented JSON, in the order of its keys.

    Args:
        document: A document of `document`.

    Example:
        >>> print(as_json({"asyncapi": "3.0.0"}), end="")
        {
          "asyncapi": "3.0.0"
        }
    """
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    # The name of a listener may hold half of a surrogate pair, which UTF-8 cannot.
    return text.encode("utf-8", "replace").decode()


def as_yaml(document: Mapping[str, object]) -> str:
    """Return a document as YAML, in the order of its keys.

    Args:
        document: A document of `document`.

    Raises:
        ImportError: PyYAML is not installed; the text names the extra.

    Example:
        >>> print(as_yaml({"asyncapi": "3.0.0"}), end="")
        asyncapi: 3.0.0
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(NO_YAML) from error

    class PlainDumper(yaml.SafeDumper):
        """Repeats a part that occurs twice, where YAML would write an alias."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    text: str = yaml.dump(  # pyright: ignore[reportUnknownMemberType]
        dict(document),
        Dumper=PlainDumper,
        sort_keys=False,
        allow_unicode=True,
        width=LINE_CHARS,
    )
    return text


def read_document(text: str) -> dict[str, object]:
    """Return the document in a text of YAML or JSON.

    Args:
        text: The text.

    Raises:
        ImportError: The text is not JSON, and PyYAML is not installed.
        ValueError: The text is neither YAML nor JSON, or is not an AsyncAPI 3 document.

    Example:
        >>> read_document('{"asyncapi": "3.0.0"}')
        {'asyncapi': '3.0.0'}
    """
    found: Any
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            import yaml
        except ImportError as error:
            raise ImportError(NO_YAML) from error
        try:
            found = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"this is neither YAML nor JSON: {reason}") from error
    if not isinstance(found, dict):
        raise ValueError("this is not an AsyncAPI document: it is not an object")
    version = cast("dict[object, object]", found).get("asyncapi")
    if not isinstance(version, str) or not version.startswith("3."):
        raise ValueError("this is not an AsyncAPI 3 document: it has no `asyncapi: 3...`")
    return cast("dict[str, object]", found)
