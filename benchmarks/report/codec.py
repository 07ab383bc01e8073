"""The report of the codecs: the table that is printed, and the table in the docs."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.codec import GOEVENT, JSON, MSGSPEC, PYDANTIC_PEER

PEERS = (MSGSPEC, JSON, PYDANTIC_PEER)
MOST_OF_MSGSPEC = {"encode": 3.0, "decode": 2.0}
"""The goals: at most this many times the time of msgspec."""
SHAPES_WITH_GOAL = ("flat", "nested")
SHAPES_THAT_JSON_LACKS = ("datetimes",)
SIZES_IN_DOCS = {"100": "100 B", "1000": "1 KB", "10000": "10 KB", "100000": "100 KB"}

Rounds = Mapping[str, Mapping[str, Sequence[float]]]


def show_codec(figures: Rounds, rounds: int) -> None:
    """Print a line for each row, with the ratio to each peer beside the goals."""
    print(
        f"CPU time of a whole message in us, medians of {rounds} interleaved round(s); in "
        f"brackets the median of the rounds' ratios {GOEVENT} / peer: above 1, the peer is faster."
    )
    peers = "".join(f"{peer:>18}" for peer in PEERS)
    print(f"\n{'format, shape, class, bytes':40}{'':8}{GOEVENT:>10}{peers}  goals")
    missed = 0
    for name, taken in figures.items():
        *row, direction = name.split(":")
        cells = "".join(_cell(taken, peer) for peer in PEERS)
        misses = missed_goals(name, taken)
        missed += bool(misses)
        remark = f"MISSED: {', '.join(misses)}" if misses else "met"
        line = f"{' '.join(row):40}{direction:8}{median(taken[GOEVENT]) / 1e3:>10,.2f}{cells}"
        print(f"{line}  {remark}")
    print(f"\n{len(figures) - missed} rows of {len(figures)} reach their goals")


def missed_goals(name: str, taken: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the goals that a row misses."""
    fmt, shape, _, _, direction = name.split(":")
    missed: list[str] = []
    most = MOST_OF_MSGSPEC[direction]
    ratio = _ratio(taken, MSGSPEC)
    if shape in SHAPES_WITH_GOAL and fmt == "json" and ratio is not None and ratio > most:
        missed.append(f"<= {most:g} x {MSGSPEC}")
    ratio = _ratio(taken, JSON)
    if ratio is not None and ratio > 1 and shape not in SHAPES_THAT_JSON_LACKS:
        missed.append(f"never slower than {JSON}")
    return missed


def _ratio(taken: Mapping[str, Sequence[float]], peer: str) -> float | None:
    if peer not in taken:
        return None
    return median(a / b for a, b in zip(taken[GOEVENT], taken[peer], strict=True))


def _cell(taken: Mapping[str, Sequence[float]], peer: str) -> str:
    ratio = _ratio(taken, peer)
    if ratio is None:
        return f"{'':18}"
    return f"{median(taken[peer]) / 1e3:>10,.2f} {f'({ratio:.2f})':>7}"


def codec_table(medians: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines of the table in the docs; the first one is its head."""
    lines = [["", "encode, µs", "/ msgspec", "/ json", "decode, µs", "/ msgspec", "/ json"]]
    for name in sorted(medians, key=_place_in_docs):
        fmt, shape, kind, size, direction = name.split(":")
        if fmt == "json" and kind == "Event" and direction == "encode":
            line = [f"{shape}, {SIZES_IN_DOCS[size]}"]
            for each in ("encode", "decode"):
                found = medians[f"{fmt}:{shape}:{kind}:{size}:{each}"]
                line.append(f"{found[GOEVENT] / 1e3:,.2f}")
                line += [f"{found[GOEVENT] / found[peer]:.2f}" for peer in (MSGSPEC, JSON)]
            lines.append(line)
    return lines


def _place_in_docs(name: str) -> tuple[bool, str, int]:
    _, shape, _, size, _ = name.split(":")
    return shape not in SHAPES_WITH_GOAL, shape, int(size)
