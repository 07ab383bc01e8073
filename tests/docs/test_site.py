"""The built site is whole: every page, link, anchor, picture, snippet and public name is there.

`zensical build --strict` finds broken links and anchors in the pages. It does not look for missing
pictures, for snippets that were not included, or for names that the reference lost.
"""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import unquote, urldefrag

import pytest
from tests.support.limits import SUBPROCESS_SECONDS
from tests.support.made_once import made_once

import goevent
import goevent.drivers

ROOT = Path(__file__).parents[2]
INPUTS = ["docs", "drivers", "examples", "src"]


class SitePage(HTMLParser):
    """The anchors, links, loaded files and text of one built page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.append(given["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in given:
            self.loads.append(given["src"])

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def build(copy: Path) -> None:
    """Build the site in a copy of the sources."""
    for folder in INPUTS:
        shutil.copytree(
            ROOT / folder,
            copy / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
    shutil.copy(ROOT / "mkdocs.yml", copy)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, timeout=SUBPROCESS_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a site that was built from a copy of the sources."""
    pytest.importorskip("zensical")
    return made_once(tmp_path_factory, "site", build) / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, SitePage]:
    """Return the built pages under their paths in the site."""
    files = [file for file in site.rglob("*.html") if file.name != "404.html"]
    return {file.relative_to(site).as_posix(): SitePage(file) for file in files}


def outside(target: str) -> bool:
    return bool(re.match(r"[a-z+]+:|//", target))


def path_in_site(page: str, path: str) -> str:
    """Return the file that a relative link of a page leads to."""
    parts: list[str] = []
    for part in (*PurePosixPath(page).parent.parts, *unquote(path).split("/")):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if path.endswith(("/", ".")) or path == "":
        parts.append("index.html")
    return "/".join(parts)


def test_every_page_of_the_docs_is_built(pages: dict[str, SitePage]) -> None:
    sources = {file.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md")}
    expected = {
        "index.html" if source.stem == "index" else f"{source.with_suffix('')}/index.html"
        for source in sources
    }
    assert set(pages) == expected


def test_every_link_of_the_site_leads_to_a_page_and_an_anchor(
    site: Path, pages: dict[str, SitePage]
) -> None:
    broken: list[str] = []
    for name, page in pages.items():
        for link in page.links:
            if outside(link):
                continue
            path, anchor = urldefrag(link)
            target = path_in_site(name, path) if path else name
            known = pages[target].anchors if target in pages else set[str]()
            if not (site / target).is_file() or (anchor and anchor not in known):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_every_picture_script_and_style_is_part_of_the_site(
    site: Path, pages: dict[str, SitePage]
) -> None:
    missing = [
        f"{name}: {target}"
        for name, page in pages.items()
        for target in page.loads
        if outside(target) or not (site / path_in_site(name, target.partition("?")[0])).is_file()
    ]
    assert missing == []


def test_no_page_shows_a_snippet_marker(pages: dict[str, SitePage]) -> None:
    shown = [name for name, page in pages.items() if "-8<-" in "".join(page.text)]
    assert shown == []


def test_no_example_of_the_reference_is_shown_as_a_quotation(pages: dict[str, SitePage]) -> None:
    quoted = [name for name, page in pages.items() if "blockquote" in page.tags]
    assert quoted == []


def test_every_public_name_has_an_anchor_in_the_reference(pages: dict[str, SitePage]) -> None:
    names = {
        f"{module.__name__}.{name}"
        for module in (goevent, goevent.drivers)
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    anchors = {
        anchor
        for name, page in pages.items()
        if name.startswith("reference/")
        for anchor in page.anchors
    }
    # Names that both packages export stand in the reference once, as names of goevent.
    missing = {name for name in names if name.replace(".drivers", "") not in anchors} - anchors
    assert missing == set()
