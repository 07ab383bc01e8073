"""RESP3: the reader agrees with the one in Python however the bytes are split, within bounds."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st
from redis import exceptions as redis_errors
from tests.support.redis_resp import PythonReader, pack_python

from goevent_redis._link.replies import error_reply, is_list, is_map, whole_text
from goevent_redis._link.resp import Encodable, ReplyReader, pack

Reader = ReplyReader | PythonReader
LIMIT = 1 << 20  # bytes
READERS = pytest.mark.parametrize("make", [ReplyReader, PythonReader])


def plain(reader: Reader, frame: object) -> Any:
    """Return a frame in a form in which the frames of both readers are comparable."""
    if isinstance(frame, Exception):
        return (type(frame), str(frame))
    if isinstance(frame, float):
        return repr(frame)
    if is_list(frame):
        kind = "push" if type(frame) is reader.push_type else "list"
        return [kind, *(plain(reader, item) for item in frame)]
    if is_map(frame):
        pairs = frame.items()
        return ["map", *((plain(reader, key), plain(reader, value)) for key, value in pairs)]
    return (type(frame), frame)


def read_all(make: type[Any], data: bytes, cuts: list[int]) -> tuple[list[Any], bool]:
    reader: Reader = make(LIMIT)
    frames: list[Any] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        frames += reader.read(data[start:end])
    return [plain(reader, frame) for frame in frames], reader.failure is not None


LINES = st.binary(max_size=12).filter(lambda line: b"\r" not in line and b"\n" not in line)
BULKS = st.binary(max_size=40) | st.sampled_from(
    [b"", b"\r\n", b"\n*99999\r\n", b"\n|1\r\n", b"\n>12345", b"\n*1", b"x\n%1000\r\n:1\r\n"]
)
NUMBERS = st.sampled_from(
    ["inf", "-inf", "nan", "-nan", "INF", "0", "-0", "1e5", ".5", "5.", "-1.5"]
)


def bulk(kind: bytes, data: bytes) -> bytes:
    return b"%b%d\r\n%b\r\n" % (kind, len(data), data)


HASHABLE = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(lambda n: b":%d\r\n" % n),
    LINES.map(lambda line: b"+" + line + b"\r\n"),
    BULKS.map(lambda data: bulk(b"$", data)),
    BULKS.map(lambda data: bulk(b"=", b"txt:" + data)),
    st.sampled_from(
        [b"_\r\n", b"#t\r\n", b"#f\r\n", b"$-1\r\n", b"*-1\r\n", b"%-1\r\n", b">-1\r\n"]
    ),
    st.integers().map(lambda n: b"(%d\r\n" % n),
)
LEAVES = st.one_of(
    HASHABLE,
    LINES.map(lambda line: b"-" + line + b"\r\n"),
    st.sampled_from([b"-ERR no\r\n", b"-MOVED 1 a:2\r\n", b"-MOVED x\r\n", b"-NOPERM no\r\n"]),
    (NUMBERS | st.floats().map(repr)).map(lambda text: b"," + text.encode() + b"\r\n"),
)


def lists(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    several = st.tuples(st.sampled_from([b"*", b"~", b">"]), st.lists(inner, max_size=5))
    return several.map(lambda given: b"%b%d\r\n" % (given[0], len(given[1])) + b"".join(given[1]))


def aggregates(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    # hiredis misreads a map with the same key twice, which Redis never sends.
    keys = st.integers(0, 10).map(lambda n: b"+key%d\r\n" % n)
    maps = st.dictionaries(keys, inner, max_size=4).map(lambda given: given.items())
    return lists(inner) | maps.map(
        lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(key + value for key, value in pairs)
    )


FRAMES = st.recursive(LEAVES, aggregates, max_leaves=20)
FRAMES_WITHOUT_MAPS = st.recursive(LEAVES, lists, max_leaves=20)
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAMES, max_size=6), CUTS)
@example([b"*3\r\n:1\r\n%1\r\n+a\r\n:2\r\n>1\r\n_\r\n"], [3, 5, 6])
def test_readers_agree_on_frames_split_anywhere(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    by_hiredis, failed = read_all(ReplyReader, data, cuts)
    assert read_all(PythonReader, data, cuts) == (by_hiredis, failed)
    if not failed:  # floats that are too small or too large for C are refused
        assert len(by_hiredis) == len(frames)
        assert read_all(ReplyReader, data, []) == (by_hiredis, failed)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(FRAMES_WITHOUT_MAPS, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=3),
    CUTS,
)
def test_readers_agree_on_damaged_frames(
    frames: list[bytes], damage: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = bytearray(b"".join(frames))
    for at, content in damage:
        at %= len(data) + 1
        data[at : at + len(content)] = content
    by_hiredis, failed = read_all(ReplyReader, bytes(data), cuts)
    in_python, also_failed = read_all(PythonReader, bytes(data), cuts)
    # One reader may reach the damage before the other, but they never read different frames.
    common = min(len(by_hiredis), len(in_python))
    assert by_hiredis[:common] == in_python[:common]
    if not failed and not also_failed:
        assert by_hiredis == in_python


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), CUTS)
def test_readers_never_raise(data: bytes, cuts: list[int]) -> None:
    for make in (ReplyReader, PythonReader):
        read_all(make, data, cuts)


@READERS
def test_push_frames_are_told_from_replies(make: type[Any]) -> None:
    reader: Reader = make(LIMIT)
    push, reply = reader.read(b">2\r\n+a\r\n:1\r\n*2\r\n+a\r\n:1\r\n")
    assert push == reply == [b"a", 1]
    assert type(push) is reader.push_type
    assert type(reply) is list


@READERS
def test_frames_before_the_damage_are_read(make: type[Any]) -> None:
    reader: Reader = make(LIMIT)
    assert reader.read(b":1\r\n:2\r\n?\r\n:3\r\n") == [1, 2]
    assert reader.failure is not None
    assert reader.read(b":4\r\n") == []


@READERS
@pytest.mark.parametrize(
    "data",
    [
        b"*4294967295\r\n",
        b":1\r\n*400000\r\n",
        b"%4294967295\r\n",
        b">2\r\n+a\r\n*999999999\r\n",
        b"*200000\r\n" * 20,
        b"*9999\r\n" * 2000,
        b"*1\r\n" * 5000,
        b"%1\r\n:1\r\n" * 5000,
        b"|1\r\n:1\r\n:1\r\n:1\r\n",
        b"*99999999999999999999999999\r\n",
        b"*-2\r\n",
        b"$-2\r\n",
        b"%1\r\n*1\r\n:1\r\n:1\r\n",
        b"!5\r\nERR x\r\n",
    ],
    ids=lambda data: repr(data[:20]),
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_hostile_headers_use_no_memory(make: type[Any], data: bytes, size: int) -> None:
    reader: Reader = make(LIMIT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, len(data), size):
        reader.read(data[start : start + size])
    assert reader.failure is not None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


@READERS
@pytest.mark.parametrize("start", [b"$99999999\r\n", b"*90000\r\n", b"+", b"*2\r\n$9999999\r\n"])
def test_reply_without_end_is_cut_off(make: type[Any], start: bytes) -> None:
    reader: Reader = make(LIMIT)
    filling = b"$100\r\n" + b"x" * 100 + b"\r\n" if start.startswith(b"*9") else b"x" * 1000
    reader.read(start)
    for _ in range(20_000):
        reader.read(filling)
        if reader.failure is not None:
            break
    assert reader.failure is not None


@READERS
def test_large_replies_within_the_limit_are_read(make: type[Any]) -> None:
    reader: Reader = make(LIMIT)
    data = b"*20000\r\n" + b":1\r\n" * 20000 + b"$900000\r\n" + b"\n*99999\r\n" * 100000 + b"\r\n"
    frames: list[Any] = []
    for start in range(0, len(data), 65536):
        frames += reader.read(data[start : start + 65536])
    assert reader.failure is None
    assert [len(frame) for frame in frames] == [20000, 900000]


@READERS
def test_many_frames_in_a_row_do_not_add_up(make: type[Any]) -> None:
    reader: Reader = make(LIMIT)
    data = (b"*2000\r\n" + b":1\r\n" * 2000) * 3
    for _ in range(100):
        assert len(reader.read(data)) == 3
    assert reader.failure is None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8"))
        | st.binary()
        | st.integers()
        | st.floats()
        | st.binary().map(lambda data: memoryview(data))
    )
)
@example([math.inf, 1.0, "ä", b""])
def test_packers_agree(args: list[Encodable]) -> None:
    assert pack_python(tuple(args)) == pack(tuple(args))


@pytest.mark.parametrize("arg", [None, True, object(), ["a"], bytearray(b"a")])
def test_packers_refuse_arguments_of_other_types(arg: Any) -> None:
    for packer in (pack_python, pack):
        with pytest.raises(TypeError):
            packer(("SET", arg))
        with pytest.raises(ValueError, match="surrogate"):
            packer(("SET", "\ud800"))


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("ERR no such key", redis_errors.ResponseError, "no such key"),
        ("WRONGTYPE bad", redis_errors.ResponseError, "WRONGTYPE bad"),
        ("NOPERM no", redis_errors.NoPermissionError, "no"),
        ("NOSCRIPT none", redis_errors.NoScriptError, "none"),
        ("LOADING wait", redis_errors.BusyLoadingError, "wait"),
        ("MOVED 5 host:1", redis_errors.MovedError, "5 host:1"),
        ("MOVED nonsense", redis_errors.ResponseError, "MOVED nonsense"),
        ("", redis_errors.ResponseError, ""),
    ],
)
def test_error_replies_are_the_exceptions_of_the_redis_package(
    text: str, kind: type[Exception], message: str
) -> None:
    error = error_reply(text)
    assert type(error) is kind
    assert str(error) == message


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("sys.modules['redis'] = None", "redis"),
        ("sys.modules['hiredis'] = None", "hiredis 3.5 or newer"),
        ("import hiredis; hiredis.__version__ = '3.4.9'", "hiredis 3.5 or newer"),
    ],
    ids=["no redis", "no hiredis", "hiredis too old"],
)
def test_an_import_without_a_needed_package_tells_what_to_install(code: str, needed: str) -> None:
    script = f"import sys; {code}; import goevent_redis"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode != 0
    *_, last_line = result.stderr.splitlines()
    assert last_line.startswith(f"ImportError: goevent_redis needs {needed}: ")
    assert 'pip install "goevent[redis]"' in last_line


@pytest.mark.parametrize(
    "text",
    [
        "MOVED 5 host:1",
        "ASK 5 host:1",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "CLUSTERDOWN Hash slot not served",
        "OOM command not allowed",
        "WRONGTYPE Operation against a key",
    ],
)
def test_whole_text_of_an_error_reply_has_its_code(text: str) -> None:
    assert whole_text(error_reply(text)) == text
