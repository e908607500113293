"""Those who use the coordinator. Each is one person and one robot who do one thing after another and know what they were told.

What one touches nobody else does. So at any moment one call at the most is open for each, and all that is there must be what
was acknowledged, with that call or without it. What became of it is found out as a client does it: by asking again.
"""

import base64
import collections
import hashlib
import http.client
import io
import json
import random
import threading
import traceback
import urllib.parse
import uuid
import zipfile

MIB = 1 << 20
CAPACITY = 40
# Enough to make things of every kind, few enough to be read back in a moment.
MAX_JOBS, MAX_LARGE, MAX_VERSIONS = 24, 1, 8
KEPT_REPLAYS = 4
# What a crew knows; the next one goes on with it.
KNOWLEDGE = ("random", "name", "robot", "robot_key", "token", "process", "versions", "jobs", "files", "replays", "open", "made")
TIMEOUT_SECONDS = 60
TIME = "2026-01-01T00:00:00.000Z"

# How often each does what, by the names of the methods below.
MIXED = {
    "start": 16, "start_large": 1, "start_many": 2, "next": 8, "accept": 16, "log": 16, "log_large": 1, "artifact": 3, "finish": 8,
    "finish_large": 1, "stop": 2, "delete": 8, "heartbeat": 4, "patch": 8, "upload": 3, "delete_version": 2, "join": 1,
    "put_file": 6, "copy_file": 2, "delete_file": 2,
}  # fmt: skip
LARGE = {"start_large": 2, "start_wide": 8, "next": 2, "accept": 4, "finish_large": 1, "stop": 6, "delete": 8, "patch": 1}
LOGS = {"start": 2, "next": 2, "accept": 4, "log_large": 6, "log": 4, "finish": 1, "delete": 1}
UPLOADS = {"upload": 4, "put_file": 8, "copy_file": 2, "delete_file": 3, "delete_version": 3, "start": 1, "next": 1, "accept": 1, "artifact": 4, "finish": 1, "delete": 1}


class Wrong(Exception):
    """The coordinator did not keep its word."""


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body) if self.body else None


class Call:
    """A request that may be sent again, and what its success means."""

    def __init__(self, kind, method, path, body=None, *, key=None, then=None, binary=False, also=(), many=None):
        self.kind, self.method, self.path = kind, method, path
        self.body = body if binary or body is None else json.dumps(body, ensure_ascii=False).encode()
        self.headers = {} if body is None else {"Content-Type": "application/octet-stream" if binary else "application/json"}
        # Robots' calls can be repeated without one.
        if method == "POST" and key is None:
            self.headers["Idempotency-Key"] = str(uuid.uuid4())
        self.key, self.then, self.also = key, then or (lambda answer: None), also
        # The mark and number of the jobs that it starts.
        self.many = many
        self.job = None


class Client:
    """One connection with answers as they came."""

    def __init__(self, coordinator):
        self.coordinator, self.connection = coordinator, None

    def send(self, call):
        headers = {"Authorization": f"Bearer {call.key or self.coordinator.key}"} | call.headers
        if call.key == "":
            del headers["Authorization"]
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.coordinator.port, timeout=TIMEOUT_SECONDS)
        try:
            self.connection.request(call.method, f"/api/v1{call.path}", call.body, headers)
            answer = self.connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None


class Job:
    """What was promised of one job."""

    def __init__(self, view, given):
        self.id, self.input, self.mark = view["id"], given, given["mark"]
        self.lines, self.files, self.output = [], {}, None
        self.state, self.outcome, self.attempt = view["state"], view["outcome"], view["attempt"]

    def follow(self, view):
        self.state, self.outcome, self.attempt = view["state"], view["outcome"], view["attempt"]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Crew:
    """Works until the power goes; `again` gives one that goes on with the same promises."""

    def __init__(self, coordinator, seed, weights, before=None, full_is_fine=False):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.coordinator, self.seed, self.weights, self.full_is_fine = coordinator, seed, weights, full_is_fine
        self.client = Client(coordinator)
        self.failure = None
        self.enough = threading.Event()
        self.done = collections.Counter()
        if before:
            for name in KNOWLEDGE:
                setattr(self, name, getattr(before, name))
            return
        self.random = random.Random(seed)
        self.name = f"crew-{seed}"
        self.jobs, self.versions, self.files, self.replays = {}, {}, {}, []
        self.open, self.made = None, 0

    def again(self, weights):
        return Crew(self.coordinator, self.seed, weights, self, self.full_is_fine)

    # ---- Working ----

    def settle_in(self):
        """A robot, a process and a first version, before anything is disturbed."""
        self.robot_key = ""
        self.token = self.do(Call("join-token", "POST", "/join-tokens", {})).json()["token"]
        self.do(self.join())
        self.do(Call("robot", "PATCH", f"/robots/{self.robot}", {"capacity": CAPACITY}))
        # What is asked to stop waits for its robot, and for nothing else.
        request = {"name": self.name, "defaults": {"stop_grace_seconds": 1_000_000}}
        self.do(Call("process", "POST", "/processes", request, then=self.took_process))
        self.do(self.upload())
        self.do(Call("storage", "POST", "/storages", {"name": self.name}))

    def go(self):
        self.thread.start()

    def end(self):
        """Waits until its last call has come to an end."""
        self.enough.set()
        self.thread.join()

    def run(self):
        try:
            while not self.enough.is_set():
                self.do(self.choose())
        except (OSError, http.client.HTTPException):
            pass  # The power went.
        except Exception:  # Whatever it is: the main thread tells it.
            self.failure = traceback.format_exc()
        finally:
            self.client.close()

    def do(self, call):
        self.open = call
        answer = self.client.send(call)
        # What nobody could write was not done, and that is a promise as well.
        if answer.status == 507 and self.full_is_fine:
            problem = answer.json()
            if problem["type"] != "out_of_space" or not problem["detail"]:
                raise Wrong(f"{call.kind} was refused for lack of space with {answer.body}")
            self.done[f"{call.kind} 507"] += 1
            # What is refused is not read to its end; then the connection is of no further use.
            self.client.close()
        elif answer.status < 300 or answer.status in call.also:
            self.took(call, answer)
        else:
            raise Wrong(f"{self.name}: {call.kind}: {call.method} {call.path}: {answer.status} {answer.body[:500]}")
        self.open = None
        return answer

    def took(self, call, answer):
        if answer.status < 300:
            call.then(answer)
            if "Idempotency-Key" in call.headers:
                self.replays = [*self.replays[-KEPT_REPLAYS:], (call, answer)]
        self.done[call.kind] += 1
        self.done["of the largest size"] += call.kind in ("start", "finish") and len(call.body) >= MIB

    def choose(self):
        while True:
            kind = self.random.choices(list(self.weights), self.weights.values())[0]
            if call := getattr(self, kind)():
                return call

    def pick(self, *states):
        fitting = [job for job in self.jobs.values() if job.state in states]
        return self.random.choice(fitting) if fitting else None

    def text(self, bytes_):
        return self.random.randbytes(bytes_ // 2 + 1).hex()[:bytes_]

    # ---- Each makes one call, or none if there is nothing to do it with ----

    def join(self):
        """Joining again under the same machine id gives the same robot, with a new key."""
        host = {"hostname": self.name, "os": "linux"}
        request = {"token": self.token, "machine_id": self.name, "host": host}

        def then(answer):
            joined = answer.json()
            self.robot, self.robot_key = joined["robot"]["id"], joined["key"]

        return Call("join", "POST", "/agent/join", request, key="", then=then)

    def start(self, bytes_=None, count=1):
        if len(self.jobs) + count > MAX_JOBS:
            return None
        self.made += 1
        given = {"mark": f"{self.name}-{self.made}", "text": ""}
        bytes_ = bytes_ or self.random.choice([100, 100, 2000, 70_000])
        # Exactly so many bytes as JSON.
        given["text"] = self.text(max(0, bytes_ - len(json.dumps(given, separators=(",", ":")))))
        request = {"process": self.name, "target": {"robot": self.robot}, "input": given, "labels": {"mark": given["mark"]}}

        def then(answer):
            views = answer.json()
            for view in views["items"] if count > 1 else [views]:
                self.jobs[view["id"]] = Job(view, given)

        many = (given["mark"], count)
        return Call("start", "POST", "/jobs", request | ({"count": count} if count > 1 else {}), then=then, many=many)

    def start_wide(self):
        return self.start(60_000)

    def start_large(self):
        """With the largest input that there can be."""
        if sum(len(job.input["text"]) > MIB // 2 for job in self.jobs.values()) >= MAX_LARGE:
            return None
        return self.start(MIB)

    def start_many(self):
        return self.start(self.random.choice([100, 60_000]), self.random.randrange(2, 20))

    def next(self):
        request = {"free": self.random.randrange(1, 6), "wait_seconds": 0, "known": []}
        request["known"] = [job.id for job in self.jobs.values() if job.state in ("assigned", "running", "stopping")]
        if len(request["known"]) >= CAPACITY - 6:
            return None

        def then(answer):
            for given in (answer.json() or {"assignments": []})["assignments"]:
                self.jobs[given["job"]["id"]].follow(given["job"])

        return Call("next", "POST", "/agent/next", request, key=self.robot_key, then=then)

    def accept(self):
        if not (job := self.pick("assigned")):
            return None
        path, then = f"/agent/jobs/{job.id}/accept", lambda answer: setattr(job, "state", "running")
        return self.of_job(job, Call("accept", "POST", path, {"attempt": job.attempt}, key=self.robot_key, then=then))

    def log(self, lines=None, bytes_=None):
        if not (job := self.pick("running", "stopping")):
            return None
        count = lines or self.random.choice([1, 10, 200])
        width = bytes_ or self.random.choice([0, 60, 600])
        first = len(job.lines) + 1
        new = [{"time": TIME, "level": "info", "message": f"{first + place} {self.text(width)}"} for place in range(count)]

        def then(answer):
            # After an answer that was lost the robot may ask again; what it gets is the same.
            if answer.json()["next_seq"] != first + count:
                raise Wrong(f"after the lines {first} to {first + count - 1} of {job.id} the coordinator wants {answer.body}")
            job.lines += [line["message"] for line in new]

        chunk = {"attempt": job.attempt, "first_seq": first, "lines": new}
        return self.of_job(job, Call("log", "POST", f"/agent/jobs/{job.id}/logs", chunk, key=self.robot_key, then=then))

    def log_large(self):
        """Nearly the largest chunk; two of them are sealed while the job runs."""
        return self.log(44, 60_000)

    def artifact(self):
        if not (job := self.pick("running", "stopping")):
            return None
        path = f"данные/{self.random.randrange(3)}.bin"
        content = self.random.randbytes(self.random.choice([0, 5000, MIB, 4 * MIB]))
        then = lambda answer: job.files.update({path: sha256(content)})
        address = f"/agent/jobs/{job.id}/files/{urllib.parse.quote(path)}"
        return self.of_job(job, Call("artifact", "PUT", address, content, key=self.robot_key, then=then, binary=True))

    def put_file(self):
        """A new file, or other content under a path in use; readers must find the one or the other whole."""
        path = f"входящие/{self.random.randrange(6)} & ?.bin"
        content = self.random.randbytes(self.random.choice([0, 5000, MIB, 6 * MIB]))
        then = lambda answer: self.files.update({path: sha256(content)})
        return Call("put-file", "PUT", self.address(path), content, then=then, binary=True)

    def copy_file(self):
        if not self.files:
            return None
        path = self.random.choice(list(self.files))
        to = f"копии/{self.random.randrange(3)}"
        request = {"path": path, "to_path": to, "replace": True}
        then = lambda answer: self.files.update({to: self.files[path]})
        return Call("copy-file", "POST", f"/storages/{self.name}/copy", request, then=then)

    def delete_file(self):
        if not self.files:
            return None
        path = self.random.choice(list(self.files))
        return Call("delete-file", "DELETE", self.address(path), then=lambda answer: self.files.pop(path))

    def address(self, path):
        return f"/storages/{self.name}/files/{urllib.parse.quote(path)}"

    def finish(self, bytes_=None):
        if not (job := self.pick("running", "stopping")):
            return None
        bytes_ = bytes_ or self.random.choice([2, 500, 200_000])
        output = {"text": self.text(bytes_ - 11)} if bytes_ > 20 else None
        cause = {"by": "process", "code": "completed", "message": ""}
        report = {"attempt": job.attempt, "outcome": "succeeded", "cause": cause, "output": output}

        def then(answer):
            job.state, job.outcome, job.output = "finished", "succeeded", output

        return self.of_job(job, Call("finish", "POST", f"/agent/jobs/{job.id}/finish", report, key=self.robot_key, then=then))

    def finish_large(self):
        """With the largest output that there can be."""
        if sum(job.output is not None and len(job.output["text"]) > MIB // 2 for job in self.jobs.values()) >= MAX_LARGE:
            return None
        return self.finish(MIB)

    def stop(self):
        if not (job := self.pick("waiting", "running")):
            return None
        then = lambda answer: job.follow(answer.json())
        return self.of_job(job, Call("stop", "POST", f"/jobs/{job.id}/stop", {"mode": "stop"}, then=then))

    def delete(self):
        if not (job := self.pick("finished")):
            return None
        call = Call("delete", "DELETE", f"/jobs/{job.id}")
        call.then = lambda answer: self.jobs.pop(job.id)
        return self.of_job(job, call)

    def of_job(self, job, call):
        call.job = job.id
        return call

    def heartbeat(self):
        health = {"memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3}
        return Call("heartbeat", "POST", "/agent/heartbeat", {"health": health, "jobs": []}, key=self.robot_key)

    def patch(self):
        description = self.text(self.random.choice([10, 2000]))
        return Call("patch", "PATCH", f"/processes/{self.name}", {"description": description}, then=self.took_process)

    def took_process(self, answer):
        self.process = {name: answer.json()[name] for name in ("id", "name", "description", "revision")}

    def upload(self):
        if len(self.versions) >= MAX_VERSIONS:
            return None
        if self.versions and self.random.random() < 0.3:
            # The same bytes once more: they are kept once, and gone with the last version that has them.
            content = self.random.choice(list(self.versions.values()))["content"]
        else:
            content = self.package(self.random.choice([100, 50_000, MIB, 3 * MIB]))
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()

        def then(answer):
            view = answer.json()
            self.versions[view["number"]] = {"id": view["id"], "sha256": sha256(content), "content": content, "active": True}
            for number, version in self.versions.items():
                version["active"] = number == view["number"]

        call = Call("upload", "POST", f"/processes/{self.name}/versions?activate=true", content, then=then, binary=True)
        call.headers |= {"Content-Type": "application/zip", "Content-Digest": f"sha-256=:{digest}:"}
        return call

    def package(self, bytes_):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("process.toml", f'[process]\nname = "{self.name}"\n\n[run]\ncommand = ["true"]\n')
            file.writestr("content", self.random.randbytes(bytes_))
        return out.getvalue()

    def delete_version(self):
        """Most are in use by jobs; then it must be refused."""
        old = [number for number, version in self.versions.items() if not version["active"]]
        if not old:
            return None
        number = self.random.choice(old)
        call = Call("delete-version", "DELETE", f"/processes/{self.name}/versions/{number}", also=(409,))
        call.then = lambda answer: self.versions.pop(number)
        return call
