"""The process whose jobs the chaos test runs: prints numbered lines, and tells outside of Drover what it has really done.

Its input: `record` (folder outside), `lines`, `pace_ms`, `width`, `mode` (ok, fail, fail_once, stubborn, daemon, escape, secret, many).
"""

import json
import os
import random
import signal
import sys
import time

JOB, ATTEMPT = os.environ["DROVER_JOB_ID"], int(os.environ["DROVER_ATTEMPT"])
with open(os.environ["DROVER_INPUT"], encoding="utf-8") as file:
    GIVEN = json.load(file)
MODE = GIVEN["mode"]
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
stopping = False


def tell(what, **more):
    """One line in one write: whole, whoever else appends."""
    line = json.dumps({"what": what, "job": JOB, "attempt": ATTEMPT} | more) + "\n"
    file = os.open(os.path.join(GIVEN["record"], "starts"), APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)


def asked_to_stop(*_):
    global stopping
    stopping = True


def write_whole(descriptor, data):
    while data:
        data = data[os.write(descriptor, data) :]


def leave_a_daemon(escape):
    """Forks twice and leaves session and parents behind; with `escape` even the environment. It holds the pipes open."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.execve("/bin/sleep", [f"chaos-{JOB}", "600"], {} if escape else os.environ)


def main():
    if MODE == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGINT, asked_to_stop)
    tell("start", token=os.environ["DROVER_TOKEN"])
    if MODE in ("daemon", "escape"):
        leave_a_daemon(MODE == "escape")
    if MODE == "secret":
        print("the key is", os.environ["DROVER_TOKEN"], flush=True)
    # A dot before each line and a stroke after it: however it is killed, the record is off by one line at the most.
    printed = os.open(os.path.join(GIVEN["record"], f"{JOB}-{ATTEMPT}"), APPEND, 0o600)
    for number in range(1, GIVEN["lines"] + 1):
        if stopping:
            tell("stopped")
            return 0
        os.write(printed, b".")
        write_whole(1, f"line {number} {'x' * GIVEN['width']}\n".encode())
        os.write(printed, b"|")
        if GIVEN["pace_ms"]:
            time.sleep(random.uniform(0, 2 * GIVEN["pace_ms"]) / 1000)
    with open(os.environ["DROVER_OUTPUT"], "w", encoding="utf-8") as file:
        json.dump({"job": JOB, "attempt": ATTEMPT, "lines": GIVEN["lines"]}, file)
    folder = os.path.join(os.environ["DROVER_ARTIFACTS"], "отчёты & 100%")
    os.makedirs(folder)
    # Many take so long to deliver that it is disturbed.
    for number in range(100 if MODE == "many" else 1):
        with open(os.path.join(folder, f"report {number}.txt"), "w", encoding="utf-8") as file:
            file.write(f"{JOB} {ATTEMPT} {number}\n" * 2000)
    code = 3 if MODE == "fail" or (MODE == "fail_once" and ATTEMPT == 1) else 0
    tell("end", code=code)
    return code


sys.exit(main())
