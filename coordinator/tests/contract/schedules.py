"""Judges the fires that `tests/schedules.rs` has written by other means: `croniter` on wall clocks, `zoneinfo` for zones.

The zones are those of the package tzdata, so that host and coordinator cannot differ by the age of their data. Names that
the package does not have are left out.
"""

import json
import os
import pathlib
import sys
import zoneinfo
from datetime import datetime, timedelta, timezone

from croniter import croniter

UTC = timezone.utc
BINARIES = pathlib.Path(os.environ.get("DROVER_BIN_DIR", "target/debug"))
# Cargo's folder for the files of tests lies beside that of the binaries.
FIRES = BINARIES.parent / "tmp" / "schedules.ndjson"


def end_of_gap(zone, before, after):
    """The instant between both at which the offset of the zone changes."""

    def offset(second):
        return datetime.fromtimestamp(second, zone).utcoffset()

    low, high = int(before.timestamp()), int(after.timestamp())
    first = offset(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if offset(middle) == first else (low, middle)
    return datetime.fromtimestamp(high, UTC)


def instants(zone, wall, missing, repeated):
    """When the clock of the zone shows this, by the policies."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return [first] if first.astimezone(zone).replace(tzinfo=None, fold=0) == wall else []
    if first < second:
        return {"first": [first], "second": [second], "both": [first, second]}[repeated]
    return [] if missing == "skip" else [end_of_gap(zone, second, first)]


def judged(window, zone):
    margin = timedelta(hours=50)
    start = datetime.fromtimestamp(window["after"], UTC).replace(tzinfo=None) - margin
    end = datetime.fromtimestamp(window["until"], UTC).replace(tzinfo=None) + margin
    walls = croniter(window["pattern"], start - timedelta(seconds=1))
    found = set()
    while (wall := walls.get_next(datetime)) <= end:
        for instant in instants(zone, wall, window["missing"], window["repeated"]):
            second = int(instant.timestamp())
            if window["after"] < second <= window["until"]:
                found.add(second)
    return sorted(found)


def main():
    zoneinfo.reset_tzpath(to=[])
    zones, windows, fires, wrong = {}, 0, 0, []
    for line in FIRES.read_text().splitlines():
        window = json.loads(line)
        name = window["zone"]
        if name not in zones:
            try:
                zones[name] = zoneinfo.ZoneInfo(name)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError):
                zones[name] = None
        if zones[name] is None:
            continue
        expected = judged(window, zones[name])
        windows, fires = windows + 1, fires + len(expected)
        if expected != window["fires"]:
            wrong.append(f"{name} {window['pattern']} {window['missing']} {window['repeated']} after {window['after']}")
    for one in wrong[:20]:
        print(one, file=sys.stderr)
    known = sum(zone is not None for zone in zones.values())
    assert windows > 2000 and known > 300, f"only {windows} windows of {known} zones were judged"
    assert not wrong, f"{len(wrong)} of {windows} windows differ"
    print(f"{fires} fires in {windows} windows of {known} zones are those of croniter and zoneinfo.")


if __name__ == "__main__":
    main()
