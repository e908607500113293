"""Values of Python as JSON: dates, decimals and paths become texts; what else JSON does not know is refused."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import pathlib
import uuid
from typing import Any

# What is raised by values that JSON or UTF-8 cannot hold: sets, nan, lone surrogates, times before the year 1, loops.
NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)


def dumps(value: Any) -> str:
    return json.dumps(value, default=_more, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def encoded(value: Any) -> bytes:
    """As it is sent. Raises one of `NOT_JSON` if it cannot be."""
    return dumps(value).encode()


def text(value: str) -> str:
    """The text as UTF-8 can hold it: the name of a file may have bytes that are none."""
    return value.encode("utf-8", "replace").decode()


def cut(value: str, most_bytes: int) -> str:
    """No more of a text than so many bytes of UTF-8."""
    return value.encode()[:most_bytes].decode("utf-8", "ignore")


def plain(value: Any) -> Any:
    """The value as it will be read back."""
    return json.loads(dumps(value))


def _more(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return timestamp(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID, pathlib.PurePath)):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def timestamp(value: datetime.datetime) -> str:
    """As the API writes times: UTC, milliseconds. A time without a zone is one of this host."""
    utc = value.astimezone(datetime.timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03}Z"


def write_file(path: os.PathLike[str] | str, value: Any) -> None:
    """Writes a JSON file whole or not at all, so that nobody reads half of it."""
    part = f"{os.fspath(path)}.part"
    with open(part, "w", encoding="utf-8") as file:
        file.write(dumps(value) + "\n")
    os.replace(part, path)
