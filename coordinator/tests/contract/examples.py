"""The examples of the document work: each request body that it shows is sent as it stands, in an order that makes sense.

What an example cannot know (a join token's text, the numbers of jobs) is put in. Every example must have been sent.
"""

import time

import requests

from coordinator import Coordinator, package

JSON = "application/json"


class Examples:
    """Calls by the ids of their operations, with the bodies of the document."""

    def __init__(self, coordinator):
        self.c = coordinator
        document = coordinator.json("GET", "/openapi.json")
        self.operations = {
            operation["operationId"]: (method.upper(), path.removeprefix("/api/v1"), operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        }
        self.sent = set()

    def send(self, name, key=None, change=None, query="", wanted=None, **names):
        method, path, operation = self.operations[name]
        body = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("example")
        if body is not None:
            self.sent.add(name)
            body = body | (change or {})
        good = wanted or min(int(status) for status in operation["responses"])
        answer = self.c.call(method, path.format(**names) + query, body, key=key, wanted=good)
        return answer.json() if answer.content else None

    def not_sent(self):
        with_example = {
            name
            for name, (_, _, operation) in self.operations.items()
            if JSON in operation.get("requestBody", {}).get("content", {})
        }
        return with_example - self.sent


def fleet(e):
    e.send("create_robot_group")
    robot = e.send("create_robot")
    token = e.send("create_join_token")["token"]
    joined = e.send("join_robot", change={"token": token})
    e.send("update_robot", robot="accounting-01")
    e.send("update_robot_group", group="accounting")
    e.send("add_robot_to_group", group="accounting", robot=joined["robot"]["name"])
    for name in ["pause_robot", "resume_robot", "disable_robot", "enable_robot"]:
        e.send(name, robot="accounting-01")
    for name in ["pause_robot_group", "resume_robot_group", "disable_robot_group", "enable_robot_group"]:
        e.send(name, group="accounting")
    e.send("remove_robot_from_group", group="accounting", robot=robot["id"])
    return joined["key"]


def work(e, robot_key):
    e.send("create_process")
    versions = "/processes/invoices/versions?label=1.0.0&activate=true"
    e.c.call("POST", versions, data=package(), headers={"Content-Type": "application/zip"}, wanted=201)
    e.send("update_process", process="invoices")
    e.send("update_version", process="invoices", version="1")
    e.send("activate_version", process="invoices", version="1")
    job = e.send("start_jobs")["id"]
    e.send("explain_job", job=job)
    assigned = e.send("await_assignments", key=robot_key)["assignments"]
    assert [one["job"]["id"] for one in assigned] == [job]
    e.send("accept_job", key=robot_key, job=job)
    e.send("send_heartbeat", key=robot_key, change={"jobs": [{"job_id": job, "attempt": 1, "phase": "running"}]})
    e.send("append_job_log", key=robot_key, job=job)
    e.send("write_log_line")
    e.send("finish_job", key=robot_key, job=job)
    assert e.send("get_job", job=job)["outcome"] == "succeeded"
    other = e.send("start_jobs")["id"]
    e.send("stop_job", job=other)
    third = e.send("start_jobs")["id"]
    e.send("close_job", job=third)
    e.send("retry_job", job=third)


def resources(e):
    e.send("create_resource")
    e.send("update_resource", resource="erp-login")
    e.send("set_resource_value", resource="erp-login")
    e.send("set_resource_override", resource="erp-login", scope="group", holder="accounting")
    wanted = {"username": "robot", "password": "another horse"}
    assert e.send("get_resource_value", resource="erp-login", query="?group=accounting")["value"] == wanted
    assert e.send("list_audit", query="?noun=resource&verb=read_value")["items"]
    assert e.send("verify_audit")["sound"]


def storage(e):
    folder = e.send("create_storage")["id"]
    e.send("update_storage", folder=folder, change={"read_only": False})
    e.c.call("PUT", f"/storages/{folder}/files/in/4711.pdf", data=b"an invoice", wanted=201)
    e.send("copy_file", folder=folder, change={"to_path": "in/copy.pdf"})
    e.send("move_file", folder=folder)
    link = e.send("create_link", folder=folder)["url"]
    assert requests.get(link, timeout=60).content == b"an invoice"


def tasks(e):
    queue = e.send("create_queue")["name"]
    e.send("update_queue", queue=queue)
    e.send("pause_queue", queue=queue)
    e.send("resume_queue", queue=queue)

    def take(number):
        added = e.send("add_task", queue=queue, change={"reference": f"INV-{number}"})["id"]
        taken = e.send("take_tasks", queue=queue)["items"]
        assert [task["id"] for task in taken] == [added]
        return added

    task = take(1)
    for name in ["renew_task", "checkpoint_task", "comment_task", "update_task"]:
        e.send(name, task=task)
    assert e.send("succeed_task", task=task)["task"]["state"] == "succeeded"
    failed = take(2)
    assert e.send("fail_task", task=failed)["error"]["kind"] == "business"
    e.send("act_on_tasks")
    assert e.send("retry_task", task=failed)["state"] == "new"
    later = e.c.json("POST", f"/queues/{queue}/take", {})["items"][0]
    e.send("postpone_task", task=later["id"], change={"attempt": later["attempt"]})


def triggers(e):
    made = e.send("create_trigger")
    e.send("update_trigger", trigger=made["name"])
    for name in ["preview_trigger", "fire_trigger", "disable_trigger", "enable_trigger"]:
        e.send(name, trigger=made["name"])
    # The example's time may lie in the future of whoever tries it.
    past = {"from": "2026-01-05T00:00:00.000Z", "to": "2026-01-06T00:00:00.000Z"}
    assert e.send("backfill_trigger", change=past, trigger=made["id"])["fired"] == 1
    assert e.send("list_fires", trigger=made["id"])["items"]


def hooks(e):
    """Triggers that are called from outside."""
    hook = {"process": "invoices", "target": {"group": "all"}, "kind": "webhook"}
    address = e.c.json("POST", "/triggers", hook | {"name": "called", "webhook": {"auth": "none"}}, wanted=201)["url"]
    assert e.send("call_webhook", hook=address.rsplit("/", 1)[1], wanted=202)["job_ids"]
    e.c.json("POST", "/triggers", hook | {"name": "signed", "webhook": {"auth": "signature"}}, wanted=201)
    assert e.send("rotate_trigger_secret", trigger="signed")["secret"].startswith("whsec_")


def outward(e, robot_key):
    """Who is told of what happens."""
    webhook = e.send("create_webhook")["name"]
    e.send("update_webhook", webhook=webhook)
    assert e.send("rotate_webhook_secret", webhook=webhook)["secret"].startswith("whsec_")
    # No mail server is known here.
    alert = e.send("create_alert", change={"channels": [{"console": True}]})["id"]
    # Some job that waits by now.
    job = e.send("await_assignments", key=robot_key)["assignments"][0]["job"]["id"]
    e.send("accept_job", key=robot_key, job=job)
    failure = {"outcome": "failed", "error": {"kind": "business", "message": "the price list is missing"}}
    e.send("finish_job", key=robot_key, job=job, change=failure | {"output": None})
    end = time.monotonic() + 30
    while not (raised := e.c.json("GET", "/alerts/raised")["items"]):
        assert time.monotonic() < end, "the alert is not raised"
        time.sleep(0.1)
    e.send("acknowledge_alert", raised=raised[0]["id"])
    e.send("update_alert", alert=alert)


def people(e):
    role = e.send("create_role")["id"]
    e.send("update_role", role=role)
    # A user without a password gets a key instead.
    key = e.send("create_user", change={"password": None})["key"]
    e.send("update_user", user="ann", change={"password": "correct horse battery"})
    assert e.send("sign_in")["user"]["login"] == "ann"
    e.send("change_own_password", key=key)
    account = e.send("create_account")["account"]["id"]
    assert e.send("change_account", id=account)["disabled"]


def keys(e):
    e.send("update_account")
    e.send("create_key")
    assert e.send("reveal_own_key")["key"] == e.c.key
    # From here on the old key lives in its grace only.
    new = e.send("refresh_own_key")["key"]
    e.send("get_me")
    newest = e.send("assign_own_key", key=new)["key"]
    e.c.call("GET", "/account/me", key=new, wanted=401)
    assert e.send("get_me", key=newest)["name"] == "admin"


def main():
    with Coordinator() as coordinator:
        e = Examples(coordinator)
        robot_key = fleet(e)
        work(e, robot_key)
        resources(e)
        storage(e)
        tasks(e)
        triggers(e)
        hooks(e)
        outward(e, robot_key)
        people(e)
        keys(e)
        assert not e.not_sent(), f"these examples were not tried: {sorted(e.not_sent())}"
        print(f"{len(e.sent)} examples of request bodies work as they stand.")


if __name__ == "__main__":
    main()
