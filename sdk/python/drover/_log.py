"""
Lines of the log: JSON objects on standard output, which the agent turns into structured records.

On a terminal, outside of Drover, the same as plain text. Values of secrets that were read are masked here as well as by
the agent.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Any

from . import _json

LEVELS = ("trace", "debug", "info", "warning", "error", "critical")
MASK = "••••"
# Shorter values would mask ordinary words.
_SHORTEST_SECRET = 4
# What readers of the log keep of whole numbers to the last digit; beyond it they round.
_WHOLE_NUMBERS = range(-(2**63), 2**64)

_lock = threading.Lock()
_secrets: set[str] = set()


def hide(value: str) -> None:
    """Masks this text in everything that is logged from now on."""
    if len(value) >= _SHORTEST_SECRET:
        with _lock:
            _secrets.add(value)


def write(
    level: str, message: str, fields: dict[str, Any] | None = None, progress: dict[str, Any] | None = None
) -> None:
    """Writes one line and flushes it, so that whoever follows the log sees it as it happens."""
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a level; there are {', '.join(LEVELS)}")
    record: dict[str, Any] = {"level": level, "message": masked(str(message))}
    if fields:
        # JSON has no word for what is no number or infinite: it stands there as text.
        plain = json.loads(json.dumps(fields, default=str), parse_constant=str, parse_int=_exact)
        record["fields"] = _masked_values(plain)
    if progress:
        record["progress"] = _masked_values(_json.plain(progress))
    if "DROVER_JOB_ID" not in os.environ and sys.stdout.isatty():
        text = f"{record['level']:8} {record['message']}"
        if fields:
            text += f"  {json.dumps(record['fields'], ensure_ascii=False)}"
    else:
        # ASCII only: no locale of any host can spoil it.
        text = json.dumps(record)
    with _lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _exact(digits: str) -> int | str:
    """A whole number as far as readers keep it, else its digits: the number of an account is not to be another one."""
    number = int(digits)
    return number if number in _WHOLE_NUMBERS else digits


def masked(text: str) -> str:
    text = _json.text(text)
    # The longest first, so that one secret that begins like another leaves no rest of it.
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _masked_values(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked(name): _masked_values(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked_values(item) for item in value]
    return value


class LogHandler(logging.Handler):
    """Sends what is logged by Python's own `logging` there as well: `logging.basicConfig(handlers=[LogHandler()])`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {"logger": record.name}
            message = record.getMessage()
            if record.exc_info:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
            write(_level(record.levelno), message, fields)
        except Exception:
            self.handleError(record)


def _level(number: int) -> str:
    if number >= logging.CRITICAL:
        return "critical"
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    if number >= logging.INFO:
        return "info"
    return "debug" if number >= logging.DEBUG else "trace"
