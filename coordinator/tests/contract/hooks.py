"""How schemathesis calls a coordinator: with keys that fit, mostly about things that exist, without long waits."""

import atexit
import json
import os
import pathlib
import urllib.parse

import schemathesis

from coordinator import package

WORLD = json.loads(pathlib.Path(os.environ["DROVER_WORLD"]).read_text())
NAMES = {
    "robot": "accounting-01",
    "group": "accounting",
    "process": "invoices",
    "queue": "invoices",
    "version": "1",
    "trigger": "nightly",
    "webhook": "chat",
    "delivery": WORLD["delivery"],
    "alert": "waiting",
    "raised": WORLD["raised"],
    "sha256": WORLD["sha256"],
    "path": "report.html",
    "name": "report.html",
    "resource": "erp-login",
    "scope": "group",
    "holder": "accounting",
    "role": "clerks",
    "user": "clerk",
}
counters = {}


def turn(name, values):
    """One after another, so that a run is always the same."""
    counters[name] = counters.get(name, -1) + 1
    return values[counters[name] % len(values)]


def real(operation, name, given):
    """A value that leads somewhere. What is deleted is taken from the spare ones."""
    path, method = operation.path, operation.method.lower()
    last = path.endswith("{" + name + "}")
    if method == "delete" and last and name != "path" and "/robots/{robot}" not in path.removeprefix("/api/v1/robots"):
        noun = path.split("/")[3]
        if noun in WORLD["spare"]:
            return turn(path, WORLD["spare"][noun])
    if name == "folder":
        return turn("folder", [WORLD["storage"], WORLD["storage"], urllib.parse.quote(f"jobs/{WORLD['finished']}", safe="")])
    if name == "token":
        return WORLD["links"]["put" if method == "put" else "get"]
    if name == "hook":
        return WORLD["hook"]
    if name == "id":
        return turn(path, WORLD["spare"][path.split("/")[3]])
    if name == "task":
        return turn(path, WORLD["tasks"])
    if name == "job":
        return turn(path, [WORLD["finished"], *WORLD["running"], *WORLD["waiting"]])
    return NAMES.get(name, given)


@schemathesis.hook
def before_call(context, case, kwargs):
    for name, given in (case.path_parameters or {}).items():
        # Every third value stays as it was made up.
        if turn("made up", [False, False, True]):
            continue
        case.path_parameters[name] = real(case.operation, name, given)
    for place in (case.query, case.body):
        if isinstance(place, dict) and isinstance(place.get("wait_seconds"), int):
            place["wait_seconds"] = place["wait_seconds"] if place["wait_seconds"] > 60 else 0
    if case.operation.path.endswith("/agent/join") and isinstance(case.body, dict) and turn("token", [True, True, False]):
        case.body["token"] = WORLD["join_token"]
    if case.media_type == "application/zip" and turn("package", [True, False]):
        case.body = package()
        case.query = {name: value for name, value in (case.query or {}).items() if name != "label"}
    # A condition that fails hides everything else.
    for condition in ("If-Match", "Content-Digest"):
        if case.headers and condition in case.headers and turn(condition, [True] * 5 + [False]):
            del case.headers[condition]


called = set()


@schemathesis.hook
def after_call(context, case, response):
    called.add(case.operation.definition.raw["operationId"])


@atexit.register
def tell_what_was_called():
    pathlib.Path(os.environ["DROVER_CALLED"]).write_text(json.dumps(sorted(called)))


@schemathesis.serializer("application/zip", "application/octet-stream", "text/calendar")
def bytes_as_they_are(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.serializer("application/x-ndjson")
def one_line(context, value):
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


# Not kept from one call to the next: which key fits depends on the call.
@schemathesis.auth(refresh_interval=None)
class Keys:
    """Robots' calls are made with the robot's key, all others with the administrator's."""

    def get(self, case, context):
        return WORLD["robot_key"] if case.operation.path.startswith("/api/v1/agent/") else WORLD["key"]

    def set(self, case, data, context):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.check
def headers_of_every_answer(context, response, case):
    """What the document says by words only: these headers are never missing."""
    has = {name.lower(): values for name, values in response.headers.items()}
    assert has.get("x-request-id"), "no X-Request-Id"
    wanted = {201: "location", 401: "www-authenticate", 405: "allow", 416: "content-range", 503: "retry-after"}
    name = wanted.get(response.status_code)
    assert name is None or has.get(name), f"{response.status_code} without {name}"
    if response.status_code >= 400 and case.operation.path != "/readyz" and case.method.upper() != "HEAD":
        problem = response.json()
        assert problem["status"] == response.status_code, "the problem says another status"
        assert problem["request_id"] == has["x-request-id"][0], "the problem says another request"
