"""Writes the package's description from README.md, for readers that have no source tree.

The README links to files of the source tree, which a page on PyPI cannot do. With the address of a
repository in `GOEVENT_REPO_URL`, as for the site, such links lead there. Without one, they become
the names of the files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# An image or a link whose target is a file of the source tree.
RELATIVE_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def description(readme: str, repository: str) -> str:
    """Return a README whose links work everywhere.

    Args:
        readme: The text of README.md.
        repository: The address of a repository; empty without one.
    """

    def replace(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        if repository:
            view = "raw" if image else "blob"
            return f"{image}[{text}]({repository.rstrip('/')}/{view}/HEAD/{target})"
        return "" if image else f"{text} (`{target}`)"

    return RELATIVE_LINK.sub(replace, readme)


class ReadmeHook(MetadataHookInterface):
    """Sets `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = os.environ.get("GOEVENT_REPO_URL", "")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": description(readme, repository),
        }
