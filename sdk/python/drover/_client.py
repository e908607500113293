"""
Calls of the coordinator's API: connections, the key, repetitions, errors.

Every POST carries an `Idempotency-Key`, so that a call whose answer was lost is repeated without being done twice. Lost
connections and answers that say "later" (429, 502, 503, 504) are repeated for `retry_seconds`, then told. So is an
answer that something between gives in the coordinator's place, unless it says that it will always be so.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import ssl
import threading
import time
import urllib.parse
import urllib.request
import uuid
import weakref
from collections.abc import Iterator, Mapping
from typing import IO, Any, Callable, TypeVar, Union, cast

from . import _clock, _json
from ._errors import NotConnected, Unreachable, refusal

API = "/api/v1"
RETRY_SECONDS = 120.0
# Longer than any long poll.
TIMEOUT_SECONDS = 90.0
_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 8.0
_BLOCK_BYTES = 128 * 1024
_SETTINGS: dict[str, Any] = {"timeout": TIMEOUT_SECONDS, "blocksize": _BLOCK_BYTES}
# The redirections among them are those of a gateway that asks for a sign-in, or of one that is being maintained.
_LATER = (302, 303, 307, 429, 502, 503, 504)
_NO_CONTENT = 204
_WHO_ANSWERS = "is DROVER_URL the address of a Drover coordinator, or does a proxy answer in its place?"

T = TypeVar("T")
# Bytes, or what opens the content anew for each try.
Body = Union[bytes, Callable[[], IO[bytes]], None]


class Lost(Exception):
    """The connection, or an answer on its way, broke off. What local files say is another matter and passes through."""


class Foreign(Exception):
    """An answer that tells of success and is not the coordinator's: whether the call was carried out is not known."""


@contextlib.contextmanager
def _on_the_way() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Lost(str(error) or type(error).__name__) from error


class Answer:
    """A successful answer whose body has not been read."""

    def __init__(self, response: http.client.HTTPResponse):
        self.response = response
        self.status = response.status

    def header(self, name: str) -> str:
        return self.response.headers.get(name, "")

    def read(self) -> bytes:
        with _on_the_way():
            return self.response.read()

    def json(self) -> Any:
        """What it says; None if it says that there is nothing to say."""
        content = self.read()
        return None if self.status == _NO_CONTENT else self.decoded(content)

    def decoded(self, text: bytes) -> Any:
        """A part of it that is JSON, if this is an answer of the coordinator."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise self.foreign("JSON") from error

    def foreign(self, missing: str) -> Foreign:
        """It lacks what every such answer of the coordinator has."""
        kind = self.header("Content-Type") or "content of no type"
        return Foreign(f"{self.status} with {kind} and no {missing}; {_WHO_ANSWERS}")

    def pieces(self, size: int = 256 * 1024) -> Iterator[bytes]:
        while True:
            with _on_the_way():
                piece = self.response.read(size)
                if not piece and self.response.length:
                    raise http.client.IncompleteRead(b"", self.response.length)
            if not piece:
                return
            yield piece


class _Ending:
    """A connection that is closed when nobody has it any more: that of a thread ends with the thread."""

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()  # type: ignore[attr-defined]


class _Plain(_Ending, http.client.HTTPConnection):
    pass


class _Encrypted(_Ending, http.client.HTTPSConnection):
    pass


class Client:
    """A connection to one coordinator with one key. Threads may share it: each has a connection of its own."""

    def __init__(self, url: str, key: str, *, retry_seconds: float = RETRY_SECONDS, ca_file: str | None = None):
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NotConnected(f"{url!r} is not an address such as https://drover.example.com: mend DROVER_URL")
        self.url = url
        self._parts = parts
        self._prefix = parts.path.rstrip("/")
        if self._prefix.endswith(API):
            self._prefix = self._prefix[: -len(API)]
        self._key = key.strip()
        self._ca_file = ca_file
        self._retry_seconds = retry_seconds
        self._own = threading.local()
        self._open_ones: weakref.WeakSet[http.client.HTTPConnection] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Closes the connections of all threads. A later call opens one again."""
        # Not by iteration: other threads open theirs and end meanwhile.
        with contextlib.suppress(KeyError):
            while True:
                self._open_ones.pop().close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Client:
        """The coordinator that the agent names, else the one of DROVER_URL and DROVER_KEY."""
        url = environment.get("DROVER_URL")
        key = environment.get("DROVER_TOKEN") or environment.get("DROVER_KEY")
        if not url or not key:
            raise NotConnected(
                "no coordinator is known: under Drover the agent sets DROVER_URL and DROVER_TOKEN; "
                "by hand set DROVER_URL and DROVER_KEY"
            )
        return Client(url, key, ca_file=environment.get("DROVER_CA_FILE"))

    def call(
        self,
        method: str,
        path: tuple[str, ...],
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        key: str | None = None,
        extra_seconds: float = 0.0,
    ) -> Any:
        """One call with JSON both ways; None for an empty answer. Path segments are encoded here."""
        payload = None if body is None else _json.encoded(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        more: dict[str, Any] = {"query": query, "key": key, "extra_seconds": extra_seconds}
        return self.send(method, path, payload, headers, take=Answer.json, **more)

    def send(
        self,
        method: str,
        path: tuple[str, ...],
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        key: str | None = None,
        extra_seconds: float = 0.0,
        take: Callable[[Answer], T],
    ) -> T:
        """One call; `take` reads the answer, and is called anew for each repetition."""
        target = f"{self._prefix}{API}/" + "/".join(urllib.parse.quote(part, safe="") for part in path)
        pairs = [(name, value) for name, value in (query or {}).items() if value is not None]
        if pairs:
            target += "?" + urllib.parse.urlencode(pairs, doseq=True)
        all_headers = {"Authorization": f"Bearer {self._key}", "User-Agent": "drover-python", **(headers or {})}
        if method == "POST":
            all_headers["Idempotency-Key"] = key or str(uuid.uuid4())
        call = f"{method} {'/'.join(path)}"
        ends_at = time.monotonic() + self._retry_seconds + extra_seconds
        tries = 0
        while True:
            tries += 1
            fresh = self._connection() is None
            try:
                status, result, wait = self._try(method, target, body, all_headers, take)
            except Lost as error:
                self._close()
                # A kept connection that the other side has closed meanwhile tells nothing about the coordinator.
                if fresh or tries > 2:
                    self._pause(tries, 0.0, ends_at, f"{call}: {self.url} cannot be reached: {error}")
                continue
            except Foreign as error:
                self._close()
                self._pause(tries, 0.0, ends_at, f"{call}: {self.url} answers {error}")
                continue
            except BaseException:
                # What has not been read would be taken for the next answer.
                self._close()
                raise
            if _is_success(status):
                return cast(T, result)
            if method == "DELETE" and result.get("type") == "not_found" and tries > 1:
                # The answer to the first try was lost, not its effect.
                return cast(T, None)
            if status not in _LATER:
                raise refusal(status, result, call)
            text = f"{call}: {self.url} answers {status} {result.get('detail') or result.get('title', '')}".rstrip()
            self._pause(tries, wait, ends_at, text)

    def _pause(self, tries: int, least: float, ends_at: float, text: str) -> None:
        """Waits before the next try, or gives up."""
        most = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(tries, 10))
        delay = max(least, random.uniform(_FIRST_DELAY_SECONDS / 2, most))
        if time.monotonic() + delay > ends_at:
            raise Unreachable(
                f"{text}. It was tried {tries} times. Is the coordinator running, and does the network reach it? "
                "Whether a change was carried out is not known."
            )
        time.sleep(delay)

    def _try(
        self, method: str, target: str, body: Body, headers: Mapping[str, str], take: Callable[[Answer], Any]
    ) -> tuple[int, Any, float]:
        """One try: status, what was taken or the problem, and how long to wait at least before another one."""
        connection = self._open()
        prefix, for_proxy = self._for_proxy()
        content: bytes | IO[bytes] | None = body() if callable(body) else body
        whole = False
        asked_at = time.time()
        try:
            with _on_the_way():
                connection.request(method, prefix + target, content, {**headers, **for_proxy})
            whole = True
        except Lost as lost:
            # It may have refused before it had read everything, and said why.
            if connection.sock is None or not isinstance(lost.__cause__, (BrokenPipeError, ConnectionResetError)):
                raise
        finally:
            if callable(body) and content is not None and not isinstance(content, bytes):
                content.close()
        with _on_the_way():
            response = connection.getresponse()
        answer = Answer(response)
        if _is_success(response.status):
            _clock.note(answer.header("Date"), asked_at, time.time())
        wait = answer.header("Retry-After")
        result = take(answer) if _is_success(response.status) else _problem(answer)
        # What is left of a body, on either side, would be taken for the beginning of the next one.
        if not whole or not response.isclosed():
            self._close()
        return response.status, result, float(wait) if wait.isdigit() else 0.0

    def _connection(self) -> http.client.HTTPConnection | None:
        connection = getattr(self._own, "connection", None)
        return connection if connection is not None and connection.sock is not None else None

    def _open(self) -> http.client.HTTPConnection:
        connection = self._connection()
        if connection is None:
            connection = self._own.connection = self._new_connection()
            self._open_ones.add(connection)
        return connection

    def _close(self) -> None:
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._open_ones.discard(connection)
        self._own.connection = None

    def _for_proxy(self) -> tuple[str, dict[str, str]]:
        """What a proxy for plain HTTP wants before the path of a request, and as headers."""
        proxy = self._proxy() if self._parts.scheme == "http" else None
        return ("", {}) if proxy is None else (f"http://{self._parts.netloc}", _who_asks(proxy))

    def _proxy(self) -> urllib.parse.SplitResult | None:
        host = self._parts.hostname or ""
        if urllib.request.proxy_bypass(host):
            return None
        proxy = urllib.request.getproxies().get(self._parts.scheme)
        if not proxy:
            return None
        try:
            parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            # It is looked at when it is asked for.
            _ = parts.port
        except ValueError:
            # The text of the error, as the address, may show a password.
            name = f"{self._parts.scheme.upper()}_PROXY"
            text = f"{name} is not an address such as http://user:password@proxy:3128: is the password percent-encoded?"
            raise NotConnected(text) from None
        return parts

    def _new_connection(self) -> http.client.HTTPConnection:
        host, port, proxy = self._parts.hostname or "", self._parts.port, self._proxy()
        if self._parts.scheme == "http":
            if proxy is not None:
                return _Plain(proxy.hostname or "", proxy.port or 80, **_SETTINGS)
            return _Plain(host, port or 80, **_SETTINGS)
        context = ssl.create_default_context()
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        if proxy is None:
            return _Encrypted(host, port or 443, context=context, **_SETTINGS)
        through = _Encrypted(proxy.hostname or "", proxy.port or 80, context=context, **_SETTINGS)
        through.set_tunnel(host, port or 443, headers=_who_asks(proxy))
        return through


def _who_asks(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    """The user and the password that stand in the address of a proxy, as it takes them; they go nowhere else."""
    if proxy.username is None:
        return {}
    pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def _problem(answer: Answer) -> dict[str, Any]:
    """What a refusal says of itself, or whose it may be."""
    try:
        problem = json.loads(answer.read())
    except ValueError:
        problem = None
    if isinstance(problem, dict) and "type" in problem:
        return problem
    # What follows the path may be nobody else's business.
    place = answer.header("Location").partition("?")[0]
    what = f"a redirection to {place}" if place else "no reason was given"
    return {"title": f"{what}; {_WHO_ANSWERS}"}
