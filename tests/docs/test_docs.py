"""The sources of the docs hold together; `test_site.py` checks the built site."""

import dataclasses
import re
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import goevent
import goevent.drivers
import goevent.middleware
import goevent.testing
import goevent_faststream
import goevent_redis
from goevent._conversations.addresses import ROLL_ADDRESS, SEARCH_PREFIX
from goevent._conversations.messages import DirectMessage
from goevent._conversations.request_headers import BUDGET_HEADER, CHAIN_HEADER
from goevent._events.names import REQUEST_PREFIX
from goevent_redis._direct import direct_channel

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LOOSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "drivers/README.md"]
ALL = [*PAGES, *LOOSE]

SNIPPET = re.compile(r'^--8<-- "([^":]+)(?::([\w-]+))?"$', re.MULTILINE)
MARKER = re.compile(r"^ *# --8<-- \[(start|end):([\w-]+)\]$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def public_names(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }


# -- code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_snippets_exist(page: Path) -> None:
    for path, section in SNIPPET.findall(text_of(page)):
        markers = MARKER.findall(text_of(ROOT / path))
        if section:
            assert ("start", section) in markers, path
        else:
            assert not markers, f"{path} would be shown with its markers"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_is_included_from_files_that_are_run(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", text_of(page), re.M | re.S):
        assert SNIPPET.sub("", block).strip() == ""


def test_sections_begin_and_end_and_are_used() -> None:
    used = {snippet for page in PAGES for snippet in SNIPPET.findall(text_of(page))}
    for path in sorted((ROOT / "examples").rglob("*.py")):
        markers = MARKER.findall(text_of(path))
        for kind, section in markers:
            other = "end" if kind == "start" else "start"
            assert markers.count((kind, section)) == 1, f"{path}: {section}"
            assert (other, section) in markers, f"{path}: {section}"
            assert (name_of(path), section) in used, f"{path}: {section} is shown nowhere"


def code_of(page: Path) -> str:
    """Return the Python code that a page shows."""
    shown: list[str] = []
    for block in re.findall(r"^```python\n(.*?)^```$", text_of(page), re.M | re.S):
        for path, section in SNIPPET.findall(block):
            code = text_of(ROOT / path)
            if section:
                code = code.partition(f"[start:{section}]")[2].partition(f"[end:{section}]")[0]
            shown.append(code)
    return "\n".join(shown)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_of_a_page_imports_the_names_that_it_uses(page: Path) -> None:
    code = re.sub(r"#.*", "", code_of(page))
    imports = "\n".join(re.findall(r"^(?:from|import) [^(\n]*(?:\([^)]*\))?", code, re.MULTILINE))
    known = {*public_names(goevent), *public_names(goevent.testing), "trio", "FastStreamDriver"}
    missing = {name for name in known if re.search(rf"(?<![.\w\"]){name}\b(?!=)", code)} - {
        name for name in known if re.search(rf"\b{name}\b", imports)
    }
    assert missing == set()


# -- reference


def test_reference_lists_every_public_name_once() -> None:
    listed: list[str] = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        listed += re.findall(r"^::: goevent\.(\w+)$", text_of(page), re.MULTILINE)
    assert sorted(listed) == sorted(public_names(goevent))


def test_reference_lists_every_shipped_middleware() -> None:
    page = text_of(DOCS / "reference/middleware.md")
    listed = re.findall(r"^::: goevent\.middleware\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(public_names(goevent.middleware))


def test_reference_lists_every_name_of_the_test_kit() -> None:
    page = text_of(DOCS / "reference/testing.md")
    listed = re.findall(r"^::: goevent\.testing\.(\w+)$", page, re.MULTILINE)
    assert set(listed) == public_names(goevent.testing) | {"pytest_plugin"}


def test_reference_lists_every_name_for_authors_of_drivers() -> None:
    page = text_of(DOCS / "reference/drivers.md")
    listed = re.findall(r"^::: goevent\.drivers\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(public_names(goevent.drivers) - public_names(goevent))


@pytest.mark.parametrize("package", [goevent_redis, goevent_faststream])
def test_reference_lists_every_name_of_a_driver_package(package: ModuleType) -> None:
    page = text_of(DOCS / f"reference/{package.__name__.removeprefix('goevent_')}.md")
    listed = re.findall(rf"^::: {package.__name__}\.(\w+)$", page, re.MULTILINE)
    shared = {
        name
        for name in public_names(package)
        if vars(package)[name] in vars(goevent.drivers).values()
    }
    assert sorted(listed) == sorted(public_names(package) - shared)


# -- tables and pictures that are made from the code


def script(name: str) -> Any:
    """Return a script of the docs as a module."""
    spec = spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_brokers_agree_with_the_code() -> None:
    tables = script("_tables")
    page = text_of(DOCS / "brokers/choosing-a-broker.md")
    assert page == tables.written(page), "run: python docs/_tables.py"


def test_messages_of_conversations_agree_with_the_code() -> None:
    script_of_messages = script("_messages")
    page = text_of(script_of_messages.PAGE)
    assert page == script_of_messages.written(page), "run: python docs/_messages.py"


def test_page_of_conversations_shows_every_message_and_the_headers() -> None:
    examples = script("_messages").EXAMPLES.values()
    shown: set[Any] = {type(message) for group in examples for message in group}
    assert shown == set(get_args(DirectMessage))
    page = text_of(DOCS / "inside/conversations.md")
    for text in (BUDGET_HEADER, CHAIN_HEADER, REQUEST_PREFIX, f"`{ROLL_ADDRESS}`", SEARCH_PREFIX):
        assert text in page
    assert direct_channel("goevent:", "<address>") in page


def test_reference_of_the_command_is_its_help() -> None:
    command = script("_command")
    assert text_of(command.PAGE) == command.written(text_of(command.PAGE)), (
        "run: python docs/_command.py"
    )


def test_picture_of_the_rooms_agrees_with_the_import_rules() -> None:
    rooms = script("_rooms")
    assert text_of(rooms.PICTURE) == rooms.drawn(rooms.layers()), "run: python docs/_rooms.py"


def test_picture_shows_every_room_and_no_other() -> None:
    rooms = script("_rooms")
    shown = re.findall(r'<text class="h"[^>]*>(\w+)</text>', text_of(rooms.PICTURE))
    packages = {path.parent.name for path in (ROOT / "drivers").glob("*/__init__.py")}
    assert sorted(shown) == sorted(rooms.rooms() | packages)


# -- claims that the code can refute


SCHEMES = {scheme for mapping in goevent_faststream.MAPPINGS for scheme in mapping.schemes} | {
    *("memory", "redis", "rediss", "unix", "redis+streams", "rediss+streams", "unix+streams"),
    *("http", "https"),
}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_schemes_that_pages_name_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w+.-])([a-z][a-z0-9+]*)://", text_of(page)))
    assert named <= SCHEMES | {"toy"}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_extras_that_pages_name_exist(page: Path) -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    for named in re.findall(r"(?:goevent|\.)\[([\w,-]+)\]", text_of(page)):
        assert set(named.split(",")) <= set(extras), named


def first_cells(page: str, section: str) -> set[str]:
    """Return the names in code in the first cells of the tables of a section."""
    text = text_of(DOCS / page).partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]*) \|", text.partition("An option that makes")[0], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_table_of_listener_options_lists_every_option() -> None:
    options = {field.name for field in dataclasses.fields(goevent.ListenerOptions)}
    assert first_cells("use/listeners.md", "Options") == options


def test_table_of_streams_options_lists_every_option() -> None:
    options = {field.name for field in dataclasses.fields(goevent_redis.StreamsConfig)}
    assert first_cells("brokers/durable-events.md", "Options") == options


# -- files of the code that pages name


PATHS = re.compile(r"`((?:src|drivers|tests|docs|examples|benchmarks)/[\w/.-]+|[\w/]+\.py)`")
PLACES = ["", "src", "src/goevent", "drivers", "drivers/goevent_faststream", "tests/redis"]


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_files_that_pages_name_exist(page: Path) -> None:
    for path in PATHS.findall(FENCE.sub("", text_of(page))):
        assert any((ROOT / place / path).exists() for place in PLACES), path


def test_files_in_the_picture_of_an_events_way_exist() -> None:
    picture = text_of(DOCS / "img/event-path.svg")
    paths = re.findall(r"[\w/]+\.py", picture)
    assert paths
    for path in paths:
        assert (ROOT / "src/goevent" / path).is_file(), path


# -- links


def headings_of(page: Path) -> set[str]:
    """Return the anchors that both GitHub and mkdocs make of a page's headings."""
    text = FENCE.sub("", text_of(page))
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        if DOCS in page.parents:
            assert DOCS in file.resolve().parents, f"{target} is outside of the site"
        if anchor:
            assert anchor in headings_of(file), target


def test_navigation_lists_every_page_once() -> None:
    listed = re.findall(r"^ +- .*?: (\S+\.md)$", text_of(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_site_needs_nothing_from_the_network() -> None:
    assert "font: false" in text_of(ROOT / "mkdocs.yml")
    for page in [*PAGES, *DOCS.rglob("*.svg")]:
        text = text_of(page)
        assert not re.search(r"""(src|srcset|xlink:href)=["']https?:""", text), page
        assert not re.search(r"!\[[^]]*\]\(https?:", text), page


# -- the change log


def test_change_log_has_the_marker_of_towncrier() -> None:
    assert "\n<!-- towncrier release notes start -->\n" in text_of(ROOT / "CHANGELOG.md")


def test_news_fragments_have_a_known_kind() -> None:
    for fragment in (ROOT / "newsfragments").glob("*.md"):
        assert re.fullmatch(
            r"\+?[\w-]+(\.[\w-]+)?\.(feature|bugfix|removal|doc)\.md", fragment.name
        )
        assert text_of(fragment).strip()
