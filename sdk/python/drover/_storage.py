"""Files of storage folders: streamed both ways in bounded memory, and checked by their digests."""

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import os
import pathlib
import tempfile
import urllib.parse
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Callable, Union, cast

from ._client import Answer
from ._errors import Changed, Damaged

if TYPE_CHECKING:
    from ._client import Client

Source = Union[str, "os.PathLike[str]", bytes, IO[bytes]]
_PIECE_BYTES = 1024 * 1024


class Storage:
    """One storage folder. Paths of files have `/` between their parts, and may hold any character."""

    def __init__(self, client: Client, folder: str):
        self._client = client
        self.folder = folder

    def __repr__(self) -> str:
        return f"Storage({self.folder!r})"

    def put(self, path: str, source: Source, content_type: str | None = None) -> dict[str, Any]:
        """
        Writes a file from a path, from bytes, or from an open file that can be rewound. What is there is replaced.

        The coordinator keeps it only if it arrives with the digest that it had here.
        """
        return send(self._client, self._address(path), source, content_type)

    def get(self, path: str, target: str | os.PathLike[str]) -> pathlib.Path:
        """Reads a file into `target`: whole and with the right digest, or `target` stays as it was."""
        return receive(self._client, self._address(path), pathlib.Path(target))

    def read(self, path: str) -> bytes:
        """The content of a small file."""

        def take(answer: Answer) -> bytes:
            content = b"".join(answer.pieces())
            _check(answer, hashlib.sha256(content), path)
            return content

        return self._client.send("GET", self._address(path), headers={"Accept-Encoding": "identity"}, take=take)

    def list(self, prefix: str = "") -> Iterator[dict[str, Any]]:
        """The files whose path begins like this, in the order of their paths: `path`, `size_bytes`, `sha256` …"""
        cursor = None
        while True:
            query = {"prefix": prefix or None, "limit": 1000, "cursor": cursor}
            page = self._client.call("GET", ("storages", self.folder, "files"), query=query)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def delete(self, path: str) -> None:
        self._client.call("DELETE", self._address(path))

    def _address(self, path: str) -> tuple[str, ...]:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{path!r} is not a path of a file: parts must not be empty, '.' or '..'")
        return ("storages", self.folder, "files", *parts)


def send(client: Client, address: tuple[str, ...], source: Source, content_type: str | None) -> dict[str, Any]:
    """
    Sends content with its digest; a try that breaks off begins anew. Of a file that grows meanwhile it is the part that
    was there; one that shrinks raises `Changed`.
    """
    opener = _opener(source)
    digest, size = hashlib.sha256(), 0
    with opener() as file:
        for piece in iter(lambda: file.read(_PIECE_BYTES), b""):
            digest.update(piece)
            size += len(piece)
    headers = {
        "Content-Type": content_type or mimetypes.guess_type(address[-1])[0] or "application/octet-stream",
        "Content-Length": str(size),
        "Content-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
    }

    def measured() -> IO[bytes]:
        return cast(IO[bytes], _Measured(opener(), size, address[-1]))

    # So much longer may it take, at a megabyte per second.
    written: dict[str, Any] = client.send("PUT", address, measured, headers, extra_seconds=size / 1e6, take=Answer.json)
    return written


def _opener(source: Source) -> Callable[[], IO[bytes]]:
    if isinstance(source, bytes):
        return lambda: io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        return lambda: open(source, "rb")
    start = source.tell()

    def rewind() -> IO[bytes]:
        source.seek(start)
        return cast(IO[bytes], _Unclosed(source))

    return rewind


class _Measured(io.RawIOBase):
    """
    A file as long as it was when its digest was taken. What came after that on the connection would be taken for the
    next request, and what is missing would be waited for.
    """

    def __init__(self, file: IO[bytes], size: int, name: str):
        super().__init__()
        self._file = file
        self._left = size
        self._name = name

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        most = self._left if size < 0 else min(size, self._left)
        piece = self._file.read(most)
        if most and not piece:
            raise Changed(f"what is sent as {self._name} became {self._left} bytes shorter meanwhile; nothing was kept")
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        self._file.close()
        super().close()


class _Unclosed(io.RawIOBase):
    """The caller's open file, which is not ours to close."""

    def __init__(self, file: IO[bytes]):
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def receive(client: Client, address: tuple[str, ...], target: pathlib.Path) -> pathlib.Path:
    def take(answer: Answer) -> pathlib.Path:
        digest = hashlib.sha256()
        # Beside the target, so that taking its place is one step; readable by this account only.
        handle, name = tempfile.mkstemp(prefix=".drover-", dir=target.parent)
        try:
            with open(handle, "wb") as file:
                for piece in answer.pieces():
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            _check(answer, digest, "/".join(address))
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
        return target

    return client.send("GET", address, headers={"Accept-Encoding": "identity"}, take=take)


def _check(answer: Answer, digest: Any, what: str) -> None:
    """Against what the coordinator says that it has sent: it does so for every file."""
    if not answer.header("Content-Digest"):
        raise answer.foreign("digest")
    for part in answer.header("Content-Digest").split(","):
        name, _, value = part.strip().partition("=")
        if name == "sha-256" and base64.b64decode(value.strip(":")) != digest.digest():
            raise Damaged(f"{urllib.parse.unquote(what)} arrived damaged: its digest differs; try again")
