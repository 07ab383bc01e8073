"""The pytest plugin: the fixtures `bus`, `bus_config` and `recorder`.

pytest loads it by an entry point. The `bus` fixture is for async tests that pytest-trio or the
plugin of anyio runs on Trio. Another test that asks for it fails with a sentence that says why. The
fixture fails the test if a listener failed and the test did not look at the error.

The fixture is an ordinary async generator. Plugins take it for theirs by different rules, so
`pytest_fixture_setup` sees to it that the plugin that runs the test runs its fixtures.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from textwrap import indent
from typing import TYPE_CHECKING, Any, cast

import pytest

from .. import Config, EventError, GoEvent
from ._conformance.expect import NotApplicable
from ._recorder import Recorder, record

if TYPE_CHECKING:
    from collections.abc import Generator

UNHANDLED_ERRORS = "errors on the bus that the test did not look at"
UNHANDLED = pytest.StashKey[list[EventError]]()
"""The errors of the `bus` fixture that the test did not look at."""

LOST_REASONS = (pytest.skip.Exception, pytest.xfail.Exception)
"""The exceptions that pytest-trio raises anew, without their reason."""


@pytest.fixture
def _runs_on_trio(  # pyright: ignore[reportUnusedFunction] - pytest finds it by its name
    request: pytest.FixtureRequest,
) -> None:
    """Fail if the test does not run on Trio: then there is no place to open a bus."""
    if reason := reason_against_bus(request):
        pytest.fail(reason, pytrace=False)


def reason_against_bus(request: pytest.FixtureRequest) -> str | None:
    """Return the reason why the test of a request cannot have a bus; None if it can."""
    config, name = request.config, request.node.name
    has_trio, has_anyio = (config.pluginmanager.hasplugin(each) for each in ("trio", "anyio"))
    if not (has_trio or has_anyio):
        return (
            "the `bus` fixture of goevent needs pytest-trio: pip install pytest-trio (the plugin "
            "of anyio with the backend 'trio' will do, too)"
        )
    function: Any = getattr(request.node, "obj", None)
    if hypothesis := getattr(function, "hypothesis", None):
        function = hypothesis.inner_test
    if not inspect.iscoroutinefunction(function):
        return (
            f"{name} is not an `async def`, and only an async test can use the `bus` fixture of "
            "goevent: write `async def`, or open a bus of your own (`async with GoEvent() as bus`)"
        )
    if has_trio and request.node.get_closest_marker("trio") is not None:
        return None
    if has_anyio and "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        backend = backend if isinstance(backend, str) else backend[0]
        if backend == "trio":
            return None
        return (
            f"{name} runs on {backend}, and goevent runs on Trio: define a fixture `anyio_backend` "
            "that returns 'trio'"
        )
    if has_trio:
        advice = "set `trio_mode = true` in the settings of pytest, or mark it with"
        return f"{name} does not run on Trio: {advice} `@pytest.mark.trio`"
    return (
        f"{name} does not run on Trio: mark it with `@pytest.mark.anyio` and define a fixture "
        "`anyio_backend` that returns 'trio', or install pytest-trio"
    )


@pytest.fixture
def bus_config() -> Config:
    """The configuration of the `bus` fixture. Define a fixture of this name to change it.

    Example:
        >>> @pytest.fixture
        ... def bus_config() -> Config:
        ...     return Config(close_timeout=1.0)
    """
    return Config()


@pytest.fixture
async def bus(
    request: pytest.FixtureRequest, _runs_on_trio: None, bus_config: Config
) -> AsyncGenerator[GoEvent]:
    """An open bus. At the end of the test it drains and closes.

    Example:
        >>> async def test_a_paid_order_gets_an_invoice(bus: GoEvent) -> None:
        ...     bus.subscribe(print, "order.paid")
        ...     handle = await bus.dispatch(Event("order.paid"))
        ...     await handle.wait()

    Raises:
        ExceptionGroup: A listener failed, and the test looked neither at the errors of the handle
            nor at `bus.errors`, and registered no `on_error` callback. If the test fails on its
            own, these errors are a note below its failure.
    """
    bus = GoEvent(bus_config)
    # The hooks below raise the errors: only they know whether the test has failed.
    unhandled: list[EventError] = []
    bus._collect_unhandled(unhandled)  # pyright: ignore[reportPrivateUsage]
    try:
        async with bus:
            yield bus
    finally:
        # The hooks below raise the errors: only they know whether the test has failed.
        cast("pytest.Item", request.node).stash[UNHANDLED] = unhandled


@pytest.fixture
def recorder(bus: GoEvent) -> Recorder:
    """A recorder of the `bus` fixture, from the start of the test.

    Example:
        >>> async def test_an_order_is_paid(bus: GoEvent, recorder: Recorder) -> None:
        ...     await bus.dispatch(Event("order.paid"))
        ...     assert len(recorder.dispatched) == 1
    """
    return record(bus)


# -- hooks


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Let pytest-trio run the async fixtures of a test that it runs and that uses the bus.

    It leaves them to anyio if that would run the test, too, or if they have no mark of its own.
    """
    function = fixturedef.func
    if (
        not (inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function))
        or "bus" not in request.fixturenames
        or request.scope != "function"
        or request.node.get_closest_marker("trio") is None
    ):
        return (yield)

    def marked_function(**fixtures: object) -> object:
        return function(**fixtures)

    # The mark that `pytest_trio.trio_fixture` makes. To anyio, the function is not async.
    marked_function._force_trio_fixture = True  # type: ignore[attr-defined]
    fixturedef.func = marked_function  # type: ignore[misc]  # final for users only
    try:
        return (yield)
    finally:
        fixturedef.func = function  # type: ignore[misc]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Raise the outcome of a test without the groups around it, and with the errors on its bus."""
    __tracebackhide__ = True
    return (yield from with_plain_outcome(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Raise the errors on the bus of a test that anyio runs: its fixtures end after the call."""
    __tracebackhide__ = True
    return (yield from with_plain_outcome(item))


def with_plain_outcome(item: pytest.Item) -> Generator[None, object, object]:
    """Be the body of a hook around a phase of a test."""
    __tracebackhide__ = True
    result, failure = None, None
    try:
        result = yield
    except BaseException as error:  # noqa: BLE001 - raised below, or its only leaf
        failure = plain_outcome(error, unwrap_all="bus" in getattr(item, "fixturenames", ()))
    unhandled = item.stash.get(UNHANDLED, list[EventError]())
    item.stash[UNHANDLED] = []
    if unhandled and (failure is None or isinstance(failure, pytest.skip.Exception)):
        raise ExceptionGroup(UNHANDLED_ERRORS, unhandled)
    if failure is None:
        return result
    if unhandled:
        details = [f"{error}\n{indent(error.details, '  ')}" for error in unhandled]
        failure.add_note("\n".join([f"{UNHANDLED_ERRORS}:", *details]))
    raise failure


def plain_outcome(error: BaseException, *, unwrap_all: bool) -> BaseException:
    """Return the exception by which a test ended, without the groups of nurseries around it.

    A skip leaves a nursery in an exception group, which pytest does not know as a skip. pytest-trio
    makes a new skip of it, which has lost the reason.

    Args:
        error: The exception.
        unwrap_all: True to unwrap each single exception, and not only one that skips the test.
    """
    leaf = only_leaf(error)
    if isinstance(leaf, LOST_REASONS) and not leaf.msg and leaf.__context__ is not None:
        original = only_leaf(leaf.__context__)
        leaf = original if isinstance(original, LOST_REASONS) else leaf
    if isinstance(leaf, NotApplicable):
        return pytest.skip.Exception(str(leaf))
    return leaf if unwrap_all or isinstance(leaf, LOST_REASONS) else error


def only_leaf(error: BaseException) -> BaseException:
    """Return the only exception in nested exception groups, or the error itself."""
    leaf = error
    while isinstance(leaf, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", leaf)
        if len(group.exceptions) != 1:
            return error
        leaf = group.exceptions[0]
    return leaf


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of pytest-trio where pytest-trio is not installed."""
    if not config.pluginmanager.hasplugin("trio"):
        config.addinivalue_line("markers", "trio: an async test, which needs pytest-trio to run")
