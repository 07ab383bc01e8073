"""The AsyncAPI 3 document of a bus, made from its code; the extra `asyncapi`.

The command `goevent asyncapi`, the page and programs call `document`, which returns plain dicts. It
reads the listeners, the registry and the configuration of the driver. It opens no bus and asks no
broker. `breaking_changes` compares two documents from the view of the readers of events.

- `_document`: the document, from its parts.
- `_schemas`: the JSON Schema of each event class.
- `_examples`: examples of events, made from their schemas.
- `_text`: documents as YAML and JSON, and back.
- `_changes`: the changes that break a reader, found in two documents.
- `_fits`: whether a reader can read all values of a writer, by their schemas.

It must never run a listener, and never print a login.
"""

from ..drivers import publish_names
from ._changes import Change as Change, breaking_changes as breaking_changes
from ._document import ASYNCAPI_VERSION as ASYNCAPI_VERSION, document as document
from ._text import as_json as as_json, as_yaml as as_yaml, read_document as read_document

__all__ = [
    "ASYNCAPI_VERSION",
    "Change",
    "as_json",
    "as_yaml",
    "breaking_changes",
    "document",
    "read_document",
]
publish_names(globals())
