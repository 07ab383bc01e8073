"""The public names: a change of them must be a decision, not an accident."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_args, get_type_hints

import pytest
from tests.support.checks import unavailable
from tests.support.limits import SUBPROCESS_SECONDS

import goevent
import goevent.drivers
import goevent.middleware
import goevent.testing
import goevent_faststream
import goevent_redis

PUBLIC = [
    "AnyEvent",
    "AroundCall",
    "AroundDelivery",
    "AroundDispatch",
    "AroundPublish",
    "AroundSettle",
    "Backlog",
    "BatchHandle",
    "BatchInterrupted",
    "BindsDriver",
    "BusClosed",
    "BusForked",
    "Capabilities",
    "Codec",
    "Config",
    "DeadLettered",
    "DeadlockError",
    "DecodeError",
    "Delivery",
    "DispatchHandle",
    "Driver",
    "DriverConnectionError",
    "DriverError",
    "DriverInUse",
    "DriverSnapshot",
    "EncodeError",
    "Envelope",
    "Event",
    "EventAbandoned",
    "EventDropped",
    "EventError",
    "EventRegistry",
    "EventSnapshot",
    "EventStream",
    "EventTrace",
    "EventVetoed",
    "GapDetected",
    "GoEvent",
    "GoEventError",
    "Inbox",
    "JsonCodec",
    "Ledger",
    "Listener",
    "ListenerOptions",
    "ListenerSnapshot",
    "ListenerTimeout",
    "MailboxFull",
    "MemoryDriver",
    "MemoryHub",
    "Message",
    "Middleware",
    "MsgpackCodec",
    "NestingError",
    "NoResponder",
    "Receipt",
    "RegisteredListener",
    "Registration",
    "RemoteError",
    "RemoteOutcome",
    "RemoteReport",
    "RequestCounts",
    "RequestError",
    "RequestLost",
    "RequestRefused",
    "RequestTimeout",
    "Retry",
    "SettledEvent",
    "Settlement",
    "Snapshot",
    "Supervision",
    "TracedListener",
    "UnknownDriverError",
    "UnknownEventError",
    "UnsupportedError",
    "Veto",
    "compile_pattern",
    "current_delivery",
    "default_registry",
    "register_event_type",
    "upcast",
]
PUBLIC_MIDDLEWARE = ["Deduplicate", "LogEvents", "RateLimit"]
PUBLIC_TESTING = ["DriverConformance", "Recorder", "Run", "record", "wait_idle"]
EVERYTHING = [
    *((goevent, name) for name in PUBLIC),
    *((goevent.middleware, name) for name in PUBLIC_MIDDLEWARE),
    *((goevent.testing, name) for name in PUBLIC_TESTING),
]


def public_names(module: ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    )


def test_the_names_of_goevent_are_these() -> None:
    assert public_names(goevent) == PUBLIC


def test_the_names_of_goevent_middleware_are_these() -> None:
    assert public_names(goevent.middleware) == PUBLIC_MIDDLEWARE


def test_the_names_of_goevent_testing_are_these() -> None:
    assert public_names(goevent.testing) == PUBLIC_TESTING


@pytest.mark.parametrize(("module", "name"), EVERYTHING, ids=lambda part: str(part))
def test_each_public_name_is_ours_and_goes_by_that_name(module: ModuleType, name: str) -> None:
    thing: Any = getattr(module, name)
    if name == "default_registry":
        assert type(thing) is goevent.EventRegistry
        return
    if name == "Middleware":
        parts = {
            *(goevent.AroundDispatch, goevent.AroundPublish, goevent.AroundDelivery),
            *(goevent.AroundCall, goevent.AroundSettle, goevent.BindsDriver),
        }
        assert set(get_args(thing)) == parts
        return
    if name == "AnyEvent":
        assert get_args(thing)[0] is goevent.Event
        return
    assert thing.__name__ == thing.__qualname__ == name
    assert thing.__module__ == module.__name__


ALL_PACKAGES = [
    goevent,
    goevent.drivers,
    goevent.middleware,
    goevent.testing,
    goevent_redis,
    goevent_faststream,
]


@pytest.mark.parametrize("package", ALL_PACKAGES, ids=lambda package: package.__name__)
def test_all_lists_the_public_names_of_a_package(package: ModuleType) -> None:
    assert sorted(package.__all__) == public_names(package)


@pytest.mark.parametrize("package", ALL_PACKAGES, ids=lambda package: package.__name__)
def test_each_public_class_can_be_pickled_and_names_a_package_that_has_it(
    package: ModuleType,
) -> None:
    for name in package.__all__:
        thing: Any = getattr(package, name)
        if isinstance(thing, type | FunctionType):
            home = sys.modules[thing.__module__]
            assert home in ALL_PACKAGES, thing
            assert getattr(home, name) is thing
            assert pickle.loads(pickle.dumps(thing)) is thing


HAVE_IMPORTS_FOR_TYPES = {goevent.testing.DriverConformance, goevent_redis.RedisClient}


@pytest.mark.parametrize("package", ALL_PACKAGES, ids=lambda package: package.__name__)
def test_the_types_of_public_classes_can_be_read_where_they_are_public(package: ModuleType) -> None:
    for name in package.__all__:
        thing: Any = getattr(package, name)
        if isinstance(thing, type) and thing not in HAVE_IMPORTS_FOR_TYPES:
            get_type_hints(thing)


# Only a driver, a program that makes a mistake, a pickle or a thread needs them.
LATER = [
    "importlib.metadata",
    "email",
    "zipfile",
    "difflib",
    "pickle",
    "concurrent.futures",
    "asyncio",
    "json",
    "urllib.request",
    "goevent.drivers.dead_letters",
    "goevent.drivers.durable",
    "goevent.drivers.read_watchdog",
    "goevent.drivers.tls",
    "goevent.drivers.url",
    "goevent.middleware",
    "goevent.testing",
]


def test_importing_goevent_loads_no_module_that_only_some_programs_need() -> None:
    # A fresh interpreter, without the modules that its start or a dependency loads.
    code = (
        "import sys, trio, msgspec; before = {*sys.modules}\n"
        f"import goevent; print(*({{*sys.modules}} - before).intersection({LATER}))"
    )
    assert run_python(code).split() == []


def test_names_that_are_imported_later_are_listed_and_are_there() -> None:
    code = (
        "import goevent.drivers as drivers\n"
        "print('DurableConfig' in vars(drivers), {*drivers.__all__} <= {*dir(drivers)})\n"
        "from goevent.drivers import *\n"
        "print({*drivers.__all__} - {*globals()}, DurableConfig.__module__, read_tls.__module__)"
    )
    listed, found = run_python(code).splitlines()
    assert listed == "False True"
    assert found == "set() goevent.drivers goevent.drivers"


def test_a_pickle_can_be_the_first_to_need_a_name_that_is_imported_later() -> None:
    data = pickle.dumps(goevent.drivers.ACK)
    code = f"import pickle; print(pickle.loads({data!r}) == __import__('goevent').drivers.ACK)"
    assert run_python(code).split() == ["True"]


def test_an_unknown_name_for_drivers_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'goevent\.drivers' has no attribute 'nothing'"):
        _ = goevent.drivers.nothing  # type: ignore[attr-defined]


def run_python(code: str) -> str:
    """Return the output of a program in a fresh interpreter."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SUBPROCESS_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_version_is_that_of_the_distribution() -> None:
    assert goevent.__version__ == importlib.metadata.version("goevent")


def described(thing: object) -> bool:
    doc = inspect.getdoc(thing)
    return bool(doc)


@pytest.mark.parametrize(("module", "name"), EVERYTHING, ids=lambda part: str(part))
def test_each_public_name_and_method_has_a_docstring_that_begins_with_a_sentence(
    module: ModuleType, name: str
) -> None:
    thing = getattr(module, name)
    if name in ("Middleware", "AnyEvent"):
        return  # an alias; its parts are described
    assert described(thing), name
    docs = {name: inspect.getdoc(thing)}
    if isinstance(thing, type):
        for member, value in vars(thing).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(function, FunctionType) and not member.startswith("_"):
                docs[f"{name}.{member}"] = inspect.getdoc(getattr(thing, member))
    missing = [member for member, doc in docs.items() if not doc]
    # Attributes that the docstring of a class documents.
    documented = inspect.getdoc(thing) or ""
    missing = [member for member in missing if f"{member.partition('.')[2]}:" not in documented]
    assert missing == []


def test_the_type_information_ships_and_is_complete(tmp_path: Path) -> None:
    assert (Path(goevent.__file__).parent / "py.typed").exists()
    # In another folder, so that pyright finds no configuration. It asks the first Python on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "pyright", "--verifytypes", "goevent", "--ignoreexternal"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS,
        check=False,
    )
    if "Type completeness score" not in done.stdout:
        unavailable(f"pyright does not run here: {done.stdout}{done.stderr}")
    assert 'Package directory: ""' not in done.stdout, done.stdout
    assert "Type completeness score: 100%" in done.stdout, done.stdout
