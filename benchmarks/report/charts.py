"""Draws bars as SVG that is readable on a phone, in light and in dark colours.

A bar is at most `LONGEST` times as long as goevent's where less is better; a longer one is cut and
ends in a gap, so that one slow contender does not hide the differences between the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
LABEL_WIDTH = 140
FIGURE_WIDTH = 74
BAR_HEIGHT = 13
ROW_HEIGHT = 19
GROUP_HEIGHT = 30
LONGEST = 8.0

STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#37474f}
.t{font-weight:600;fill:#212121}.e{text-anchor:end}.b{fill:#b0bec5}.o{fill:#00796b}.p{fill:#fff}
@media (prefers-color-scheme:dark){
text{fill:#b0bec5}.t{fill:#eceff1}.b{fill:#546e7a}.o{fill:#26a69a}.p{fill:#14161c}}
""".strip()


@dataclass(frozen=True)
class Bar:
    """One contender.

    Args:
        ours: Whether it is goevent.
    """

    label: str
    value: float
    ours: bool


@dataclass(frozen=True)
class Group:
    """The bars of one workload, on a scale of their own."""

    title: str
    bars: Sequence[Bar]


def chart(title: str, groups: Sequence[Group]) -> str:
    """Return the SVG of groups of bars, one below the other."""
    parts: list[str] = []
    y = 0
    for group in groups:
        parts.append(f'<text class="t" x="0" y="{y + 17}">{escape(group.title)}</text>')
        y += GROUP_HEIGHT
        scale = _scale(group)
        for bar in group.bars:
            parts += _bar(bar, y, scale)
            y += ROW_HEIGHT
        y += 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n" + "\n".join(parts) + "\n"
        "</svg>\n"
    )


def _scale(group: Group) -> float:
    """Return the value that the longest bar stands for."""
    longest = max(bar.value for bar in group.bars)
    ours = [bar.value for bar in group.bars if bar.ours]
    return min(longest, LONGEST * ours[0]) if ours else longest


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    room = WIDTH - LABEL_WIDTH - FIGURE_WIDTH
    width = max(1.0, room * min(1.0, bar.value / scale))
    end = LABEL_WIDTH + width
    kind, text = ("o", "t") if bar.ours else ("b", "f")
    line = y + BAR_HEIGHT - 2
    label = f'<text class="e {text}" x="{LABEL_WIDTH - 8}" y="{line}">{escape(bar.label)}</text>'
    size = f'width="{width:.1f}" height="{BAR_HEIGHT}"'
    drawn = [label, f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y}" {size} rx="2"/>']
    if bar.value > scale:
        drawn.append(
            f'<path class="p" d="M{end - 14:.1f} {y + BAR_HEIGHT}l6 -{BAR_HEIGHT}h4l-6 13z"/>'
        )
    drawn.append(f'<text class="{text}" x="{end + 6:.1f}" y="{line}">{bar.value:,.0f}</text>')
    return drawn
