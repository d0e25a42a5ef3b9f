"""One file over HTTP with limits on everything: a silent, slow or lying server costs seconds, not an evening."""

import hashlib
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.disk import replacing
from featcache.core.progress import Progress
from featcache.errors import WeightsUnavailableError

if TYPE_CHECKING:
    import requests

_PIECE = 1 << 16  # bytes
_KILOBYTE = 1000
_MD5_DIGITS = 32


@dataclass(frozen=True)
class Limits:
    """What a download may take, in seconds, and how slow it may be.

    Attributes:
        connect: to reach the server (each of its addresses).
        read: between two pieces of the answer.
        window, pace: every `window` seconds at least `pace` bytes must arrive; a server that drips is a silent one.
        total: for everything together.
    """

    connect: float = 3.0
    read: float = 10.0
    window: float = 30.0
    pace: int = 1 << 19
    total: float = 3600.0


def download(
    url: str, target: Path, *, digest: str, progress: Progress, limits: Limits | None = None, begin: bytes = b""
) -> None:
    """Fetch `url` to `target`; the file appears there only when it is whole and its digest is right.

    Args:
        url: http or https; proxies of the environment (``HTTPS_PROXY``, ``NO_PROXY``) are used.
        target: where the file goes; its folder is made.
        digest: SHA-256 (64 hexadecimal digits) or MD5 (32) of the file; "" where none is known; then only the
            length that the server announced and `begin` are checked.
        progress: advances by kilobytes.
        limits: None for the defaults.
        begin: the file's first bytes; a network that wants a login answers everything with a page of its own.

    Raises:
        WeightsUnavailableError: no connection, no or another answer, too slow, cut off, other content. Nothing is left.
        StorageError: `target` can't be written.
    """
    with _found(url, limits := limits or Limits()) as response, replacing(target) as temporary:
        found = _save(response, temporary, url, limits, progress, "md5" if len(digest) == _MD5_DIGITS else "sha256")
        with open(temporary, "rb") as stream:
            first = stream.read(len(begin))
        if first != begin:
            raise WeightsUnavailableError(f"{url} sent another file: it begins with {first!r}, not with {begin!r}")
        if digest and found != digest:
            raise WeightsUnavailableError(f"{url} sent another file: digest {found}, not {digest}")


def check_reachable(url: str, limits: Limits) -> None:
    """Ask for `url` and read nothing of it.

    Raises:
        WeightsUnavailableError: no answer within ``limits.connect`` and ``limits.read``, or another than 200 OK.
    """
    with _found(url, limits):
        pass


@contextmanager
def _found(url: str, limits: Limits) -> "Iterator[requests.Response]":
    """The server's answer, if it is 200 OK, closed afterwards.

    It is awaited in a thread that may be left behind: name resolution can't be given a limit of its own.
    """
    answers: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()

    def request() -> None:
        import requests

        try:
            # identity: the digest is of the file as it lies there, not of a transport encoding
            headers = {"Accept-Encoding": "identity"}
            answers.put(requests.get(url, stream=True, timeout=(limits.connect, limits.read), headers=headers))
        except Exception as error:  # noqa: BLE001 - proxies and certificates of the environment, too: raised below
            answers.put(error)

    threading.Thread(target=request, daemon=True).start()
    patience = limits.connect + limits.read
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        raise WeightsUnavailableError(f"{url}: no answer within {patience:g} s") from None
    if isinstance(answer, Exception):
        raise WeightsUnavailableError(f"{url}: {_reason(answer, limits)}") from answer
    with answer:
        if answer.status_code != 200:
            raise WeightsUnavailableError(f"{url} answered {answer.status_code} {answer.reason}, not 200 OK")
        yield answer


def _save(
    response: "requests.Response", path: Path, url: str, limits: Limits, progress: Progress, algorithm: str
) -> str:
    """Write the body to `path` and return its digest."""
    import urllib3

    announced = response.headers.get("Content-Length", "")
    expected = int(announced) if announced.isdigit() else None
    state, received = hashlib.new(algorithm, usedforsecurity=False), 0
    progress.start(f"download: {url.rsplit('/', 1)[-1]}", (expected or 0) // _KILOBYTE, "kB")
    try:
        with open(path, "wb") as stream:
            for piece in _pieces(response, url, limits):
                stream.write(piece)
                state.update(piece)
                progress.advance((received + len(piece)) // _KILOBYTE - received // _KILOBYTE)
                received += len(piece)
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        after = f"after {received:,} of {'an unknown number of' if expected is None else f'{expected:,}'} bytes"
        raise WeightsUnavailableError(f"{url}: {_reason(error, limits)} {after}") from error
    finally:
        progress.finish()
    if expected is not None and received != expected:
        raise WeightsUnavailableError(f"{url}: the connection was cut off after {received:,} of {expected:,} bytes")
    return state.hexdigest()


def _pieces(response: "requests.Response", url: str, limits: Limits) -> Iterator[bytes]:
    """The body as it comes, given up where it is too slow or takes too long."""
    begun = window_begun = time.monotonic()
    in_window = 0
    # read1 returns what is there: read would wait for a whole piece and so never look at the clock
    while piece := response.raw.read1(_PIECE):
        yield piece
        now = time.monotonic()
        in_window += len(piece)
        if now > begun + limits.total:
            raise WeightsUnavailableError(f"{url}: not finished within {limits.total:g} s")
        if now > window_begun + limits.window:
            if in_window < limits.pace:
                raise WeightsUnavailableError(f"{url}: too slow, {in_window:,} bytes in {limits.window:g} s")
            window_begun, in_window = now, 0


def _reason(error: Exception, limits: Limits) -> str:
    """Return what went wrong in a few words; the libraries' own texts are nested object representations."""
    import requests
    import urllib3

    no_url = requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL
    silent = requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError
    where = "here or in the proxies of the environment (http_proxy, https_proxy)"
    reasons: list[tuple[tuple[type[Exception], ...], str, str]] = [
        ((requests.exceptions.ConnectTimeout,), "", f"no connection within {limits.connect:g} s"),
        (silent, "", f"the server fell silent for {limits.read:g} s"),
        (
            (*no_url, urllib3.exceptions.LocationValueError),
            "",
            f"not of the form http://SERVER/... or https://SERVER/..., {where}",
        ),
        ((Exception,), "NameResolutionError", "the server's name can't be resolved (no network?)"),
        ((Exception,), "gaierror", "the server's name can't be resolved (no network?)"),
        ((requests.exceptions.ProxyError,), "", "the proxy of the environment can't be used"),
        ((requests.exceptions.SSLError,), "", "the secure connection failed"),
        ((Exception,), "Connection refused", "connection refused"),
        ((Exception,), "unreachable", "network unreachable"),
        ((urllib3.exceptions.ProtocolError, ConnectionError), "", "the connection was cut off"),
        ((requests.exceptions.ConnectionError,), "", "no connection"),
        ((Exception,), "", f"{type(error).__name__}: {error}".splitlines()[0]),
    ]
    text = repr(error)
    return next(reason for kinds, part, reason in reasons if isinstance(error, kinds) and part in text)
