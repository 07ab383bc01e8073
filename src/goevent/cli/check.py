"""`goevent check`: reaches the broker, and looks for what endangers the promises of the driver."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .. import DriverError, UnsupportedError
from ..drivers import Finding, did_you_mean, inspected
from .asked_broker import asked, run_asking
from .failures import CommandFinding, one_line
from .output import json_option, write_json, write_line, write_note
from .targets import Target, TargetCommand, load_target, target_argument


@click.command("check", cls=TargetCommand)
@target_argument
@click.option("--strict", is_flag=True, help="Exit with 1 for a warning, too.")
@json_option
def command(target: str, strict: bool, as_json: bool) -> None:
    """Reach the broker of TARGET, and report what endangers the promises of its driver.

    It connects and logs in, and looks for missing rights and for settings such as a server without
    an append-only file. It runs no listener and takes no event. An error ends with the exit code 1.

    \b
    Example:
      goevent check shop.app:bus --strict
    """
    found = load_target(target)
    findings = [*findings_in_program(found), *run_asking(findings_at_broker, found)]
    findings.sort(key=lambda finding: finding.severity)
    if as_json:
        shown = [{"severity": each.severity, "text": one_line(each.text)} for each in findings]
        write_json({"target": found.name, "findings": shown})
    else:
        for each in findings:
            write_line(f"{each.severity}: {one_line(each.text)}")
        if not findings:
            write_line(f"{found.name}: no findings")
    if any(each.severity == "error" or strict for each in findings):
        raise CommandFinding


def findings_in_program(target: Target) -> list[Finding]:
    """Return what the names of the listeners show without a broker."""
    registry = target.bus.config.registry
    findings: list[Finding] = []
    for listener in target.bus.registered_listeners():
        requested = listener.responds_to
        does = "responds" if requested else "listens"
        for name in (requested,) if requested else listener.event_names:
            if "*" in name or registry.is_registered(name):
                continue
            hint = did_you_mean(name, registry.names())
            text = f"{listener.name} {does} to {name!r}, which is the name of no event type{hint}"
            if registry.strict:
                findings.append(Finding(severity="error", text=f"{text} (strict registry)"))
            elif hint:
                findings.append(Finding(severity="warning", text=text))
    return findings


async def findings_at_broker(target: Target) -> Sequence[Finding]:
    """Return the findings of the driver; that the broker cannot be reached is one."""
    bus = target.bus
    if bus.driver.capabilities.alone:
        write_note(f"{target.name} has no broker to check")
        return ()
    # Under `fan_out`, requests do not come as events.
    is_direct = bus.driver.capabilities.fan_out
    names = [
        name
        for listener in bus.registered_listeners()
        if not (is_direct and listener.responds_to)
        for name in listener.event_names
    ]
    try:
        async with asked(target):
            try:
                check = inspected(bus.driver, "check").check
                return await check([*dict.fromkeys([*names, *bus.config.registry.names()])])
            except UnsupportedError as error:
                write_note(f"the broker is reached; {one_line(str(error))}")
                return ()
    except UnsupportedError:
        raise
    except DriverError as error:
        return [Finding(severity="error", text=str(error))]
