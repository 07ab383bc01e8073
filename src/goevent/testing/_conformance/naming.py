"""Cases about names and patterns: who gets what, and who does not."""

from __future__ import annotations

from collections.abc import Iterable

from ... import Event, UnsupportedError
from .expect import expect, expect_each
from .spy import Handed, Spy
from .stage import Stage

NOT_NAMES = ("a.*", "a.**", "*", "a?", "[ab]", "a.", ".a", "a b", "a\r\nb", "a\x00b", "a>", "#", "")


async def names_do_not_mix(stage: Stage) -> None:
    kinds = [stage.kind(f"name{n}") for n in range(20)]
    one, two, receiver = stage.bus(), stage.bus(), stage.bus()
    seen = [stage.listen(receiver, kind) for kind in kinds]
    async with stage.open(receiver, one, two):
        for n in range(20):
            for place, kind in enumerate(kinds):
                bus = (one, two)[(n + place) % 2]
                await bus.dispatch(kind(n=100 * place + n))
        for each in seen:
            await stage.arrived(each, 20)
        for bus in (one, two):
            for kind, each in zip(kinds, seen, strict=True):
                await stage.flush(bus, kind, each)
    for place, each in enumerate(seen):
        mine = range(100 * place, 100 * place + 20)
        expect_each(each.numbers, mine, f"the events of name {place}")
        names = {event.event_name for event in each.events}
        expect(names == {kinds[place].event_name}, f"one listener got events of {names}")


async def odd_names_are_only_names(stage: Stage) -> None:
    longest = "x" * (254 - len(stage.token))
    # One bus listens to the names on the left, another one to those on the right.
    odd = ["a.b", "aXb", "a", "A", "b", "a.b.c", "a_b", "a-b", "ab", "abc", "_", "__", "-", "--"]
    odd += ["0", "00", "1.2.3", "1.2", "CON", "con", "-.-", "-.-.-", "null", "true"]
    odd += [longest, longest[:-1]]
    kinds = [stage.kind(suffix) for suffix in odd]
    spies = [stage.spy(), stage.spy()]
    sender, receivers = stage.bus(), [stage.bus(spy) for spy in spies]
    seen = [stage.listen(receivers[n % 2], kind) for n, kind in enumerate(kinds)]
    async with stage.open(*receivers, sender):
        for n, kind in enumerate(kinds):
            await sender.dispatch(kind(n=n))
        for kind, each in zip(kinds, seen, strict=True):
            await stage.flush(sender, kind, each)
    for n, each in enumerate(seen):
        expect_each(each.numbers, [n], f"the listener of {odd[n][:40]!r}")
    for place, spy in enumerate(spies):
        stray = {*names_of(spy.handed)} - {kind.event_name for kind in kinds[place::2]}
        expect(not stray, f"a bus got events that it has not subscribed to: {sorted(stray)}")


async def globs_never_reach_the_broker(stage: Stage) -> None:
    kind = stage.kind()
    spy = stage.spy()
    sender, receiver = stage.bus(spy), stage.bus()
    seen = stage.listen(receiver, kind)
    async with stage.open(receiver, sender):
        for name in NOT_NAMES:
            try:
                await sender.dispatch(Event(name, {}))
            except ValueError:
                continue
            raise AssertionError(f"the event name {name!r} was taken")
        await stage.flush(sender, kind, seen)
    expect(spy.published == [kind.event_name], f"these were published: {spy.published}")


async def unsubscribed_names_stay_silent(stage: Stage) -> None:
    kind, other = stage.kind(), stage.kind("other")
    spy = stage.spy()
    sender, receiver = stage.bus(), stage.bus(spy)
    seen = stage.listen(receiver, kind)
    async with stage.open(receiver, sender):
        for n in range(3):
            await sender.dispatch(other(n=n))  # nobody has ever asked for it
            silent = stage.kind(f"silent{n}")
            heard = stage.listen(receiver, silent)
            await receiver.ready()
            await sender.dispatch(silent(n=n))
            await stage.arrived(heard, 1)
            receiver.unregister_listeners_for_event(silent)
            await dropped(stage, spy, silent.event_name)
            handed = names_of(spy.handed).count(silent.event_name)
            for _ in range(3):
                await sender.dispatch(silent(n=n))
                await stage.flush(sender, kind, seen)
            now = names_of(spy.handed).count(silent.event_name)
            expect(now == handed, "events of a name arrive after it was unsubscribed")
            expect_each(heard.numbers, [n], "while it was subscribed")
    stray = other.event_name in names_of(spy.handed)
    expect(not stray, "events of a name arrive that nobody has subscribed to")


async def a_running_bus_can_subscribe(stage: Stage) -> None:
    kinds = [stage.kind(f"late{n}") for n in range(10)]
    sender, receiver = stage.bus(), stage.bus()
    async with stage.open(receiver, sender):
        for n, kind in enumerate(kinds):
            seen = stage.listen(receiver, kind)
            await receiver.ready()
            await sender.dispatch(kind(n=n))
            await stage.arrived(seen, 1)
            await stage.flush(sender, kind, seen)
            expect_each(seen.numbers, [n], "a listener that was registered late")


async def patterns_match_segments(stage: Stage) -> None:
    top = stage.token
    suffixes = ["o.a", "o.b", "o.a.b", "o", "oo.a", "O.a", "p.a.o", "o.a.b.c"]
    kinds = {suffix: stage.kind(suffix) for suffix in suffixes}
    wanted = {
        f"{top}.o.*": {"o.a", "o.b"},
        f"{top}.o.**": {"o.a", "o.b", "o.a.b", "o.a.b.c"},
        f"{top}.*.a": {"o.a", "oo.a", "O.a"},
        f"{top}.**.b": {"o.b", "o.a.b"},
        f"{top}.*": {"o"},
    }
    sender = stage.bus()
    receivers = [stage.bus() for _ in wanted]
    every = stage.bus()  # one bus with all of them, and names besides
    seen = [stage.listen(bus, pattern) for bus, pattern in zip(receivers, wanted, strict=True)]
    together = [stage.listen(every, pattern) for pattern in wanted]
    exact = [stage.listen(every, kinds[suffix]) for suffix in suffixes]
    async with stage.open(every, *receivers, sender):
        for n, suffix in enumerate(suffixes):
            await sender.dispatch(kinds[suffix](n=n))
        for group in (seen, together):
            for each, suffixes_wanted in zip(group, wanted.values(), strict=True):
                await stage.arrived(each, len(suffixes_wanted))
        for suffix, each in zip(suffixes, exact, strict=True):
            await stage.flush(sender, kinds[suffix], each)
        for pattern, each in zip(wanted, seen, strict=True):
            await stage.flush(sender, kinds[min(wanted[pattern])], each)
    for group, where in ((seen, "alone"), (together, "with others that overlap")):
        for each, (pattern, names) in zip(group, wanted.items(), strict=True):
            numbers = [n for n, suffix in enumerate(suffixes) if suffix in names]
            expect_each(each.numbers, numbers, f"{pattern.removeprefix(top)} {where}")
    for n, each in enumerate(exact):
        expect_each(each.numbers, [n], f"the name {suffixes[n]} besides patterns")


async def a_dropped_pattern_stays_silent(stage: Stage) -> None:
    kind, other = stage.kind("o.kept"), stage.kind("o.silent")
    spy = stage.spy()
    sender, receiver = stage.bus(), stage.bus(spy)
    exact = stage.listen(receiver, kind)
    pattern = f"{stage.token}.o.*"
    wide = stage.listen(receiver, pattern)
    async with stage.open(receiver, sender):
        await sender.dispatch(kind(n=0))
        await sender.dispatch(other(n=1))
        await stage.arrived(wide, 2)
        receiver.unregister_listeners_for_event(pattern)
        await dropped(stage, spy, pattern)
        handed = len(spy.handed)
        await sender.dispatch(other(n=2))
        await sender.dispatch(kind(n=3))
        await stage.arrived(exact, 2)
        await stage.flush(sender, kind, exact)
    stray = names_of(spy.handed[handed:]).count(other.event_name)
    expect(not stray, "events arrive by a pattern after it was unsubscribed")
    expect_each(exact.numbers, [0, 3], "the name that stayed subscribed")


async def patterns_are_refused(stage: Stage) -> None:
    bus = stage.bus()
    try:
        stage.listen(bus, f"{stage.token}.*")
    except UnsupportedError:
        return
    raise AssertionError("a pattern was taken that the driver cannot subscribe to")


async def dropped(stage: Stage, spy: Spy, name: str) -> None:
    """Wait until a driver has unsubscribed from a name or pattern."""
    await stage.until(
        lambda: name in spy.dropped, lambda: f"the driver to be asked to unsubscribe from {name}"
    )


def names_of(handed: Iterable[Handed]) -> list[str]:
    """Return the names of what was handed over."""
    return [each.event_name for each in handed]
