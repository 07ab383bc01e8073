"""The pytest plugin, as an application uses it. Each test runs a pytest of its own."""

from __future__ import annotations

import pytest
from tests.support.limits import SUBPROCESS_SECONDS

pytest_plugins = ["pytester"]

EVENTS = """
import pytest
import trio
from goevent import Config, Event, GoEvent, ListenerOptions
from goevent.testing import Recorder, Run, record, wait_idle

class Job(Event, name="plugin.job"):
    n: int = 0

class Done(Event, name="plugin.done"):
    n: int = 0

def fail(event: Job) -> None:
    raise ValueError("broken")

async def fail_later(event: Job) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("broken later")
"""


def run(
    pytester: pytest.Pytester, body: str, *options: str, trio_mode: bool = True
) -> pytest.RunResult:
    pytester.makeini("[pytest]\n" + "trio_mode = true\n" * trio_mode + "filterwarnings = error\n")
    pytester.makepyfile(test_application=EVENTS + body)
    return pytester.runpytest_subprocess(
        "-p", "no:randomly", "-p", "no:cacheprovider", *options, timeout=SUBPROCESS_SECONDS
    )


def test_the_fixtures_are_there_without_configuration(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures", timeout=SUBPROCESS_SECONDS)
    for line in ("*An open bus.*", "*The configuration of the `bus` fixture.*"):
        result.stdout.fnmatch_lines([line])


def test_an_error_that_the_test_did_not_look_at_fails_it(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_dropped(bus):
    bus.subscribe(fail, Job)
    await bus.dispatch(Job())

async def test_kept(bus):
    bus.subscribe(fail, Job)
    handle = await bus.dispatch(Job())
    assert handle.done

async def test_in_the_background(bus):
    bus.subscribe(fail_later, Job)
    await bus.dispatch(Job())
""",
    )
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) == 0
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 3
    result.stdout.fnmatch_lines(["*errors on the bus that the test did not look at*"])
    result.stdout.fnmatch_lines(["*ValueError: broken*"])
    result.stdout.fnmatch_lines(["*ValueError: broken later*"])


def test_an_abandoned_event_is_an_error_to_look_at(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.fixture
def bus_config():
    return Config(close_timeout=0)

async def stuck(event):
    await trio.sleep_forever()

async def test_stuck(bus):
    bus.subscribe(stuck, Job)
    await bus.dispatch(Job())
""",
    )
    assert "passed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines(["*EventAbandoned: *stuck abandoned on 'plugin.job'*"])


def test_an_error_that_was_looked_at_passes(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_at_the_handle(bus):
    bus.subscribe(fail, Job)
    handle = await bus.dispatch(Job())
    assert len(handle.errors) == 1

async def test_at_the_bus(bus):
    bus.subscribe(fail_later, Job)
    await bus.dispatch(Job())
    await bus.wait()
    assert len(bus.errors) == 1

async def test_raised(bus):
    bus.subscribe(fail, Job)
    handle = await bus.dispatch(Job())
    with pytest.raises(ExceptionGroup):
        handle.raise_errors()

async def test_told(bus):
    bus.on_error(lambda error: None)
    bus.subscribe(fail, Job)
    await bus.dispatch(Job())

async def test_cleared(bus):
    bus.subscribe(fail, Job)
    handle = await bus.dispatch(Job())
    bus.clear_errors()

async def test_nothing_failed(bus):
    await bus.dispatch(Job())
""",
    )
    result.assert_outcomes(passed=6)


def test_a_failing_test_shows_its_own_failure(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_wrong(bus):
    await bus.dispatch(Job())
    assert 1 == 2, "my own mistake"
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*my own mistake*"])


def test_the_bus_is_open_and_closes_with_the_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
kept = []

async def test_opens(bus):
    assert isinstance(bus, GoEvent)
    assert bus.snapshot().state == "open"
    bus.subscribe(lambda event: None, Job)
    kept.append(bus)

async def test_closed(bus):
    assert kept[0].snapshot().state == "closed"
    assert bus is not kept[0]
    assert bus.snapshot().listeners == ()
    await bus.close()
""",
    )
    result.assert_outcomes(passed=2)


def test_the_recorder_has_the_dispatched_events_and_the_runs(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_records(bus, recorder):
    @bus.listener(Job)
    def inline(event):
        bus.dispatch_nowait(Done(event.n))

    @bus.listener(Done)
    async def queued(event):
        await trio.lowlevel.checkpoint()

    registration = bus.subscribe(fail, Job)
    handle = await bus.dispatch(Job(1))
    await bus.dispatch(Event("plugin.nobody", {"a": 1}))
    await wait_idle(bus)
    assert isinstance(recorder, Recorder)
    assert [type(event).__name__ for event in recorder.dispatched] == ["Job", "Done", "AdHocEvent"]
    assert recorder.events(Job) == [Job(1)]
    assert recorder.ran(queued) == [Done(1)]
    assert recorder.ran("fail") == [Job(1)]
    assert recorder.ran(inline) == [Job(1)]
    (failed,) = [run for run in recorder.runs if run.error is not None]
    assert failed == Run("fail", Job(1), handle.errors[0].error)
    recorder.clear()
    assert recorder.dispatched == recorder.runs == []
    with pytest.raises(RuntimeError):
        record(bus)

async def test_has_listeners_that_were_there_before(bus):
    ran = []
    async def early(event):
        ran.append(event)
    bus.subscribe(early, Job)
    recorder = record(bus)
    handle = await bus.dispatch(Job(2))
    await handle.wait()
    assert ran == recorder.ran(early) == recorder.dispatched == [Job(2)]
    ledger = await bus.close()
    assert (ledger.accepted, ledger.completed) == (1, 1)  # it is no listener itself
""",
    )
    result.assert_outcomes(passed=2)


def test_the_mock_clock_gives_the_time(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_a_day(bus, autojump_clock):
    ran = []

    @bus.listener(Job)
    async def slow(event):
        await trio.sleep(24 * 3600)
        ran.append(event)

    handle = await bus.dispatch(Job())
    queued = await bus.dispatch(Job())
    await trio.sleep(7)
    assert bus.snapshot().listeners[0].oldest_age == 7
    await handle.wait()
    await queued.wait()
    assert trio.current_time() == 2 * 24 * 3600
    assert len(ran) == 2

async def test_an_hour_at_the_end(bus, autojump_clock, hours):
    @bus.listener(Job)
    async def slow(event):
        await trio.sleep(3600)
        hours.append(trio.current_time())

    await bus.dispatch(Job())

@pytest.fixture
def bus_config():
    return Config(close_timeout=7200, listener=ListenerOptions(mailbox=3))

@pytest.fixture
def hours():
    hours = []
    yield hours
    assert hours == [3600.0]
""",
        "--durations=3",
    )
    result.assert_outcomes(passed=2)


def test_the_configuration_can_be_changed(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.fixture
def bus_config():
    return Config(listener=ListenerOptions(mailbox=1))

async def test_has_room_for_one(bus):
    gate = trio.Event()

    @bus.listener(Job)
    async def gated(event):
        await gate.wait()

    bus.dispatch_nowait(Job())
    with pytest.raises(trio.WouldBlock):
        bus.dispatch_nowait(Job())
    gate.set()
""",
    )
    result.assert_outcomes(passed=1)


def test_wait_idle_follows_chains(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_chain(bus, autojump_clock):
    done = []

    @bus.listener(Job)
    async def again(event):
        await trio.sleep(1)
        if event.n < 50:
            await bus.dispatch(Job(event.n + 1))
        await bus.dispatch(Done(event.n))

    @bus.listener(Done)
    async def collect(event):
        await trio.sleep(0.1)
        done.append(event.n)

    with trio.fail_after(100):
        await bus.dispatch(Job())
        await bus.wait()
        assert done == []  # only what was accepted before
        await wait_idle(bus)
    assert done == list(range(51))
    with trio.testing.assert_checkpoints():
        await wait_idle(bus)

async def test_a_listener_that_was_unregistered_at_work(bus, autojump_clock):
    done = []

    async def slow(event):
        await trio.sleep(1)
        done.append(event.n)

    registration = bus.subscribe(slow, Job)
    await bus.dispatch(Job(1))
    await trio.testing.wait_all_tasks_blocked()
    registration.unregister()
    await wait_idle(bus)
    assert done == [1]
""",
    )
    result.assert_outcomes(passed=2)


def test_without_trio_mode_a_test_says_that_it_is_a_trio_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.trio
async def test_marked(bus):
    await bus.dispatch(Job())
""",
        trio_mode=False,
    )
    result.assert_outcomes(passed=1)


WITHOUT_PYTEST_TRIO = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pytest_trio":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def test_without_pytest_trio_the_fixture_says_what_to_install(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = pytester.mkdir("blocked")
    (blocked / "sitecustomize.py").write_text(WITHOUT_PYTEST_TRIO)
    monkeypatch.setenv("PYTHONPATH", str(blocked))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        """
        def test_needs_the_bus(bus):
            pass

        def test_needs_a_recorder(recorder):
            pass

        def test_needs_nothing():
            pass
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "goevent.testing.pytest_plugin", timeout=SUBPROCESS_SECONDS
    )
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*needs pytest-trio: pip install pytest-trio*"])


# -- tests that cannot have a bus

CANNOT_HAVE_A_BUS = """
def test_sync(bus):
    pass

def test_sync_with_a_recorder(recorder):
    pass

@trio.testing.trio_test
async def test_run_by_a_decorator(bus):
    pass

class TestShop:
    @pytest.mark.parametrize("n", [1, 2])
    def test_sync(self, bus, n):
        pass

@pytest.fixture
async def shop(bus):
    yield bus

def test_sync_with_an_async_fixture(shop):
    pass

async def test_not_marked(bus):
    pass

@pytest.mark.trio
async def test_marked_and_async(bus, shop):
    await bus.dispatch(Job())

@pytest.mark.trio
class TestMarked:
    @pytest.mark.parametrize("n", [1, 2])
    async def test_async(self, bus, recorder, n):
        await bus.dispatch(Job(n))
        assert recorder.dispatched == [Job(n)]

def test_sync_without_a_fixture():
    async def main():
        async with GoEvent() as bus:
            recorder = record(bus)
            await bus.dispatch(Job())
            assert recorder.dispatched == [Job()]

    trio.run(main)
"""


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["one process", "xdist"])
def test_a_test_that_cannot_have_a_bus_says_why_and_harms_no_other(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    result = run(pytester, CANNOT_HAVE_A_BUS, *options, trio_mode=False)
    result.assert_outcomes(passed=4, errors=7)
    said = result.stdout.str()
    for name in (
        "test_sync",
        "test_sync_with_a_recorder",
        "test_run_by_a_decorator",
        "test_sync[1]",
    ):
        assert f"{name} is not an `async def`, and only an async test can use the `bus`" in said
    assert "test_not_marked does not run on Trio: set `trio_mode = true`" in said
    assert "Traceback" not in said
    assert "AssertionError" not in said


def test_skips_and_expected_failures_keep_their_reason(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_with_a_bus(bus):
    pytest.skip("no printer")

async def test_with_a_bus_of_its_own():
    async with GoEvent(), trio.open_nursery():
        pytest.skip("no scanner")

@pytest.fixture
async def fax(bus):
    pytest.skip("no fax")

async def test_in_a_fixture(fax):
    pass

async def test_expected(bus):
    pytest.xfail("known to fail")

def test_sync():
    async def main():
        async with trio.open_nursery():
            pytest.skip("no modem")

    trio.run(main)

async def test_that_fails_on_the_bus_before_it_skips(bus):
    bus.subscribe(fail, Job)
    await bus.dispatch(Job())
    pytest.skip("no plotter")
""",
        "-rsx",
    )
    result.assert_outcomes(skipped=4, xfailed=1, failed=1)
    said = result.stdout.str()
    for reason in ("no printer", "no scanner", "no fax", "no modem", "known to fail"):
        assert reason in said
    assert "errors on the bus that the test did not look at" in said


def test_a_failing_test_shows_its_failure_first_and_the_errors_on_the_bus_below(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
async def test_wrong(bus):
    bus.subscribe(fail, Job)
    bus.subscribe(fail_later, Job)
    await bus.dispatch(Job())
    prices = [1, 2]
    assert prices == [1, 3]

@pytest.fixture
async def till(bus):
    yield
    raise RuntimeError("the till is stuck")

async def test_whose_fixture_fails_at_the_end(till):
    pass
""",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            ">*assert prices == ?1, 3?",
            "E*At index 1 diff: 2 != 3",
            "E*errors on the bus that the test did not look at:",
            "E*fail failed on 'plugin.job': ValueError: broken",
            "E*fail_later failed on 'plugin.job': ValueError: broken later",
            "E*RuntimeError: the till is stuck",
        ]
    )
    assert "Exception Group Traceback" not in result.stdout.str()
    assert "_pytest" not in result.stdout.str()


# -- the plugin of anyio

ON_ANYIO = """
pytestmark = pytest.mark.anyio

@pytest.fixture
async def shop(bus):
    bus.subscribe(repr, Done)
    yield bus
    await bus.dispatch(Job(2))

async def test_open(bus, recorder):
    assert bus.snapshot().state == "open"
    await bus.dispatch(Job(1))
    assert recorder.dispatched == [Job(1)]

async def test_fixture_of_its_own(shop, recorder):
    await shop.dispatch(Job(1))
    assert recorder.dispatched == [Job(1)]

class TestShop:
    @pytest.mark.parametrize("n", [1, 2])
    async def test_method(self, bus, n):
        await bus.dispatch(Job(n))

async def test_skips(bus):
    pytest.skip("no printer")

async def test_fails_on_the_bus(bus):
    bus.subscribe(fail_later, Job)
    await bus.dispatch(Job())

async def test_looks_at_the_error(bus):
    bus.subscribe(fail, Job)
    handle = await bus.dispatch(Job())
    assert len(handle.errors) == 1
"""
ON_TRIO = """
@pytest.fixture
def anyio_backend():
    return "trio"
"""


@pytest.mark.parametrize(
    ("options", "trio_mode"),
    [((), False), (("-p", "no:trio"), False), ((), True), (("-n2",), False)],
    ids=["pytest-trio idle", "without pytest-trio", "trio_mode", "xdist"],
)
def test_the_bus_works_with_the_plugin_of_anyio(
    pytester: pytest.Pytester, options: tuple[str, ...], trio_mode: bool
) -> None:
    body = ON_TRIO + ON_ANYIO
    if "no:trio" in options:
        pytester.makeini("[pytest]")
        pytester.makepyfile(test_application=EVENTS + body)
        result = pytester.runpytest_subprocess("-rs", *options, timeout=SUBPROCESS_SECONDS)
    else:
        result = run(pytester, body, "-rs", *options, trio_mode=trio_mode)
    outcomes = result.parseoutcomes()
    # The fixtures of anyio end after the test, those of pytest-trio before its end.
    wrong = {"failed": 1, "passed": 5} if trio_mode else {"errors": 1, "passed": 6}
    assert outcomes == {"skipped": 1, **wrong}
    result.stdout.fnmatch_lines(["*ValueError: broken later*", "*no printer*"])


def test_the_bus_says_that_it_needs_trio_to_tests_on_asyncio(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.anyio
async def test_on_each_backend(bus):
    await bus.dispatch(Job())

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": False})])
async def test_with_options(bus):
    pass
""",
        "-p",
        "no:trio",
        trio_mode=False,
    )
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(
        ["*test_on_each_backend?asyncio? runs on asyncio, and goevent runs on Trio: define*"]
    )


# -- the recorder


def test_the_recorder_refuses_a_listener_that_never_was(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
from functools import partial

async def test_names(bus, recorder):
    with pytest.raises(ValueError, match="named 'invoice'; its listeners: none"):
        recorder.ran("invoice")
    bus.subscribe(fail_later, Job, name="invoice")
    registration = bus.subscribe(fail, Job)
    bus.subscribe(partial(max, 1), "plugin.other")
    assert recorder.ran("invoice") == recorder.ran(fail) == []
    registration.unregister()
    assert recorder.ran("fail") == recorder.ran(partial(max, 2)) == []
    with pytest.raises(ValueError, match="named 'invoise'; did you mean 'invoice'?"):
        recorder.ran("invoise")
    with pytest.raises(ValueError, match="named 'fail_later'; its listeners: .*'invoice'"):
        recorder.ran(fail_later)
    bus.clear_errors()
""",
    )
    result.assert_outcomes(passed=1)


def test_the_recorder_keeps_arrivals_apart_from_dispatched_events(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
from goevent import MemoryDriver, MemoryHub

@pytest.fixture
def hub():
    return MemoryHub()

@pytest.fixture
def bus_config(hub):
    return Config(driver=MemoryDriver(hub))

async def test_two_buses(bus, recorder, hub):
    async with GoEvent(Config(driver=MemoryDriver(hub))) as other:
        theirs = record(other)
        ran = []
        for each in (bus, other):
            each.subscribe(ran.append, Job, Done)
        await other.ready()
        await bus.dispatch(Job(1))
        await wait_idle(bus)
        await other.dispatch(Done(2))
        while len(ran) < 4:
            await trio.lowlevel.checkpoint()
        assert recorder.dispatched == theirs.arrived == [Job(1)]
        assert recorder.arrived == theirs.dispatched == [Done(2)]
        assert recorder.events(Done) == []
        assert len(recorder.ran(ran.append)) == 2
        recorder.clear()
        assert recorder.arrived == []
""",
    )
    result.assert_outcomes(passed=1)
