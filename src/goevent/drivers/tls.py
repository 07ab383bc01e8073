"""TLS by URL: the options that every scheme with TLS has, and the errors of a handshake.

A driver takes the options out of those of its URL with `read_tls`, and hands the settings to its
client. Clients report a failed handshake each in their own words; `find_tls_failure` finds it
behind the error of a client, and `explain_tls` makes one text of it, which names the option to
change.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

TLS_OPTIONS = ("cafile", "certfile", "check_hostname", "keyfile")
"""The options of a URL whose scheme has TLS."""

_FLAGS = {"0": False, "1": True, "false": False, "true": True}

# The numbers that OpenSSL gives to the results of a verification.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}
_OTHER_HOST = {62, 64}

UNTRUSTED = (
    "the server's certificate is not signed by an authority that is known here; the option cafile "
    "names the file of the authority"
)
OTHER_HOST = (
    "the server's certificate is for another host; connect by a name that it has, or set "
    "check_hostname=0"
)
EXPIRED = "the server's certificate has expired"
NO_CLIENT_CERTIFICATE = (
    "the server does not accept the client's certificate, or demands one; the options certfile and "
    "keyfile name its files"
)
NO_TLS = "the server does not speak TLS on this port"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The settings of TLS that a URL gives.

    Attributes:
        cafile: The file of the authorities to trust; None for those of the system.
        certfile: The file of the client's certificate, which may also have its key.
        keyfile: The file of the client's key.
        check_hostname: Whether the certificate must be for the host of the URL.
    """

    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """Return a context for a client.

        Raises:
            ValueError: A file has no certificate or key that can be used.
        """
        option = "cafile"
        try:
            context = ssl.create_default_context(cafile=self.cafile)
            option = "certfile" if self.keyfile is None else "certfile or keyfile"
            if self.certfile is not None:
                # Without a password: OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.certfile, self.keyfile, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ValueError(f"the file of the option {option} cannot be used: {reason}") from None
        context.check_hostname = self.check_hostname
        return context


def read_tls(options: dict[str, str], *, scheme: str, is_tls: bool) -> TlsSettings | None:
    """Take the options of TLS out of the options of a URL.

    Args:
        options: The options; those of TLS are removed.
        scheme: The scheme of the URL, for error texts.
        is_tls: Whether the URL asks for TLS.

    Returns:
        The settings; None if the URL does not ask for TLS.

    Raises:
        ValueError: An option needs TLS, makes no sense, or names a file that does not exist.
    """
    found = {name: options.pop(name) for name in TLS_OPTIONS if name in options}
    if not is_tls:
        if found:
            raise ValueError(f"the option {min(found)} needs TLS, which {scheme}:// has not")
        return None
    for name in ("cafile", "certfile", "keyfile"):
        if name in found and not Path(found[name]).is_file():
            raise ValueError(f"the option {name}: there is no file {found[name]!r}")
    if "keyfile" in found and "certfile" not in found:
        raise ValueError("the option keyfile needs the option certfile, too")
    flag = found.get("check_hostname", "1").lower()
    if flag not in _FLAGS:
        raise ValueError("the option check_hostname is 0 or 1")
    files = {name: found.get(name) for name in ("cafile", "certfile", "keyfile")}
    return TlsSettings(**files, check_hostname=_FLAGS[flag])


def find_tls_failure(error: BaseException | None) -> ssl.SSLError | None:
    """Return the failure of TLS behind an error of a client, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ssl.SSLError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def explain_tls(failure: ssl.SSLError) -> str:
    """Return the reason for which TLS has failed, and the option to change."""
    return f"TLS fails: {_reason_of(failure)}"


def _reason_of(failure: ssl.SSLError) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        code, text = failure.verify_code, failure.verify_message
        if code == _EXPIRED:
            return EXPIRED
        if code == _NOT_YET_VALID:
            return "the server's certificate is not valid yet"
        if code in _OTHER_HOST:
            return f"{OTHER_HOST} ({text})"
        if code in _UNKNOWN_AUTHORITY:
            return f"{UNTRUSTED} ({text})"
        return f"the server's certificate is refused: {text}"
    reason = failure.reason or str(failure)
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"{NO_CLIENT_CERTIFICATE} ({_in_words(reason)})"
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return f"{NO_TLS} ({_in_words(reason)})"
    return _in_words(reason)


def _in_words(reason: str) -> str:
    """Return OpenSSL's constant, such as TLSV1_ALERT_UNKNOWN_CA, as words."""
    return reason.lower().replace("_", " ")
