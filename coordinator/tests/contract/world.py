"""What the calls of the contract tests need to find: robots, a process, and jobs in every stage of their life."""

import time

import requests

from coordinator import package

HOST = {"hostname": "accounting-01", "os": "linux", "labels": {"os": "linux"}, "capacity": 20}
SPARE = 12


class World:
    """Names and ids, made through the API alone."""

    def __init__(self, coordinator):
        self.c = coordinator
        c = coordinator
        c.json("POST", "/robot-groups", {"name": "accounting"})
        token = c.json("POST", "/robots", {"name": "accounting-01", "groups": ["accounting"], "capacity": 20})["join_token"]
        self.robot_key = self.join(token, "accounting-01")
        c.json("POST", "/robots", {"name": "never-joined"})
        c.json("POST", "/processes", {"name": "invoices"})
        version = c.json(
            "POST",
            "/processes/invoices/versions?label=1.0.0&activate=true",
            data=package(),
            headers={"Content-Type": "application/zip"},
        )
        self.sha256 = version["sha256"]
        self.finished = self.start("accounting")
        self.run_to_its_end(self.finished)
        self.running = [self.start("accounting") for _ in range(6)]
        for job in self.take():
            self.agent("POST", f"/agent/jobs/{job['job']['id']}/accept", {"attempt": job["attempt"]})
        self.waiting = [self.start(None) for _ in range(6)]
        self.make_trigger("nightly")
        hook = {"name": "called", "kind": "webhook", "process": "invoices", "target": {"group": "accounting"}}
        self.hook = c.json("POST", "/triggers", hook | {"webhook": {"auth": "none"}})["url"].rsplit("/", 1)[1]
        self.join_token = c.json("POST", "/join-tokens", {"uses": 10000})["token"]
        self.storage = c.json("POST", "/storages", {"name": "accounting/invoices"})["id"]
        c.call("PUT", f"/storages/{self.storage}/files/report.html", data=b"<p>300 checked</p>", wanted=201)
        self.links = {verb: self.link(verb) for verb in ["get", "put"]}
        self.spare = {noun: self.make_spare(noun) for noun in ["robots", "robot-groups", "processes", "storages", "queues"]}
        c.json("POST", "/resources", {"name": "erp-login", "kind": "secret", "value": "correct horse"})
        self.spare["resources"] = [f"spare-{n}" for n in range(SPARE)]
        for name in self.spare["resources"]:
            c.json("POST", "/resources", {"name": name, "kind": "text", "value": name})
        c.json("POST", "/queues", {"name": "invoices", "max_attempts": 1000})
        self.tasks = self.make_tasks()
        self.spare["triggers"] = [self.make_trigger(f"spare-{number}") for number in range(SPARE)]
        self.make_outbound()
        c.json("POST", "/roles", {"name": "clerks", "permissions": ["job:read", "queue:*"]})
        c.json("POST", "/users", {"login": "clerk", "roles": ["clerks"]})
        for n in range(SPARE):
            c.json("POST", "/roles", {"name": f"spare-{n}", "permissions": ["job:read"]})
            c.json("POST", "/users", {"login": f"spare-{n}", "roles": []})
        self.spare["roles"] = self.spare["users"] = [f"spare-{n}" for n in range(SPARE)]
        accounts = [{"name": f"spare {n}", "admin": {"login": "admin"}} for n in range(SPARE)]
        self.spare["accounts"] = [c.json("POST", "/accounts", account)["account"]["id"] for account in accounts]
        self.spare["sessions"] = ["0192f6c4-7a10-7cc3-98c4-dc0c0c07398f"]
        self.spare["keys"] = [c.json("POST", "/keys", {"name": f"spare {n}"})["id"] for n in range(SPARE)]
        self.spare["join-tokens"] = [c.json("POST", "/join-tokens", {})["id"] for _ in range(SPARE)]

    def make_outbound(self):
        """Webhooks at an address that nobody listens at, with something on its way, and alerts, one of them raised."""
        hook = {"url": "http://127.0.0.1:9/", "events": ["trigger.fired"]}
        self.spare["webhooks"] = [f"spare-{number}" for number in range(SPARE)]
        for name in ["chat", *self.spare["webhooks"]]:
            self.c.json("POST", "/webhooks", hook | {"name": name})
        self.c.json("POST", "/triggers/nightly/fire")
        self.delivery = self.until(lambda: self.c.json("GET", "/webhooks/chat/deliveries")["items"])[0]["id"]
        alert = {"when": "robot_offline", "channels": [{"console": True}]}
        self.spare["alerts"] = [f"spare-{number}" for number in range(SPARE)]
        for name in self.spare["alerts"]:
            self.c.json("POST", "/alerts", alert | {"name": name})
        self.c.json("POST", "/alerts", {"name": "waiting", "when": "job_waiting", "after_seconds": 1} | {"channels": alert["channels"]})
        self.raised = self.until(lambda: self.c.json("GET", "/alerts/raised")["items"])[0]["id"]

    @staticmethod
    def until(look):
        """What is found as soon as there is something."""
        ends_at = time.monotonic() + 30
        while not (found := look()):
            assert time.monotonic() < ends_at, "nothing comes"
            time.sleep(0.1)
        return found

    def make_tasks(self):
        """Tasks that wait, that are held and that have ended."""
        tasks = [self.c.json("POST", "/queues/invoices/tasks", {"payload": {"n": n}})["id"] for n in range(SPARE)]
        held = self.c.json("POST", "/queues/invoices/take", {"max": SPARE // 2})["items"]
        for task in held[: SPARE // 4]:
            self.c.json("POST", f"/tasks/{task['id']}/succeed", {"attempt": 1, "output": {"booked": True}})
        return tasks

    def join(self, token, machine):
        joined = requests.post(
            f"{self.c.url}/api/v1/agent/join", json={"token": token, "machine_id": machine, "host": HOST}, timeout=60
        )
        assert joined.status_code == 201, joined.text
        return joined.json()["key"]

    def link(self, verb):
        wanted = {"path": "report.html", "verb": verb, "expires_in_seconds": 3600}
        return self.c.json("POST", f"/storages/{self.storage}/links", wanted)["url"].rsplit("/", 1)[1]

    def agent(self, *arguments, **more):
        return self.c.call(*arguments, key=self.robot_key, **more)

    def make_spare(self, noun):
        names = [f"spare-{number}" for number in range(SPARE)]
        for name in names:
            self.c.json("POST", f"/{noun}", {"name": name})
        return names

    def make_trigger(self, name):
        trigger = {"name": name, "process": "invoices", "target": {"group": "accounting"}, "kind": "schedule"}
        return self.c.json("POST", "/triggers", trigger | {"schedule": {"cron": "0 6 1 1 *"}})["id"]

    def start(self, group):
        target = {"group": group} if group else {"robot": "never-joined"}
        return self.c.json("POST", "/jobs", {"process": "invoices", "target": target, "input": {"limit": 100}})["id"]

    def take(self):
        answer = self.agent("POST", "/agent/next", {"free": 20, "wait_seconds": 5, "known": []})
        return answer.json()["assignments"]

    def run_to_its_end(self, job):
        assigned = self.take()
        assert [one["job"]["id"] for one in assigned] == [job]
        place, attempt = f"/agent/jobs/{job}", assigned[0]["attempt"]
        self.agent("POST", f"{place}/accept", {"attempt": attempt})
        line = {"time": "2026-11-23T08:05:03.000Z", "level": "info", "message": "300 invoices to check"}
        self.agent("POST", f"{place}/logs", {"attempt": attempt, "first_seq": 1, "lines": [line]})
        self.agent("PUT", f"{place}/files/report.html", data=b"<p>300 checked</p>")
        cause = {"by": "process", "code": "completed", "message": "the process ended with exit code 0"}
        report = {"attempt": attempt, "outcome": "succeeded", "output": {"checked": 300}, "cause": cause}
        self.agent("POST", f"{place}/finish", report)
