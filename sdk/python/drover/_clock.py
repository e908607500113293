"""
The coordinator's clock, as far as its answers tell of it.

By that clock the coordinator judges every time, so what is to be "in five minutes" has to be five minutes after it, and
not after this host's, which may be wrong. How wrong is a matter of the host: one figure serves all connections.
"""

from __future__ import annotations

import datetime
import email.utils

_ahead_seconds = 0.0


def note(date: str, asked_at: float, answered_at: float) -> None:
    """
    Learns from the header `Date` of an answer. It names the second in which the answer was made, at some time between
    these two: the figure is moved no further than that demands, and stays 0 where this host's clock is right.
    """
    global _ahead_seconds
    try:
        second = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return
    _ahead_seconds = min(max(_ahead_seconds, second - answered_at), second + 1 - asked_at)


def now() -> datetime.datetime:
    """By the coordinator's clock; by this host's as long as nothing has been answered."""
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=_ahead_seconds)
