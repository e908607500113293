"""What the published library of Standard Webhooks signs is accepted by a trigger of the kind webhook, once for each message,
and nothing else is.
"""

import datetime
import json
import pathlib

import requests
from standardwebhooks.webhooks import Webhook

from coordinator import Coordinator
from world import World

BODY = json.dumps({"invoice": 1007, "supplier": "Hafenlogistik Bremen KG — Ümläute, 漢字"}, ensure_ascii=False)


def now(seconds=0):
    return datetime.datetime.now(tz=datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


def send(url, secret, message, body=BODY, at=None, more=""):
    """As a sender that uses the library would."""
    at = at or now()
    headers = {
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message, at, body) + more,
        "content-type": "application/json",
    }
    return requests.post(url, data=body.encode(), headers=headers, timeout=60)


def main():
    with Coordinator() as coordinator:
        World(coordinator)
        made = coordinator.json(
            "POST",
            "/triggers",
            {"name": "signed", "kind": "webhook", "process": "invoices", "target": {"group": "all"}, "webhook": {}},
        )
        url, secret = made["url"], made["secret"]
        assert url.startswith(f"{coordinator.url}/api/v1/hooks/"), url
        first = send(url, secret, "msg_1")
        assert first.status_code == 202, first.text
        job = coordinator.json("GET", f"/jobs/{first.json()['job_ids'][0]}")
        assert job["input"] == json.loads(BODY), job["input"]
        again = send(url, secret, "msg_1", at=now(2)).json()
        assert again == first.json() | {"repeated": True}, again
        for answer in [
            send(url, "whsec_" + "A" * 43 + "=", "msg_2"),
            send(url, secret, "msg_3", at=now(-400)),
            send(url, secret, "msg_4", at=now(400)),
            requests.post(url, data=BODY.encode(), timeout=60),
        ]:
            assert answer.status_code == 401, answer.text
        # While a sender changes its secret it signs with both.
        other = Webhook("whsec_" + "B" * 43 + "=").sign("msg_5", now(), BODY)
        assert send(url, secret, "msg_5", more=f" {other}").status_code == 202
        rotated = coordinator.json("POST", "/triggers/signed/rotate-secret", {"grace_seconds": 60})
        for number, good in enumerate([secret, rotated["secret"]]):
            assert send(url, good, f"msg_{6 + number}").status_code == 202
        assert len(coordinator.json("GET", "/jobs?trigger=signed")["items"]) == 4
        log = pathlib.Path(coordinator.log.name).read_text()
        for text in [secret, rotated["secret"], url.rsplit("/", 1)[1]]:
            assert text not in log, "a secret is in the log"


if __name__ == "__main__":
    main()
