import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from featcache.core.progress import Silent
from featcache.errors import StorageError, WeightsUnavailableError
from featcache.features.download import Limits, download

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
LIMITS = Limits(connect=0.5, read=0.5, window=0.3, pace=1000, total=20)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A real server on a free port of this machine; yields a URL on it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/folder/weights.h5"
        finally:
            server.shutdown()
            thread.join()


def send(handler: BaseHTTPRequestHandler, content: bytes = CONTENT, length: int | None = len(CONTENT)) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content)


def drip(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"")
    for _ in range(100):
        try:
            handler.wfile.write(b"x")
        except OSError:
            return
        time.sleep(0.05)


def missing(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


class Recorder(Silent):
    def __init__(self) -> None:
        self.total = self.done = self.finished = 0

    def start(self, what: str, total: int, unit: str) -> None:
        assert (what, unit) == ("download: weights.h5", "kB")
        self.total = total

    def advance(self, count: int, status: str = "") -> None:
        self.done += count

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("digest", [SHA256, MD5, ""])
def test_a_file_arrives_whole_with_progress_and_nothing_beside_it(tmp_path: Path, digest: str) -> None:
    target, progress = tmp_path / "models" / "weights.h5", Recorder()
    with serving(send) as url:
        download(url, target, digest=digest, progress=progress, limits=LIMITS)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["weights.h5"]
    assert (progress.done, progress.total, progress.finished) == (256, 256, 1)


def test_a_body_of_unannounced_length_is_accepted_by_its_digest(tmp_path: Path) -> None:
    with serving(lambda handler: send(handler, length=None)) as url:
        download(url, tmp_path / "weights.h5", digest=SHA256, progress=Silent(), limits=LIMITS)
    assert (tmp_path / "weights.h5").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (missing, "answered 404 Not Found"),
        (lambda handler: send(handler, CONTENT[:-1]), "cut off after 255,999 of 256,000 bytes"),
        (lambda handler: send(handler, CONTENT[:-1] + b"?"), rf"another file: digest \w+, not {SHA256}"),
        (lambda handler: send(handler, b"", 0), "another file"),
        (lambda handler: time.sleep(3), "fell silent for 0.5 s"),
        (
            lambda handler: (send(handler, CONTENT[:1000]), time.sleep(3)),
            "fell silent for 0.5 s after 1,000 of 256,000",
        ),
        (drip, "too slow"),
        (lambda handler: handler.wfile.write(b"not http at all\r\n\r\n"), "cut off|no connection"),
    ],
    ids=["404", "cut off", "changed", "empty", "silent", "silent later", "dripping", "no http"],
)
def test_a_bad_server_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None], message: str
) -> None:
    target = tmp_path / "weights.h5"
    target.write_bytes(b"earlier")
    begun = time.monotonic()
    with serving(answer) as url, pytest.raises(WeightsUnavailableError, match=message) as caught:
        download(url, target, digest=SHA256, progress=Silent(), limits=LIMITS)
    assert time.monotonic() - begun < 2.5
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.h5"]
    assert target.read_bytes() == b"earlier"


def test_a_download_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    limits = Limits(connect=0.5, read=0.5, window=60, pace=1, total=0.2)
    with serving(drip) as url, pytest.raises(WeightsUnavailableError, match=r"not finished within 0\.2 s"):
        download(url, tmp_path / "weights.h5", digest="", progress=Silent(), limits=limits)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_accepts_and_never_answers_costs_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/weights.h5"
        begun = time.monotonic()
        with pytest.raises(WeightsUnavailableError, match="fell silent"):
            download(url, tmp_path / "weights.h5", digest=SHA256, progress=Silent(), limits=LIMITS)
        assert time.monotonic() - begun < 2


def free_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


def test_a_refused_connection(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/weights.h5"
    with pytest.raises(WeightsUnavailableError, match="connection refused"):
        download(url, tmp_path / "weights.h5", digest=SHA256, progress=Silent(), limits=LIMITS)


def test_a_proxy_of_the_environment_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(WeightsUnavailableError, match="the proxy of the environment can't be used"):
        download("http://weights.invalid/weights.h5", tmp_path / "w.h5", digest="", progress=Silent(), limits=LIMITS)


def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"name can't be resolved|no answer within 1 s"):
        download("http://weights.invalid/w.h5", tmp_path / "w.h5", digest="", progress=Silent(), limits=LIMITS)
    assert time.monotonic() - begun < 3


def test_name_resolution_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*args: object, **settings: object) -> list[object]:
        released.wait(10)
        raise socket.gaierror(-3, "late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(WeightsUnavailableError, match="no answer within 1 s"):
        download("http://weights.invalid/w.h5", tmp_path / "w.h5", digest="", progress=Silent(), limits=LIMITS)
    released.set()


@pytest.mark.parametrize(
    "url",
    [
        "weights.h5", "", "  ", "//server/w.h5", "http:", "http://", "http:/server/w.h5", "ftp://127.0.0.1/w.h5",
        "file:///etc/hostname", "http://[::1/w.h5", "http://server:port/w.h5", "http://127.0.0.1:99999/w.h5",
        "http://exa mple/w.h5", "http://a..b/w.h5", f"http://{'a' * 70}.com/w.h5", "http://\x00/w.h5", "http://\udcff/w.h5",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_mistyped_url_is_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(WeightsUnavailableError, match="not of the form http://SERVER/") as caught:
        download(url, tmp_path / "w.h5", digest="", progress=Silent(), limits=LIMITS)
    assert len(str(caught.value).split("\n")) == 1


@pytest.mark.parametrize(
    "proxy",
    [
        "garbage",
        "://x",
        "http://",
        "http://:80",
        "socks5://127.0.0.1:9",
        "ftp://a:1",
        "http://[::1",
        "http://a:port",
        "\udcff",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_mistyped_proxy_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, proxy: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "[::/x, ///")
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with pytest.raises(WeightsUnavailableError, match=r"http_proxy|name can't be resolved|no answer") as caught:
        download(f"{scheme}://127.0.0.2:9/w.h5", tmp_path / "w.h5", digest="", progress=Silent(), limits=LIMITS)
    assert len(str(caught.value).split("\n")) == 1


def test_certificates_that_are_not_there_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    with pytest.raises(WeightsUnavailableError, match=r"certificate.*gone\.pem"):
        download("https://127.0.0.2:9/w.h5", tmp_path / "w.h5", digest="", progress=Silent(), limits=LIMITS)


def test_whatever_fails_in_the_request_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requests.get", lambda *args, **settings: {}["surprise"])
    begun = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match="KeyError: 'surprise'"):
        download("http://127.0.0.1/w.h5", tmp_path / "w.h5", digest="", progress=Silent(), limits=Limits())
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Log in</title>", b"", b"\x89HD"])
def test_a_page_instead_of_a_file_without_a_known_digest(tmp_path: Path, page: bytes) -> None:
    begin = b"\x89HDF\r\n\x1a\n"
    with (
        serving(lambda handler: send(handler, page, len(page))) as url,
        pytest.raises(WeightsUnavailableError, match="sent another file: it begins with"),
    ):
        download(url, tmp_path / "w.h5", digest="", begin=begin, progress=Silent(), limits=LIMITS)
    assert list(tmp_path.iterdir()) == []
    with serving(lambda handler: send(handler, begin + page, None)) as url:
        download(url, tmp_path / "w.h5", digest="", begin=begin, progress=Silent(), limits=LIMITS)


def test_a_target_that_can_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serving(send) as url, pytest.raises(StorageError, match="a part of the path is a file"):
        download(url, tmp_path / "file" / "models" / "weights.h5", digest=SHA256, progress=Silent(), limits=LIMITS)
