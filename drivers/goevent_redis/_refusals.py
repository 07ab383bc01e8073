"""The findings about commands that the server would refuse, for the `check` of both drivers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from goevent.drivers import Finding

from ._link.link import Link
from ._link.rehearsal import RehearsedCommand, rehearse

MAX_SHOWN_COMMANDS = 8


@dataclass(frozen=True, slots=True)
class NeededCommand:
    """A command that the driver sends.

    Attributes:
        purpose: The driver's purpose with it, such as "publish" or "listen".
        name: The event name or the pattern for which it needs the command.
        words: The command, complete.
    """

    purpose: str
    name: str
    words: RehearsedCommand

    @property
    def verb(self) -> str:
        """The name of the command, with the subcommand if it has one."""
        words = [str(word) for word in self.words[:2]]
        return " ".join(words if words[0] in ("XGROUP", "XINFO", "CLIENT") else words[:1])


async def find_refusals(
    link: Link, needed: Sequence[NeededCommand], *, severity: Literal["warning", "error"] = "error"
) -> list[Finding]:
    """Return one finding for each purpose that the server would refuse, and for each other reason.

    Args:
        link: The link, whose user is asked for.
        needed: The commands.
        severity: The severity of the findings.

    Raises:
        RedisLinkError: There is no connection.
    """
    reasons = await rehearse(link, [each.words for each in needed])
    if reasons is None:
        return []
    forbidden: dict[str, list[NeededCommand]] = {}
    others: dict[str, NeededCommand] = {}
    for each, reason in zip(needed, reasons, strict=True):
        if reason is None:
            continue
        if reason.startswith("NOPERM"):
            forbidden.setdefault(each.purpose, []).append(each)
        else:
            others.setdefault(reason, each)
    found = [
        Finding(severity=severity, text=_forbidden(purpose, commands))
        for purpose, commands in forbidden.items()
    ]
    found += [
        Finding(severity=severity, text=f"Redis would refuse {each.verb}: {reason}")
        for reason, each in others.items()
    ]
    return found


def _forbidden(purpose: str, commands: Sequence[NeededCommand]) -> str:
    names = [*dict.fromkeys(each.name for each in commands)]
    verbs = [*dict.fromkeys(each.verb for each in commands)]
    shown = ", ".join(verbs[:MAX_SHOWN_COMMANDS])
    if len(verbs) > MAX_SHOWN_COMMANDS:
        shown += f" and {len(verbs) - MAX_SHOWN_COMMANDS} more commands"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    keys = [*dict.fromkeys(str(key) for each in commands for key in _keys_of(each))]
    where = f" on {keys[0]}" if keys else ""
    return (
        f"the user of this bus may not {purpose} {names[0]!r}{more}: the server would refuse "
        f"{shown}{where}; grant it with ACL SETUSER"
    )


def _keys_of(command: NeededCommand) -> Sequence[object]:
    """Return the words of a command that contain the name or belong to it."""
    return [word for word in command.words if isinstance(word, str) and ":" in word][:1]
