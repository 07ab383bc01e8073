"""The figures in the pages are those of the benchmarks: `python -m benchmarks docs` writes them."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "drivers/README.md")),
    ROOT / "benchmarks/README.md",
]
pages = pytest.importorskip("benchmarks.report.pages")
goals = pytest.importorskip("benchmarks.report.goals")
figures = pytest.importorskip("benchmarks.report.figures")
codec = pytest.importorskip("benchmarks.codec")

# The time of an operation, a rate, or a comparison of speed.
FIGURE = re.compile(
    r"\d ?(?:ns|µs|us)\b|\d ?k?/s\b|\d (?:events|messages)(?: a| per|/) ?s|"
    r"\b(?:\d[\d.,]*|two|three|five|seven|ten|many) ?(?:times|\xd7|x) (?:as fast|faster|slower)|"
    r"\ba (?:third|quarter|fifth|tenth) of an? (?:dispatch|encode|decode)"
)
# A decision with the commit and the month of its figures, and a constant of the kernel.
SETTLED = re.compile(
    r"^## Why goevent is not compiled\n.*?(?=^## )|every 200 µs|about 200 µs", re.M | re.S
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_figures_of_pages_and_charts_are_those_of_the_benchmarks() -> None:
    document = pages.load()
    for page in pages.PAGES:
        assert text_of(page) == pages.written(text_of(page), document), "python -m benchmarks docs"
    charts = {path.stem: text_of(path) for path in pages.CHARTS.glob("*.svg")}
    assert charts == pages.charts(document), "run: python -m benchmarks docs"


def test_each_part_of_the_figures_is_shown_and_no_other() -> None:
    marker = re.compile(r"<!-- figures: ([\w-]+) -->")
    shown = {page: marker.findall(text_of(page)) for page in PAGES}
    assert {name for names in shown.values() for name in names} == set(pages.parts(pages.load()))
    assert {page for page, names in shown.items() if names} == set(pages.PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_no_figure_that_was_written_by_hand(page: Path) -> None:
    by_hand = SETTLED.sub("", pages.PART.sub("", text_of(page)))
    assert [found[0] for found in FIGURE.finditer(by_hand)] == []


@pytest.mark.parametrize(
    "text",
    ["takes 200 ns", "72k/s", "90 000/s", "three times as fast", "2.5 x faster", "5 events per s"],
)
def test_a_figure_that_was_written_by_hand_is_found(text: str) -> None:
    assert FIGURE.search(text)


def test_each_chart_is_shown_and_fits_light_and_dark_pages() -> None:
    shown = {
        name for page in PAGES for name in re.findall(r"img/charts/([\w-]+)\.svg\)", text_of(page))
    }
    drawn = pages.charts(pages.load())
    assert shown == set(drawn)
    assert "summary" in re.findall(r"img/charts/([\w-]+)\.svg\)", text_of(ROOT / "README.md"))
    for svg in drawn.values():
        light, _, dark = svg.partition("@media (prefers-color-scheme:dark)")
        for colour in ("text{", ".t{", ".b{", ".o{"):
            assert colour in light, "a light page has a colour for all parts"
            assert colour in dark.partition("</style>")[0], "and so has a dark page"


@pytest.mark.parametrize(("name", "svg"), pages.charts(pages.load()).items())
def test_the_texts_of_a_chart_fit_into_it(name: str, svg: str) -> None:
    titles = re.findall(r'<text class="t" x="0"[^>]*>([^<]*)<', svg)
    labels = re.findall(r'<text class="e [tf]"[^>]*>([^<]*)<', svg)
    assert titles
    assert labels
    # A character has about 6.8 px in bold and 6.3 px in plain, and a picture 360.
    assert [title for title in titles if len(title) > 52] == []
    assert [label for label in labels if len(label) > 21] == []


# -- the goals


def document(**kernel: dict[str, float]) -> dict[str, Any]:
    empty: dict[str, Any] = {"medians": {}}
    return {
        "kernel": {"medians": kernel},
        "codec": empty,
        "redis": empty,
        "streams": empty,
        "brokers": empty,
    }


def verdicts(found: dict[str, Any]) -> dict[str, bool]:
    return {goal.title: goal.is_met for goal in goals.measured_goals(found)}


def test_a_goal_that_was_not_measured_is_left_out() -> None:
    assert verdicts(document()) == {}
    assert verdicts(document(**{"sync-1": {"goevent": 100.0}})) == {}


@pytest.mark.parametrize(("pyee", "is_met"), [(250.0, True), (249.0, False)])
def test_a_goal_of_speed_needs_at_least_its_ratio(pyee: float, is_met: bool) -> None:
    found = document(**{"sync-1": {"goevent": 100.0, "pyee": pyee}})
    assert verdicts(found) == {"sync, 1 listener: pyee": is_met}


@pytest.mark.parametrize(("ours", "is_met"), [(220.0, True), (221.0, False)])
def test_a_goal_of_cost_allows_at_most_its_ratio(ours: float, is_met: bool) -> None:
    found = document(**{"raises-1": {"goevent": ours, "pyee": 100.0}})
    assert verdicts(found) == {"a sync listener that raises: of the time of pyee": is_met}


@pytest.mark.parametrize(
    ("ns", "cell", "is_met"), [(29e6, "29.00 ms", True), (31e6, "31.00 ms", False)]
)
def test_a_goal_without_a_peer_has_a_unit(ns: float, cell: str, is_met: bool) -> None:
    (goal,) = goals.measured_goals(document(**{"import-1": {"goevent": ns}}))
    assert goal.cells()[1:3] == ["≤ 30 ms", cell]
    assert goal.is_met is is_met


def test_the_goals_of_the_codec_look_at_the_slowest_row() -> None:
    found = document()
    row = {codec.GOEVENT: 290.0, codec.MSGSPEC: 100.0, codec.JSON: 300.0}
    slow = row | {codec.GOEVENT: 310.0}
    found["codec"] = {
        "medians": {
            "json:flat:Event:100:encode": row,
            "json:nested:Event:100:encode": slow,
            "json:untyped:Event:100:encode": row,
        }
    }
    assert list(verdicts(found).values()) == [False, False]
    found["codec"]["medians"]["json:nested:Event:100:encode"] = row
    assert list(verdicts(found).values()) == [True, True]


def test_the_cpu_time_of_a_suite_is_kept_beside_its_rates() -> None:
    taken = {"batch": {"goevent": [[100.0, 3.5], [300.0, 2.5], [200.0, 2.9]], "x": [7.0]}}
    part = figures.reduced("streams", taken)
    assert part["medians"] == {"batch": {"goevent": 200.0, "x": 7.0}}
    assert part["cpu"] == {"batch": {"goevent": 2.9}}
    found = document() | {"streams": part}
    assert list(verdicts(found).values()) == [True]
