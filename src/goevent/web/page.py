"""The page: an ASGI application that shows one bus.

Programs mount a `Page` in their own application, or `serve_http` serves it. This module owns the
routes. The guard decides who is answered, the sampler makes the live frames, and `dead_letters`
asks the broker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._errors import DriverError, EventError, require_trio
from .._extras import missing_extra
from ..telemetry.health import Health, HealthReport
from .dead_letters import HttpRefusal, PageDeadLetters, read_body
from .guard import SECURITY_HEADERS, Guard
from .sampler import Sampler, encoded, newest_errors
from .stream import FrameStream, OpenStreams

if TYPE_CHECKING:
    from .._bus import GoEvent

LISTED_ERRORS = 100
BROKER_SECONDS = 10.0
"""The time that the broker has to answer a question of the page."""
MAX_DETAILS_CHARS = 50_000
MAX_NUMBER_DIGITS = 18
# Answered without the token: the page that asks for it, and the probes, which name no reasons.
OPEN_PATHS = frozenset({"/login", "/page.css", "/logo.svg", "/health/live", "/health/ready"})
NAMES = {
    "Confluent": "Kafka",
    "MQTT": "MQTT",
    "Nats": "NATS",
    "Rabbit": "RabbitMQ",
    "RedisStreams": "Redis Streams",
}
# Answered for any host: a probe names the address of its container.
PROBES = frozenset({"/health/live", "/health/ready"})


class Page:
    """The live page of a bus, an ASGI application.

    It answers in the Trio loop and in the thread in which the bus is open; serve it there, or mount
    it in an application that runs there. It reads snapshots, and changes nothing without `actions`.
    Each request that names a host other than `localhost`, an IP address or one of `hosts` is
    refused, and so is a POST of another site.

    Args:
        bus: The bus.
        token: A secret of at least 16 characters that each request has to show: in the header
            `Authorization: Bearer`, or by the cookie that the login gives. The probes need none.
            None lets everybody in who can reach the page.
        actions: Dead letters may be replayed and discarded.
        show_payloads: Data of events are shown: the bytes of dead letters, those that a
            `DecodeError` quotes, and values that pydantic and msgspec quote. Other texts and
            tracebacks of exceptions are always shown.
        hosts: Further names of hosts under which the page is reached, without ports.
        health: Answers the probes; None for one with the default limits.

    Raises:
        ValueError: The token is too short, or a host is not a name.

    Example:
        ::

            app = Starlette(routes=[Mount("/bus", Page(bus, token=TOKEN))])
    """

    def __init__(
        self,
        bus: GoEvent,
        *,
        token: str | None = None,
        actions: bool = False,
        show_payloads: bool = False,
        hosts: Sequence[str] = (),
        health: Health | None = None,
    ) -> None:
        self._bus = bus
        self._guard = Guard(token, hosts)
        self._actions = actions
        self._letters = PageDeadLetters(bus, shows_payloads=show_payloads)
        self._sampler = Sampler(
            bus,
            shows_payloads=show_payloads,
            about={"driver": about_driver(bus), "actions": actions, "keep": self._letters.are_kept},
        )
        self._streams = OpenStreams()
        self._health = Health(bus) if health is None else health
        self._app = self._routes()

    @property
    def needs_token(self) -> bool:
        """True if requests have to show a token."""
        return self._guard.needs_token

    def __repr__(self) -> str:
        return f"<Page of {self._bus!r}>"

    async def keep_history(self) -> None:
        """Take a sample each second until cancelled; `serve_http` runs it.

        A page without it shows the time since a browser opened it.
        """
        await self._sampler.keep_history()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as an ASGI application.

        Raises:
            RuntimeError: This is not a Trio loop, or not the thread of the bus.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        require_trio()
        if scope["type"] != "http":
            # Servers turn this into a refusal of the WebSocket.
            await send({"type": "websocket.close", "code": 1008})
            return
        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)
        if refusal is not None:
            await with_headers(refusal)(scope, receive, send)
            return
        await with_headers(self._app)(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        """Return the answer to a request that must not be answered; None for any other."""
        path, method = path_of(connection.scope), connection.scope["method"]
        if not self._guard.allows_host(connection) and path not in PROBES:
            return failed(421, "this page is not reached by that host; see `hosts` of the page")
        if method not in ("GET", "HEAD") and not self._guard.is_same_origin(connection):
            return failed(403, "this request comes from another site")
        if path in OPEN_PATHS or self._guard.is_authorised(connection):
            return None
        if path == "/" and method in ("GET", "HEAD"):
            return self._login(connection)
        refusal = failed(401, "this page needs its token: Authorization: Bearer TOKEN")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _login(self, connection: HTTPConnection, *, failed_before: bool = False) -> Response:
        shown = connection.query_params.get("token")
        if shown is not None and self._guard.is_token(shown):
            return self._logged_in(connection)
        name = "login-failed.html" if failed_before or shown is not None else "login.html"
        return Response(asset(name), 401, media_type="text/html")

    def _logged_in(self, connection: HTTPConnection) -> Response:
        # Redirected, so that the token stays neither in the address bar nor in the history.
        home = connection.scope.get("root_path", "").rstrip("/") + "/"
        response = RedirectResponse(home, 303)
        self._guard.log_in(response, path=home, secure=connection.url.scheme == "https")
        return response

    def _routes(self) -> ASGIApp:
        get = ("GET",)
        return Starlette(
            routes=[
                Route("/", self._index, methods=get),
                Route("/login", self._post_login, methods=("POST",)),
                Route("/page.css", serves("page.css", "text/css"), methods=get),
                Route("/page.js", serves("page.js", "text/javascript"), methods=get),
                Route("/logo.svg", serves("logo.svg", "image/svg+xml"), methods=get),
                Route("/events", self._events, methods=get),
                Route("/metrics", self._metrics, methods=get),
                Route("/health/live", self._live, methods=get),
                Route("/health/ready", self._ready, methods=get),
                Route("/asyncapi", self._asyncapi, methods=get),
                Route("/asyncapi.json", self._asyncapi_json, methods=get),
                Route("/asyncapi.yaml", self._asyncapi_yaml, methods=get),
                Route("/api/snapshot", self._snapshot, methods=get),
                Route("/api/errors", self._list_errors, methods=get),
                Route("/api/errors/{number}", self._show_error, methods=get),
                Route("/api/dead-letters", self._list_letters, methods=get),
                Route("/api/dead-letters/{action}", self._settle_letters, methods=("POST",)),
            ],
            exception_handlers={
                404: not_found,
                405: not_allowed,
                HttpRefusal: refused,
                DriverError: broker_failed,
                trio.TooSlowError: broker_slow,
            },
        )

    # -- the page

    async def _index(self, request: Request) -> Response:
        if "token" in request.query_params:
            # A link with the token, and the browser has the cookie already.
            return self._logged_in(request)
        return Response(asset("index.html"), media_type="text/html")

    async def _post_login(self, request: Request) -> Response:
        form = await read_body(request, "application/x-www-form-urlencoded")
        shown = form_value(form, "token")
        if self._guard.is_token(shown) or not self._guard.needs_token:
            return self._logged_in(request)
        return self._login(request, failed_before=True)

    async def _events(self, request: Request) -> Any:
        if self._streams.are_full:
            return failed(503, "too many browsers listen to this page")
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return FrameStream(self._sampler, self._streams)

    # -- facts

    async def _snapshot(self, request: Request) -> Response:
        return as_json(self._bus.snapshot())

    async def _list_errors(self, request: Request) -> Response:
        count = self._bus.snapshot().error_count
        errors = newest_errors(self._bus, LISTED_ERRORS)
        first = count - len(errors) + 1
        listed = [self._error(number, each) for number, each in enumerate(errors, first)]
        return as_json({"count": count, "errors": listed[::-1]})

    async def _show_error(self, request: Request) -> Response:
        digits: str = request.path_params["number"]
        # Python refuses to read numbers of thousands of digits.
        if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_NUMBER_DIGITS):
            return failed(404, "the page has no such address")
        number = int(digits)
        count = self._bus.snapshot().error_count
        errors = newest_errors(self._bus, LISTED_ERRORS)
        place = number - (count - len(errors)) - 1
        if not 0 <= place < len(errors):
            return failed(404, "this failure is not among the newest ones any more")
        error = errors[place]
        details = self._sampler.text_of(error.details)[-MAX_DETAILS_CHARS:]
        return as_json({**self._error(number, error), "details": details})

    def _error(self, number: int, error: EventError) -> dict[str, Any]:
        return {
            "number": number,
            "event_name": error.event_name,
            "listener": error.listener,
            "outcome": error.outcome,
            "attempts": error.attempts,
            "reason": self._sampler.text_of(error.reason),
        }

    # -- dead letters

    async def _list_letters(self, request: Request) -> Response:
        with trio.fail_after(BROKER_SECONDS):
            return as_json(await self._letters.listed(request.query_params.get("after", "")))

    async def _settle_letters(self, request: Request) -> Response:
        if not self._actions:
            return failed(403, "this page only shows; make it with actions=True")
        action = request.path_params["action"]
        body = await read_body(request, "application/json")
        with trio.fail_after(BROKER_SECONDS):
            return as_json(await self._letters.settle(action, body))

    # -- telemetry

    async def _metrics(self, request: Request) -> Response:
        telemetry = optional("goevent.telemetry.prometheus", "prometheus")
        body = await telemetry.metrics_page(self._bus)
        # As a header, because Starlette would add a charset to the type.
        return Response(body, headers={"Content-Type": telemetry.CONTENT_TYPE})

    async def _live(self, request: Request) -> Response:
        return self._probe(request, self._health.live())

    async def _ready(self, request: Request) -> Response:
        return self._probe(request, self._health.ready())

    def _probe(self, request: Request, report: HealthReport) -> Response:
        told: dict[str, Any] = {"healthy": report.healthy}
        # Reasons name listeners and brokers, which are for those who may see the page.
        if self._guard.is_authorised(request) and self._guard.allows_host(request):
            told["reasons"] = report.reasons
        return as_json(told, 200 if report.healthy else 503)

    async def _asyncapi(self, request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("./#asyncapi", 303)
        return await self._asyncapi_json(request)

    async def _asyncapi_json(self, request: Request) -> Response:
        asyncapi = optional("goevent.asyncapi", "asyncapi")
        return Response(
            asyncapi.as_json(asyncapi.document(self._bus)), media_type="application/json"
        )

    async def _asyncapi_yaml(self, request: Request) -> Response:
        asyncapi = optional("goevent.asyncapi", "asyncapi")
        return Response(
            asyncapi.as_yaml(asyncapi.document(self._bus)), media_type="application/yaml"
        )


def about_driver(bus: GoEvent) -> dict[str, Any]:
    """Return the facts of a driver that do not change."""
    promises = bus.driver.capabilities
    return {
        "name": driver_name(bus),
        "alone": promises.alone,
        "durable": promises.durable,
        "fanOut": promises.fan_out,
    }


def driver_name(bus: GoEvent) -> str:
    """Return the name of the broker as people know it, by the classes of the driver."""
    # A driver on FastStream serves any of its brokers.
    hosted = getattr(bus.driver, "broker", None)
    name = type(bus.driver).__name__.removesuffix("Driver")
    if hosted is not None:
        name = type(hosted).__name__.removesuffix("Broker")
    return NAMES.get(name, name)


def path_of(scope: Scope) -> str:
    """Return the path of a request below the place where the page is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def optional(name: str, extra: str) -> Any:
    """Import a module that needs an extra.

    Raises:
        HttpRefusal: The extra is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise HttpRefusal(501, str(missing_extra(error, extra, name))) from error


@cache
def asset(name: str) -> bytes:
    """Return a file of the page."""
    if name == "login-failed.html":
        return asset("login.html").replace(b"<p hidden", b"<p")
    return files("goevent.web").joinpath("static", name).read_bytes()


def serves(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with a file of the page."""

    async def endpoint(request: Request) -> Response:
        return Response(asset(name), media_type=media_type)

    return endpoint


def with_headers(app: ASGIApp) -> ASGIApp:
    """Return an application whose answers have the security headers."""
    added = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                missing = [header for header in added if header[0] not in names]
                message = {**message, "headers": [*message["headers"], *missing]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return answer


def as_json(value: object, status: int = 200) -> Response:
    """Return a response with JSON."""
    return Response(encoded(value), status, media_type="application/json")


def failed(status: int, reason: str) -> Response:
    """Return a response that gives the reason of a refusal."""
    return as_json({"error": reason}, status)


def form_value(form: bytes, name: str) -> str:
    """Return a value of a form; empty if the form does not have it."""
    from urllib.parse import parse_qs

    return parse_qs(form.decode("utf-8", "replace")).get(name, [""])[0]


async def not_found(request: Request, error: Exception) -> Response:
    """Answer for a path that the page does not have."""
    return failed(404, "the page has no such address")


async def not_allowed(request: Request, error: Exception) -> Response:
    """Answer for a method that an address does not have."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for its status
    answer = failed(405, "the method is not allowed here")
    answer.headers.update(error.headers or {})  # `Allow`
    return answer


async def refused(request: Request, error: Exception) -> Response:
    """Answer for a request that is wrong."""
    assert isinstance(error, HttpRefusal)  # noqa: S101 - registered for this class
    return failed(error.status, error.reason)


async def broker_failed(request: Request, error: Exception) -> Response:
    """Answer for a question that the broker could not be asked."""
    return failed(503, str(error))


async def broker_slow(request: Request, error: Exception) -> Response:
    """Answer for a question that the broker did not answer in time."""
    return failed(504, f"the broker has not answered within {BROKER_SECONDS:g} s")
