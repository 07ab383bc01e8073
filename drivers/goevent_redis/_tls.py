"""TLS of both drivers: the options that goevent's URLs have, and the errors of a handshake.

The room `_link` knows no goevent. It takes an `SSLContext`, and the options of the redis package in
a URL. Here the options that every hosted broker has become such a context, and an error of the link
gets the text that every driver has for it.
"""

from __future__ import annotations

from urllib.parse import urlencode

from goevent import DriverConnectionError
from goevent.drivers import TLS_OPTIONS, DriverUrl, explain_tls, find_tls_failure, read_tls

from ._link.config import URL_OPTIONS, RedisConfig
from ._link.errors import RedisLinkError

REDIS_URL_OPTIONS = (*URL_OPTIONS, *TLS_OPTIONS)


def config_of_url(url: DriverUrl) -> RedisConfig:
    """Return the configuration for a URL with the options of the redis package and of goevent.

    Raises:
        ValueError: The URL makes no sense; the text of the error holds no password.
    """
    options = dict(url.options)
    if not options.keys() & {*TLS_OPTIONS}:
        return RedisConfig(url=url.text())
    settings = read_tls(options, scheme=url.scheme, is_tls=url.scheme == "rediss")
    both = [name for name in options if name.startswith("ssl_")]
    if both:
        raise ValueError(f"the option {both[0]} does not go with {', '.join(TLS_OPTIONS)}")
    context = None if settings is None else settings.context()
    return RedisConfig(url=url.with_query(urlencode(options)).text(), tls=context)


def connection_error(error: RedisLinkError) -> DriverConnectionError:
    """Return the error of the contract for an error of the link."""
    failure = find_tls_failure(error)
    return DriverConnectionError(f"Redis: {error if failure is None else explain_tls(failure)}")
