"""Cases about event names and patterns: each listener gets its events and no others."""

from __future__ import annotations

from collections.abc import Iterable

from ... import Event, UnsupportedError
from .environment import CaseEnvironment
from .expect import expect, expect_each
from .recording import RecordedDelivery, RecordingDriver

NOT_NAMES = ("a.*", "a.**", "*", "a?", "[ab]", "a.", ".a", "a b", "a\r\nb", "a\x00b", "a>", "#", "")


async def names_do_not_mix(env: CaseEnvironment) -> None:
    event_types = [env.event_type(f"name{n}") for n in range(20)]
    one, two, receiver = env.bus(), env.bus(), env.bus()
    received = [env.listen(receiver, event_type) for event_type in event_types]
    async with env.open(receiver, one, two):
        for n in range(20):
            for place, event_type in enumerate(event_types):
                bus = (one, two)[(n + place) % 2]
                await bus.dispatch(event_type(n=100 * place + n))
        for each in received:
            await env.wait_for(each, 20)
        for bus in (one, two):
            for event_type, each in zip(event_types, received, strict=True):
                await env.flush(bus, event_type, each)
    for place, each in enumerate(received):
        mine = range(100 * place, 100 * place + 20)
        expect_each(each.numbers, mine, f"the events of name {place}")
        names = {event.event_name for event in each.events}
        expect(names == {event_types[place].event_name}, f"one listener got events of {names}")


async def unusual_names_are_kept_apart(env: CaseEnvironment) -> None:
    longest = "x" * (254 - len(env.prefix))
    # One bus listens to the names on the left, another one to those on the right.
    odd = ["a.b", "aXb", "a", "A", "b", "a.b.c", "a_b", "a-b", "ab", "abc", "_", "__", "-", "--"]
    odd += ["0", "00", "1.2.3", "1.2", "CON", "con", "-.-", "-.-.-", "null", "true"]
    odd += [longest, longest[:-1]]
    event_types = [env.event_type(suffix) for suffix in odd]
    recordings = [env.recording_driver(), env.recording_driver()]
    sender, receivers = env.bus(), [env.bus(recording) for recording in recordings]
    received = [
        env.listen(receivers[n % 2], event_type) for n, event_type in enumerate(event_types)
    ]
    async with env.open(*receivers, sender):
        for n, event_type in enumerate(event_types):
            await sender.dispatch(event_type(n=n))
        for event_type, each in zip(event_types, received, strict=True):
            await env.flush(sender, event_type, each)
    for n, each in enumerate(received):
        expect_each(each.numbers, [n], f"the listener of {odd[n][:40]!r}")
    for place, recording in enumerate(recordings):
        stray = {*names_of(recording.delivered)} - {
            event_type.event_name for event_type in event_types[place::2]
        }
        expect(not stray, f"a bus got events that it has not subscribed to: {sorted(stray)}")


async def wildcards_never_reach_the_broker(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    recording = env.recording_driver()
    sender, receiver = env.bus(recording), env.bus()
    received = env.listen(receiver, event_type)
    async with env.open(receiver, sender):
        # The bus refuses these texts itself. The recording shows that the driver never saw them.
        for name in NOT_NAMES:
            try:
                await sender.dispatch(Event(name, {}))
            except ValueError:
                continue
            raise AssertionError(f"the event name {name!r} was accepted")
        await env.flush(sender, event_type, received)
    expect(
        recording.published == [event_type.event_name],
        f"these names were published: {recording.published}",
    )


async def unsubscribed_names_are_not_delivered(env: CaseEnvironment) -> None:
    event_type, other = env.event_type(), env.event_type("other")
    recording = env.recording_driver()
    sender, receiver = env.bus(), env.bus(recording)
    received = env.listen(receiver, event_type)
    async with env.open(receiver, sender):
        for n in range(3):
            await sender.dispatch(other(n=n))
            silent = env.event_type(f"silent{n}")
            heard = env.listen(receiver, silent)
            await receiver.ready()
            await sender.dispatch(silent(n=n))
            await env.wait_for(heard, 1)
            receiver.unregister_listeners_for_event(silent)
            await wait_until_unsubscribed(env, recording, silent.event_name)
            # Events sent before the unsubscription may still have been delivered. Later ones may
            # not; the flush on another name shows that they had time to arrive.
            count = names_of(recording.delivered).count(silent.event_name)
            for _ in range(3):
                await sender.dispatch(silent(n=n))
                await env.flush(sender, event_type, received)
            now = names_of(recording.delivered).count(silent.event_name)
            expect(now == count, "events of a name arrive after it was unsubscribed")
            expect_each(heard.numbers, [n], "while it was subscribed")
    stray = other.event_name in names_of(recording.delivered)
    expect(not stray, "events of a name arrive that no bus has subscribed to")


async def a_running_bus_can_subscribe(env: CaseEnvironment) -> None:
    event_types = [env.event_type(f"late{n}") for n in range(10)]
    sender, receiver = env.bus(), env.bus()
    async with env.open(receiver, sender):
        for n, event_type in enumerate(event_types):
            received = env.listen(receiver, event_type)
            await receiver.ready()
            await sender.dispatch(event_type(n=n))
            await env.wait_for(received, 1)
            await env.flush(sender, event_type, received)
            expect_each(received.numbers, [n], "a listener that was registered late")


async def patterns_match_segments(env: CaseEnvironment) -> None:
    top = env.prefix
    suffixes = ["o.a", "o.b", "o.a.b", "o", "oo.a", "O.a", "p.a.o", "o.a.b.c"]
    event_types = {suffix: env.event_type(suffix) for suffix in suffixes}
    wanted = {
        f"{top}.o.*": {"o.a", "o.b"},
        f"{top}.o.**": {"o.a", "o.b", "o.a.b", "o.a.b.c"},
        f"{top}.*.a": {"o.a", "oo.a", "O.a"},
        f"{top}.**.b": {"o.b", "o.a.b"},
        f"{top}.*": {"o"},
    }
    sender = env.bus()
    receivers = [env.bus() for _ in wanted]
    # One bus with all patterns, and with exact names besides.
    every = env.bus()
    received = [env.listen(bus, pattern) for bus, pattern in zip(receivers, wanted, strict=True)]
    together = [env.listen(every, pattern) for pattern in wanted]
    exact = [env.listen(every, event_types[suffix]) for suffix in suffixes]
    async with env.open(every, *receivers, sender):
        for n, suffix in enumerate(suffixes):
            await sender.dispatch(event_types[suffix](n=n))
        for group in (received, together):
            for each, suffixes_wanted in zip(group, wanted.values(), strict=True):
                await env.wait_for(each, len(suffixes_wanted))
        for suffix, each in zip(suffixes, exact, strict=True):
            await env.flush(sender, event_types[suffix], each)
        for pattern, each in zip(wanted, received, strict=True):
            await env.flush(sender, event_types[min(wanted[pattern])], each)
    for group, where in ((received, "alone"), (together, "with others that overlap")):
        for each, (pattern, names) in zip(group, wanted.items(), strict=True):
            numbers = [n for n, suffix in enumerate(suffixes) if suffix in names]
            expect_each(each.numbers, numbers, f"{pattern.removeprefix(top)} {where}")
    for n, each in enumerate(exact):
        expect_each(each.numbers, [n], f"the name {suffixes[n]} besides patterns")


async def unsubscribed_patterns_are_not_delivered(env: CaseEnvironment) -> None:
    event_type, other = env.event_type("o.kept"), env.event_type("o.silent")
    recording = env.recording_driver()
    sender, receiver = env.bus(), env.bus(recording)
    exact = env.listen(receiver, event_type)
    pattern = f"{env.prefix}.o.*"
    wide = env.listen(receiver, pattern)
    async with env.open(receiver, sender):
        await sender.dispatch(event_type(n=0))
        await sender.dispatch(other(n=1))
        await env.wait_for(wide, 2)
        receiver.unregister_listeners_for_event(pattern)
        await wait_until_unsubscribed(env, recording, pattern)
        before = len(recording.delivered)
        await sender.dispatch(other(n=2))
        await sender.dispatch(event_type(n=3))
        await env.wait_for(exact, 2)
        await env.flush(sender, event_type, exact)
    stray = names_of(recording.delivered[before:]).count(other.event_name)
    expect(not stray, "events arrive by a pattern after it was unsubscribed")
    expect_each(exact.numbers, [0, 3], "the name that stayed subscribed")


async def patterns_are_refused(env: CaseEnvironment) -> None:
    bus = env.bus()
    try:
        env.listen(bus, f"{env.prefix}.*")
    except UnsupportedError:
        return
    raise AssertionError("a pattern was accepted that the driver cannot subscribe to")


async def wait_until_unsubscribed(
    env: CaseEnvironment, recording: RecordingDriver, name: str
) -> None:
    """Wait until the driver has unsubscribed from a name or pattern."""
    await env.wait_until(
        lambda: name in recording.unsubscribed,
        lambda: f"the driver to be asked to unsubscribe from {name}",
    )


def names_of(delivered: Iterable[RecordedDelivery]) -> list[str]:
    """Return the event names of deliveries."""
    return [each.event_name for each in delivered]
