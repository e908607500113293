"""What goes out is what the published tools expect: webhooks are checked by the verifiers of Standard Webhooks for Python and
for JavaScript, the body as CloudEvents have it, and mails are taken by a real mail server.
"""

import email
import email.policy
import http.server
import json
import os
import pathlib
import queue
import socket
import subprocess
import threading

from aiosmtpd.controller import Controller
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from coordinator import ROOT, Coordinator, package

SECONDS = 30
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
NODE = (ROOT / TARGET / "test-tools" / "node").resolve()
VERIFY = """
import { Webhook } from "standardwebhooks";
import { readFileSync } from "node:fs";
const { secret, headers, body } = JSON.parse(readFileSync(0, "utf8"));
try {
  new Webhook(secret).verify(body, headers);
  console.log("good");
} catch (error) {
  console.log(`bad: ${error.message}`);
}
"""


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent, and takes it unless told otherwise."""

    received = queue.Queue()
    statuses = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.put((dict(self.headers.items()), body.decode()))
        self.send_response(self.statuses.pop(0) if self.statuses else 204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Mailbox:
    """Keeps what it is sent."""

    def __init__(self):
        self.mails = queue.Queue()

    async def handle_DATA(self, server, session, envelope):
        self.mails.put((envelope.rcpt_tos, email.message_from_bytes(envelope.content, policy=email.policy.default)))
        return "250 taken"


def verified_by_node(secret, headers, body):
    wanted = json.dumps({"secret": secret, "headers": headers, "body": body})
    arguments = ["node", "--input-type=module", "-e", VERIFY]
    said = subprocess.run(arguments, input=wanted, cwd=NODE, capture_output=True, text=True, timeout=60, check=True)
    return said.stdout.strip()


def check_signature(secret, headers, body):
    lower = {name.lower(): value for name, value in headers.items()}
    Webhook(secret).verify(body, lower)
    assert verified_by_node(secret, lower, body) == "good"
    changed = body.replace("job", "jab", 1)
    try:
        Webhook(secret).verify(changed, lower)
        raise AssertionError("a changed body was taken")
    except WebhookVerificationError:
        pass
    assert verified_by_node(secret, lower, changed).startswith("bad")


def check_event(headers, body):
    """Structured mode of CloudEvents 1.0: the media type, and the members that must be there."""
    event = json.loads(body)
    assert headers["content-type"] == "application/cloudevents+json", headers
    assert event["specversion"] == "1.0"
    assert all(isinstance(event[name], str) and event[name] for name in ["id", "source", "type", "subject", "time"])
    assert event["datacontenttype"] == "application/json" and isinstance(event["data"], dict)
    assert all(name.isalnum() and name.islower() for name in event), "names of attributes are lower-case letters and digits"
    return event


def fail_a_job(c):
    token = c.json("POST", "/robots", {"name": "accounting-01"})["join_token"]
    host = {"hostname": "accounting-01", "os": "linux"}
    robot = c.json("POST", "/agent/join", {"token": token, "machine_id": "m", "host": host}, key="none")["key"]
    job = c.json("POST", "/jobs", {"process": "invoices", "target": {"group": "all"}})["id"]
    c.json("POST", "/agent/next", {"free": 1, "wait_seconds": 5, "known": []}, key=robot)
    c.call("POST", f"/agent/jobs/{job}/accept", {"attempt": 1}, key=robot)
    cause = {"by": "process", "code": "exit_code", "message": "the process ended with exit code 1"}
    report = {"attempt": 1, "outcome": "failed", "cause": cause}
    c.call("POST", f"/agent/jobs/{job}/finish", report, key=robot)
    return job


def run(c, url, mailbox):
    c.json("POST", "/processes", {"name": "invoices"})
    headers = {"Content-Type": "application/zip"}
    c.json("POST", "/processes/invoices/versions?activate=true", data=package(), headers=headers)
    hook = c.json("POST", "/webhooks", {"name": "chat", "url": url, "events": ["job.finished", "alert.raised"]})
    channels = [{"email": ["operations@example.com"]}, {"console": True}]
    c.json("POST", "/alerts", {"name": "failures", "when": "job_failed", "channels": channels})
    assert c.json("POST", "/webhooks/chat/test")["status"] == 204
    assert check_event(*Receiver.received.get(timeout=SECONDS))["type"] == "webhook.test"
    Receiver.statuses.append(500)
    job = fail_a_job(c)
    seen = {}
    # One of them is refused the first time and comes again under its id.
    for _ in range(3):
        headers, body = Receiver.received.get(timeout=SECONDS)
        event = check_event(headers, body)
        assert event["id"] == headers["webhook-id"]
        seen.setdefault(event["type"], []).append((headers["webhook-id"], body))
        if event["type"] == "job.finished":
            assert event["subject"] == f"job/{job}" and event["data"]["outcome"] == "failed"
            check_signature(hook["secret"], headers, body)
    assert sorted(seen) == ["alert.raised", "job.finished"], seen
    assert all(len(set(sent)) == 1 for sent in seen.values()), "the same message is the same each time"
    to, mail = mailbox.mails.get(timeout=SECONDS)
    assert to == ["operations@example.com"] and mail["from"] == "Drover <drover@example.com>", mail.items()
    assert "invoices has failed" in mail["subject"] and job in mail.get_content()


def main():
    mailbox = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mail_server = Controller(mailbox, hostname="127.0.0.1", port=port)
    mail_server.start()
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    settings = {
        "DROVER_WEBHOOKS__ALLOW_PRIVATE_TARGETS": "true",
        "DROVER_MAIL__HOST": "127.0.0.1",
        "DROVER_MAIL__PORT": str(port),
        "DROVER_MAIL__TLS": "none",
        "DROVER_MAIL__FROM": "Drover <drover@example.com>",
    }
    try:
        with Coordinator(settings) as coordinator:
            run(coordinator, f"http://127.0.0.1:{receiver.server_address[1]}/hook", mailbox)
    finally:
        receiver.shutdown()
        mail_server.stop()
    print("Webhooks are signed as both verifiers want it, and mails arrive.")


if __name__ == "__main__":
    main()
