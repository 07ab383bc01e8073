"""Cases about direct messages: the methods of `goevent.drivers.SendsDirectly`.

A broker that does not count receivers answers None. So a case accepts None in place of each number.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ... import Driver, DriverError
from ...drivers import SendsDirectly, direct_sender
from .environment import MARKER_INTERVAL_SECONDS, CaseEnvironment
from .expect import expect, expect_each
from .outages import outage
from .received import NumberedEvent

MARKER = b"marker"
BURST_MESSAGES = 200
LARGE_MESSAGE_BYTES = 60_000
CANCELLED_STEPS = 12
ODD_MESSAGES = (
    b"",
    b"\x00",
    b"\r\n",
    b"$5\r\nhello\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b'{"event_name":"a.b","event_type":"a.b","event_data":{}}',
    b"\xff\xfe\x80 no UTF-8",
    bytes(range(256)),
    bytes(range(256)) * (LARGE_MESSAGE_BYTES // 256),
    b"last",
)


class DirectPeer:
    """A driver with the direct messages that it has received and sent.

    Attributes:
        driver: The driver, which needs a bus to run it.
        answer: Called with each message that arrives, inside of `take`.
        received: The addresses and the bytes of the messages that have arrived, in order.
        outcomes: The calls of `sent` for each message that was sent, in order.
    """

    def __init__(self, env: CaseEnvironment, driver: Driver | None = None) -> None:
        self._env = env
        self.driver = driver or env.driver()
        self.answer: Callable[[bytes], None] | None = None
        self.received: list[tuple[str, bytes]] = []
        self.outcomes: list[list[int | Exception | None]] = []
        self._markers = 0
        self._received_markers: set[tuple[str, bytes]] = set()

    @property
    def _sender(self) -> SendsDirectly:
        sender = direct_sender(self.driver)
        if sender is None:
            raise TypeError("a driver with the capability `replies` has no direct messages")
        return sender

    async def open(self, *addresses: str) -> None:
        """Open addresses."""
        await self._sender.open_addresses(addresses, self.take)

    async def close(self, *addresses: str) -> None:
        """Close addresses."""
        await self._sender.close_addresses(addresses)

    def take(self, address: str, data: bytes) -> None:
        """Record a message."""
        self.received.append((address, data))
        if data.startswith(MARKER):
            self._received_markers.add((address, data))
        self._env.notify()
        if self.answer is not None:
            self.answer(data)

    def send(self, address: str, *messages: bytes) -> None:
        """Send messages, and record what becomes of each of them."""
        for data in messages:
            calls: list[int | Exception | None] = []
            self.outcomes.append(calls)

            def sent(
                outcome: int | Exception | None, calls: list[int | Exception | None] = calls
            ) -> None:
                calls.append(outcome)
                self._env.notify()

            self._sender.send_directly(address, data, sent)

    async def flush(self, address: str, *receivers: DirectPeer) -> None:
        """Send a last message, and wait until all receivers have it and all outcomes are known."""
        self._markers += 1
        marker = MARKER + f" {self._markers} of {id(self)}".encode()
        self.send(address, marker)
        for receiver in receivers:
            await receiver.wait_for_marker(address, marker)
        await self.wait_for_outcomes()

    async def wait_for_marker(self, address: str, marker: bytes) -> None:
        """Wait until a message of `flush` has arrived."""
        await self._env.wait_until(
            lambda: (address, marker) in self._received_markers,
            lambda: f"the last direct message after {len(self.received)} others",
        )

    async def wait_for_outcomes(self) -> None:
        """Wait until the outcome of each message is known."""
        await self._env.wait_until(
            lambda: all(self.outcomes),
            lambda: f"the outcomes of {sum(not calls for calls in self.outcomes)} direct messages",
        )

    def to(self, address: str) -> list[bytes]:
        """Return the messages to an address, without those of `flush`."""
        return [data for to, data in self.received if to == address and not data.startswith(MARKER)]

    def expect_outcomes(self, receivers: int) -> None:
        """Fail unless each outcome is this number of receivers or None, and forget the outcomes."""
        self.expect_one_outcome_each()
        wrong = [each for (each,) in self.outcomes if each is not None and each != receivers]
        expect(not wrong, f"direct messages to {receivers} buses were counted as {wrong[:5]}")
        self.outcomes.clear()

    def expect_one_outcome_each(self) -> None:
        """Fail unless each message has one outcome, which is a number, None or a DriverError."""
        counts = {len(calls) for calls in self.outcomes}
        expect(counts <= {1}, f"`sent` was called {sorted(counts)} times for a direct message")
        for (outcome,) in self.outcomes:
            known = outcome is None or type(outcome) is int or isinstance(outcome, DriverError)
            expect(known, f"the outcome of a direct message is {outcome!r}")


async def direct_messages_arrive_unchanged(env: CaseEnvironment) -> None:
    sender, receiver = DirectPeer(env), DirectPeer(env)
    address = f"{env.prefix}.inbox"
    async with env.open(env.bus(receiver.driver), env.bus(sender.driver)):
        await receiver.open(address)
        sender.send(address, *ODD_MESSAGES)
        await sender.flush(address, receiver)
        sender.expect_outcomes(1)
    arrived = receiver.to(address)
    expect(len(arrived) == len(ODD_MESSAGES), f"{len(ODD_MESSAGES)} became {len(arrived)} messages")
    for data, was in zip(arrived, ODD_MESSAGES, strict=True):
        expect(type(data) is bytes, f"a direct message arrived as {type(data).__name__}")
        expect(data == was, f"the direct message {was[:40]!r} arrived as {data[:40]!r}")
    expect(not sender.received, "a bus got direct messages to the address of another bus")


async def direct_messages_keep_their_order(env: CaseEnvironment) -> None:
    receiver, *senders = (DirectPeer(env) for _ in range(3))
    addresses = [f"{env.prefix}.{each}" for each in ("one", "two")]
    async with env.open(*(env.bus(each.driver) for each in (receiver, *senders))):
        await receiver.open(*addresses)
        for n in range(BURST_MESSAGES):
            for place, sender in enumerate(senders):
                for address in addresses:
                    sender.send(address, b"%d %d" % (place, n))
        for sender in senders:
            for address in addresses:
                await sender.flush(address, receiver)
            sender.expect_outcomes(1)
    for address in addresses:
        for place in range(2):
            mine = b"%d " % place
            got = [data for data in receiver.to(address) if data.startswith(mine)]
            numbers = [int(data.removeprefix(mine)) for data in got]
            expect_each(numbers, range(BURST_MESSAGES), "of one sender of direct messages")
            expect(numbers == sorted(numbers), "direct messages arrived in another order")


async def direct_addresses_do_not_mix(env: CaseEnvironment) -> None:
    sender, one, two = DirectPeer(env), DirectPeer(env), DirectPeer(env)
    longest = "x" * (299 - len(env.prefix))
    suffixes = ["a", "A", "a.b", "aXb", "a.b.c", "a_b", "a-b", "ab", "-", "_", "0", longest]
    addresses = [f"{env.prefix}.{suffix}" for suffix in suffixes]
    async with env.open(*(env.bus(each.driver) for each in (one, two, sender))):
        await one.open(*addresses[::2])
        await two.open(*addresses[1::2])
        for address in addresses:
            sender.send(address, address.encode())
        for place, address in enumerate(addresses):
            await sender.flush(address, (one, two)[place % 2])
        sender.expect_outcomes(1)
        for place, peer in enumerate((one, two)):
            for address in addresses:
                expected = [address.encode()] if address in addresses[place::2] else []
                expect(peer.to(address) == expected, f"{address[:60]} got {peer.to(address)[:3]}")
        # One address is closed; its neighbours stay open.
        one.received.clear()
        await one.close(addresses[0])
        sender.send(addresses[0], b"nobody is there")
        sender.send(f"{env.prefix}.never-opened", b"nobody is there")
        await sender.wait_for_outcomes()
        sender.expect_outcomes(0)
        await sender.flush(addresses[2], one)
        expect(not one.to(addresses[0]), "a direct message arrived after its address was closed")
        # It is opened again.
        await one.open(addresses[0])
        await sender.flush(addresses[0], one)


async def all_buses_of_an_address_get_a_message(env: CaseEnvironment) -> None:
    peers = [DirectPeer(env) for _ in range(3)]
    sender = peers[0]
    address = f"{env.prefix}.shared"
    async with env.open(*(env.bus(each.driver) for each in peers)):
        for count, peer in enumerate(peers, 1):
            # The sender is the first of them: it gets its own messages.
            await peer.open(address)
            sender.send(address, b"%d" % count)
            await sender.flush(address, *peers[:count])
            sender.expect_outcomes(count)
        await sender.close(address)
        sender.send(address, b"4")
        await sender.flush(address, *peers[1:])
        sender.expect_outcomes(2)
    for place, peer in enumerate(peers):
        expected = [b"%d" % n for n in range(place + 1, 5 if place else 4)]
        got = peer.to(address)
        expect(got == expected, f"bus {place} of 3 with one address got {got} of {expected}")


async def direct_messages_can_be_answered(env: CaseEnvironment) -> None:
    """The receiver sends from inside of `take`, as a bus may do."""
    asker, answerer = DirectPeer(env), DirectPeer(env)
    questions, answers = f"{env.prefix}.questions", f"{env.prefix}.answers"
    answerer.answer = lambda data: answerer.send(answers, b"answer to " + data)
    async with env.open(env.bus(asker.driver), env.bus(answerer.driver)):
        await answerer.open(questions)
        await asker.open(answers)
        for n in range(100):
            asker.send(questions, b"%d" % n)
        await env.wait_until(
            lambda: len(asker.received) >= 100,
            lambda: f"100 answers, of which {len(asker.received)} have arrived",
        )
        for peer in (asker, answerer):
            await peer.wait_for_outcomes()
            peer.expect_outcomes(1)
    got = asker.to(answers)
    expect(got == [b"answer to %d" % n for n in range(100)], f"the answers were {got[:5]}...")


async def events_and_direct_messages_do_not_meet(env: CaseEnvironment) -> None:
    event_type = env.event_type("meeting")
    # The address has the name of an event to which others have subscribed.
    address = event_type.event_name
    sender, peer = DirectPeer(env), DirectPeer(env)
    recording = env.recording_driver()
    watcher, bus, receiver = env.bus(recording), env.bus(sender.driver), env.bus(peer.driver)
    seen = env.listen(watcher, event_type)
    if env.capabilities.patterns:
        env.listen(watcher, f"{env.prefix}.**")
    event = b'{"event_name":"%s","event_type":"%s","event_data":{"n":7},"timestamp":1}'
    envelope = event % (address.encode(), address.encode())
    async with env.open(watcher, receiver, bus):
        sender.send(address, envelope, b"no envelope")
        await sender.wait_for_outcomes()
        sender.expect_outcomes(0)
        await peer.open(address)
        sender.send(address, envelope)
        await sender.flush(address, peer)
        sender.expect_outcomes(1)
        await bus.dispatch(event_type(n=1))
        await env.flush(bus, event_type, seen)
        await sender.flush(address, peer)
    expect_each(seen.numbers, [1], "by a listener beside an address of the same name")
    # The event and the marker.
    stray = len(recording.delivered) - 2
    expect(not stray, f"{stray} direct messages were delivered as events")
    got = peer.to(address)
    expect(got == [envelope], f"an address got {len(got)} messages in place of 1")


async def full_mailboxes_delay_no_direct_message(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    text = "x" * min(10_000, (env.capabilities.max_size or 10_000) // 2)
    sender, receiver = DirectPeer(env), DirectPeer(env)
    bus, stuck = env.bus(sender.driver, failing=True), env.bus(receiver.driver, failing=True)
    address, answers = f"{env.prefix}.urgent", f"{env.prefix}.answers"

    async def wait(event: NumberedEvent) -> None:
        await trio.sleep_forever()

    stuck.subscribe(wait, event_type, mailbox=1)
    async with env.open(bus), env.open(stuck):
        await receiver.open(address)
        await sender.open(answers)
        for n in range(400):
            if n % 100 == 0:
                sender.send(address, b"%d" % n)
            await bus.dispatch(event_type(n=n, text=text))
        await sender.flush(address, receiver)
        # In the other direction, too.
        await receiver.flush(answers, sender)
        sender.expect_outcomes(1)
        await stuck.close(timeout=0)
    got = receiver.to(address)
    expect(got == [b"0", b"100", b"200", b"300"], f"beside a full mailbox, {got} arrived")


async def direct_messages_have_outcomes_when_the_bus_ends(env: CaseEnvironment) -> None:
    address = f"{env.prefix}.inbox"
    receiver = DirectPeer(env)
    before = env.tasks()
    async with env.open_in_own_task(env.bus(receiver.driver)):
        await receiver.open(address)
        for way in ("left", "cancelled", "closed"):
            sender = DirectPeer(env)
            with trio.CancelScope() as scope:
                async with env.bus(sender.driver) as bus:
                    await sender.open(f"{env.prefix}.own")
                    sender.send(address, *(b"%d" % n for n in range(200)))
                    if way == "closed":
                        await bus.close()
                    elif way == "cancelled":
                        scope.cancel()
            missing = sum(not calls for calls in sender.outcomes)
            expect(not missing, f"{missing} direct messages of a {way} bus have no outcome")
            sender.expect_one_outcome_each()
            env.expect_no_tasks_since(before, f"by a bus that was {way}")


async def addresses_end_with_the_bus(env: CaseEnvironment) -> None:
    address, other = f"{env.prefix}.inbox", f"{env.prefix}.other"
    sender, receiver = DirectPeer(env), DirectPeer(env)
    bus = env.bus(receiver.driver)
    async with env.open(env.bus(sender.driver)):
        for _ in range(3):
            async with bus:
                # The addresses of the earlier openings are closed.
                await receiver.open(other)
                sender.send(address, b"too late")
                await sender.flush(other, receiver)
                expect(not receiver.to(address), "an address has outlived its bus")
                await receiver.open(address)
                await sender.flush(address, receiver)
            sender.outcomes.clear()
            sender.send(address, b"nobody is there")
            await sender.wait_for_outcomes()
            sender.expect_outcomes(0)


async def opening_an_address_can_be_cancelled(env: CaseEnvironment) -> None:
    sender, receiver = DirectPeer(env), DirectPeer(env)
    async with env.open(env.bus(receiver.driver), env.bus(sender.driver)):
        for steps in range(CANCELLED_STEPS):
            address = f"{env.prefix}.address{steps}"
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receiver.open, address)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await receiver.open(address)
            sender.send(address, b"once")
            await sender.flush(address, receiver)
            got = receiver.to(address)
            expect(got == [b"once"], f"an address whose opening was cancelled got {got}")
            await receiver.close(address)


async def direct_messages_outlive_an_outage(env: CaseEnvironment) -> None:
    address, late = f"{env.prefix}.inbox", f"{env.prefix}.late"
    sender, receiver = DirectPeer(env), DirectPeer(env)
    buses = [env.bus(each.driver, failing=True) for each in (receiver, sender)]
    async with env.open(*buses):
        await receiver.open(address)
        for number in range(2):
            sender.send(address, b"before %d" % number)
            await sender.flush(address, receiver)
            async with outage(env):
                for n in range(100):
                    sender.send(address, b"meanwhile %d %d" % (number, n))
                    # The driver finds out between two of them that the broker is gone.
                    await trio.lowlevel.checkpoint()
            await _send_until_received(env, sender, address, receiver)
            await sender.wait_for_outcomes()
            sender.expect_one_outcome_each()
            await receiver.open(late)
            await sender.flush(late, receiver)
            await receiver.close(late)
    got = receiver.to(address)
    expect(len(got) == len({*got}), "a direct message arrived twice after an outage")


async def _send_until_received(
    env: CaseEnvironment, sender: DirectPeer, address: str, receiver: DirectPeer
) -> None:
    """Send messages until one arrives, because those of an outage may be lost."""
    before, again = len(receiver.received), (address, MARKER + b" after an outage")

    async def keep_sending() -> None:
        while True:
            sender.send(*again)
            await trio.sleep(MARKER_INTERVAL_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_sending)
        await env.wait_until(
            lambda: again in receiver.received[before:],
            lambda: "any direct message after an outage",
        )
        nursery.cancel_scope.cancel()
