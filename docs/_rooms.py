"""Draws the rooms of goevent from its import rules: `python docs/_rooms.py` writes the picture.

The rows are the layers in `pyproject.toml` that import-linter enforces. A test compares the picture
with this script and the names with the folders of `src/goevent`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "img" / "rooms.svg"

NOTES = {
    "cli": "the command goevent",
    "web": "the live page, probes and metrics over HTTP",
    "asyncapi": "the AsyncAPI document",
    "portal": "a bus for other loops",
    "telemetry": "traces, metrics, health",
    "testing": "pytest fixtures, the suite for drivers",
    "middleware": "shipped middleware",
    "_bus": "GoEvent: the public class, wires all rooms",
    "_lifespans": "functions around the open bus",
    "_service": "a bus until SIGTERM",
    "_session": "one opening of a bus, order of ending",
    "_conversations": "requests, answers, reports of other buses",
    "_listeners": "functions and objects become actors",
    "_ports": "between the bus, its driver and threads",
    "_kernel": "dispatch, actors, mailboxes, scheduler, failures",
    "_config": "settings of a bus",
    "_options": "settings of a listener, and their checks",
    "drivers": "the contract and tools for drivers",
    "_batch_handle": "the handles of a batch",
    "_delivery": "the current delivery of a listener",
    "_wire": "the envelope and its codecs",
    "_handle": "DispatchHandle: one dispatched event",
    "_events": "names, patterns, event types, registry",
    "_remote_report": "what other buses report",
    "_errors": "every exception",
    "_cause": "the ids of a chain of events",
    "_extras": "packages that may be missing",
    "_foreign": "objects whose own code may fail",
    "_suggestions": "did you mean ...?",
    "_trio_internals": "private parts of Trio",
}
# Files of the package that are not rooms: the public names, and the command.
PUBLIC_MODULES = {"__init__", "__main__", "_public"}

STYLE = """
.bg{fill:#fafafa;stroke:#cfd8dc}.room{fill:#fff;stroke:#00796b}.open{fill:#e0f2f1;stroke:#00796b}
.pack{fill:#fff8e1;stroke:#ff8f00}.h{font-size:14px;font-weight:600;fill:#212121}
.s{font-size:12px;fill:#455a64}.a{fill:none;stroke:#37474f;stroke-width:1.6}.m{fill:#37474f}
@media (prefers-color-scheme:dark){
.bg{fill:#14161c;stroke:#30363d}.room{fill:#1b1f27;stroke:#4db6ac}
.open{fill:#10302d;stroke:#4db6ac}.pack{fill:#33290f;stroke:#ffb74d}
.h{fill:#eceff1}.s{fill:#b0bec5}.a{stroke:#b0bec5}.m{fill:#b0bec5}}
rect{stroke-width:1.5}
text{text-anchor:middle;font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
"""
ARROWHEAD = (
    '<marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path class="m" d="M0 0L10 5L0 10z"/></marker>'
)
WIDTH, LEFT, INNER, HEIGHT, STEP = 880, 24, 600, 52, 74


def layers() -> list[list[str]]:
    """Return the rows of rooms, from the highest to the lowest."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layered,) = (
        contract
        for contract in rules["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and contract["containers"] == ["goevent"]
    )
    rows = ([name.strip() for name in row.split("|")] for row in layered["layers"])
    return [row for row in rows if not PUBLIC_MODULES.intersection(row)]


def rooms() -> set[str]:
    """Return the folders and modules of `src/goevent`."""
    package = ROOT / "src" / "goevent"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    return folders | {path.stem for path in package.glob("*.py")} - PUBLIC_MODULES


def _box(kind: str, x: float, y: float, width: float, name: str, note: str) -> list[str]:
    middle = x + width / 2
    return [
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{HEIGHT}" rx="8"/>',
        f'<text class="h" x="{middle:g}" y="{y + 22:g}">{name}</text>',
        f'<text class="s" x="{middle:g}" y="{y + 40:g}">{note}</text>',
    ]


def _arrow(path: str) -> str:
    return f'<path class="a" d="{path}" marker-end="url(#a)"/>'


def drawn(rows: Sequence[Sequence[str]]) -> str:
    """Return the picture of some layers."""
    tops = [24 + STEP * number for number in range(len(rows))]
    height = tops[-1] + HEIGHT + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The rooms of goevent; each row imports only rows below it</title>",
        f"<style>{STYLE}</style>",
        f"<defs>{ARROWHEAD}</defs>",
        f'<rect class="bg" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10"/>',
    ]
    centre = LEFT + INNER / 2
    for top, row in zip(tops, rows, strict=True):
        width = (INNER - 24 * (len(row) - 1)) / len(row)
        for number, name in enumerate(row):
            kind = "room" if name.startswith("_") else "open"
            x = LEFT + number * (width + 24)
            out += _box(kind, x, top, width, name, NOTES[name])
        if top != tops[0]:
            out.append(_arrow(f"M{centre:g} {top - STEP + HEIGHT + 2}V{top - 3}"))
    (drivers,) = (number for number, row in enumerate(rows) if "drivers" in row)
    x, y, width = LEFT + INNER + 42, tops[drivers], 196
    upper = y - STEP
    out += _box("pack", x, upper, width, "goevent_redis", "_link, _pubsub, _streams")
    out += _box("pack", x, y, width, "goevent_faststream", "_bridge, _adapter, _kafka, …")
    out.append(_arrow(f"M{x} {y + 26}H{LEFT + INNER + 3}"))
    out.append(_arrow(f"M{x} {upper + 26}H{x - 21}V{y + 14}H{LEFT + INNER + 3}"))
    for line, note in enumerate(("drivers import only goevent", "and goevent.drivers")):
        out.append(f'<text class="s" x="{x + 98}" y="{y + HEIGHT + 22 + 16 * line}">{note}</text>')
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(layers()), encoding="utf-8")
