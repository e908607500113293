"""The processes of this host, as the kernel shows them."""

import os
import pathlib


def _all():
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def _read(pid, what):
    try:
        return (pathlib.Path("/proc") / str(pid) / what).read_bytes()
    except OSError:
        return b""


def _words(pid):
    return _read(pid, "cmdline").split(b"\0")


def supervisors(folder):
    """Those of the agents whose state is below the folder."""
    return [pid for pid in _all() if b"supervise" in (words := _words(pid)) and any(str(folder).encode() in word for word in words)]


def descendants(root):
    """All that live below a process, without itself."""
    children = {}
    for pid in _all():
        fields = _read(pid, "stat").rpartition(b")")[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append((pid, fields[0] not in (b"Z", b"X")))
    found, open_ = [], [root]
    while open_:
        for pid, alive in children.get(open_.pop(), []):
            open_.append(pid)
            found += [pid] * alive
    return found


def of_jobs(jobs):
    """Those that belong to one of the jobs: by their environment, or by the name that `robot/main.py` gives."""
    marks = {f"DROVER_JOB_ID={job}".encode() for job in jobs}
    names = {f"chaos-{job}".encode() for job in jobs}
    return [pid for pid in _all() if _words(pid)[0] in names or not marks.isdisjoint(_read(pid, "environ").split(b"\0"))]


def told(pids):
    """For people."""
    return [f"{pid}: {b' '.join(_words(pid)).decode(errors='replace')}" for pid in pids]


def send(pid, signal):
    """A process that is gone already is no error."""
    try:
        os.kill(pid, signal)
    except ProcessLookupError:
        pass
