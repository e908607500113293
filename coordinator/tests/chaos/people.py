"""Those who start, stop, abort and retry jobs all the time, in a thread of their own, without knowing what is broken just now."""

import random
import threading
import time
import traceback

MODES = {"ok": 8, "fail": 2, "fail_once": 2, "stubborn": 2, "daemon": 2, "escape": 1, "secret": 2, "many": 2}
MAX_OPEN = 12


class People(threading.Thread):
    def __init__(self, api, record, seed):
        super().__init__(daemon=True)
        self.api, self.record, self.random = api, record, random.Random(f"people {seed}")
        self.enough = threading.Event()
        self.started = {}  # Label to job id and input.
        self.failure = None

    def run(self):
        try:
            while not self.enough.is_set():
                self.act()
                time.sleep(self.random.uniform(0, 0.3))
        except Exception:  # Whatever it is: the main thread tells it.
            self.failure = traceback.format_exc()

    def act(self):
        jobs = self.api.call("GET", "/jobs?limit=60")["items"]
        unfinished = [job for job in jobs if job["state"] != "finished"]
        what = self.random.random()
        if what < 0.15 and unfinished:
            mode = self.random.choice(["stop", "stop", "abort"])
            # It may have finished meanwhile.
            self.api.call("POST", f"/jobs/{self.random.choice(unfinished)['id']}/stop", {"mode": mode}, also=[409])
        elif what < 0.18 and len(jobs) > len(unfinished):
            finished = [job for job in jobs if job["state"] == "finished"]
            self.api.call("POST", f"/jobs/{self.random.choice(finished)['id']}/retry", also=[409])
        elif len(unfinished) < MAX_OPEN:
            self.start_job()

    def start_job(self):
        label = str(len(self.started) + 1)
        burst = self.random.random() < 0.1
        given = {
            "record": str(self.record),
            "mode": self.random.choices(list(MODES), MODES.values())[0],
            "lines": 4000 if burst else self.random.randrange(0, 60),
            "pace_ms": 0 if burst else self.random.choice([1, 10, 50]),
            "width": 500 if burst else self.random.choice([0, 40]),
        }
        request = {
            "process": self.random.choice(["once", "again"]),
            "target": {"group": "all"},
            "input": given,
            "labels": {"number": label},
        }
        job = self.api.call("POST", "/jobs", request)
        self.started[label] = (job["id"], given)

    def end(self):
        self.enough.set()
        self.join(timeout=180)
        return "the calls of the people do not end" if self.is_alive() else self.failure
