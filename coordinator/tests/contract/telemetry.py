"""Traces and logs are what OpenTelemetry has them to be: they are read with the messages that OpenTelemetry publishes, and
fire, job, process and task are one trace, whose name a real agent hands to a real process.
"""

import http.server
import io
import re
import subprocess
import tempfile
import threading
import time
import zipfile

import requests
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from coordinator import Coordinator, program

SECONDS = 60
MANIFEST = '[process]\nname = "invoices"\n\n[run]\ncommand = ["python3", "main.py"]\n\n[requires]\nqueues = ["invoices"]\n'
MAIN = """
import json, os, urllib.request

def call(path, body):
    headers = {"Authorization": "Bearer " + os.environ["DROVER_TOKEN"], "Content-Type": "application/json"}
    url = os.environ["DROVER_URL"] + "/api/v1" + path
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)

print("TRACEPARENT=" + os.environ["TRACEPARENT"])
task = call("/queues/invoices/take", {})["items"][0]
print(json.dumps({"message": "нет: сумма не сходится", "level": "error", "fields": {"invoice": {"number": 4711}}}))
failure = {"attempt": task["attempt"], "kind": "business", "message": "the totals differ"}
call(f"/tasks/{task['id']}/fail", failure)
"""


class Collector(http.server.ThreadingHTTPServer):
    """Takes what it is sent, unless it is told to refuse."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.changed = threading.Condition()
        self.spans, self.lines = [], []
        self.refused, self.refuses = 0, True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait(self, what, fits):
        """What fits, once there is something."""
        with self.changed:
            found = self.changed.wait_for(fits, SECONDS)
        assert found, f"{what} did not come; there are {[span.name for _, span in self.spans]}"
        return found

    def set(self, refuses):
        with self.changed:
            self.refuses, self.refused = refuses, 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        collector = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["content-type"] == "application/x-protobuf"
        assert self.headers["authorization"] == "Bearer collector-secret", self.headers["authorization"]
        with collector.changed:
            if collector.refuses:
                collector.refused += 1
                collector.changed.notify_all()
                return self.answer(503, b"", {"Retry-After": "1"})
            if self.path == "/otlp/v1/traces":
                request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += [(attributes(resource.resource), span) for span in scope.spans]
                answer = trace_service_pb2.ExportTraceServiceResponse()
            else:
                assert self.path == "/otlp/v1/logs", self.path
                request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
                for resource in request.resource_logs:
                    for scope in resource.scope_logs:
                        collector.lines += scope.log_records
                answer = logs_service_pb2.ExportLogsServiceResponse()
            collector.changed.notify_all()
        return self.answer(200, answer.SerializeToString(), {"Content-Type": "application/x-protobuf"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def value_of(value):
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {pair.key: value_of(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


def attributes(holder):
    return {pair.key: value_of(pair.value) for pair in holder.attributes}


class Agent:
    """A real agent in a folder of its own."""

    def __init__(self, url, token):
        self.folder = tempfile.TemporaryDirectory(prefix="drover-contract-agent.")
        agent = program().with_name("drover-agent")
        state = ["--state", self.folder.name]
        subprocess.run([agent, "join", "--server", url, "--token", token, *state], check=True, capture_output=True)
        self.process = subprocess.Popen([agent, "run", *state], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(SECONDS)
        self.folder.cleanup()


def package():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("process.toml", MANIFEST)
        file.writestr("main.py", MAIN)
    return out.getvalue()


def set_up(c):
    c.json("POST", "/processes", {"name": "invoices"})
    headers = {"Content-Type": "application/zip"}
    c.json("POST", "/processes/invoices/versions?activate=true", data=package(), headers=headers)
    c.json("POST", "/queues", {"name": "invoices"})
    schedule = {"cron": "0 3 * * *", "time_zone": "UTC"}
    trigger = {"name": "nightly", "kind": "schedule", "process": "invoices", "target": {"group": "all"}}
    c.json("POST", "/triggers", trigger | {"schedule": schedule})
    return c.json("POST", "/robots", {"name": "accounting-01"})["join_token"]


def fire(c):
    """The job of a fire, when it has ended."""
    c.json("POST", "/queues/invoices/tasks", {"payload": {}})
    job = c.json("POST", "/triggers/nightly/fire")["id"]
    ends_at = time.monotonic() + SECONDS
    while time.monotonic() < ends_at:
        found = c.json("GET", f"/jobs/{job}")
        if found["state"] == "finished":
            said = c.call("GET", f"/jobs/{job}/logs", headers={"Accept": "text/plain"}).text
            assert found["outcome"] == "succeeded", said
            return found
        time.sleep(0.1)
    raise AssertionError(f"job {job} does not end: {found}")


def spans_of(collector, job):
    """The spans of a job's trace by their kind, each once."""
    trace = bytes.fromhex(job.replace("-", ""))
    spans = {}
    for resource, span in collector.spans:
        if span.trace_id == trace:
            kind = span.name.split()[0]
            assert kind not in spans or spans[kind] == span, f"{kind} was sent twice, and not the same"
            spans[kind] = span
            assert resource["service.name"] == "drover" and resource["drover.account.name"], resource
    return spans if len(spans) == 4 else None


def check_trace(collector, job):
    spans = collector.wait("the trace", lambda: spans_of(collector, job["id"]))
    fire, of_job, process, task = (spans[kind] for kind in ["fire", "job", "process", "task"])
    assert not fire.parent_span_id and of_job.parent_span_id == fire.span_id
    assert process.parent_span_id == of_job.span_id and task.parent_span_id == process.span_id
    assert len({span.span_id for span in spans.values()}) == 4
    names = [span.name for span in [fire, of_job, process, task]]
    assert names == ["fire nightly", "job invoices", "process invoices", "task invoices"], names
    assert of_job.start_time_unix_nano <= process.start_time_unix_nano <= task.start_time_unix_nano
    assert task.end_time_unix_nano <= process.end_time_unix_nano <= of_job.end_time_unix_nano
    codes = [span.status.code for span in [fire, of_job, process, task]]
    assert codes == [trace_pb2.Status.STATUS_CODE_OK] * 3 + [trace_pb2.Status.STATUS_CODE_ERROR], codes
    assert task.status.message == "the totals differ"
    about = attributes(process)
    assert about["drover.robot.name"] == "accounting-01" and about["process.exit.code"] == 0, about
    assert attributes(of_job)["drover.job.outcome"] == "succeeded"
    return process


def check_lines(collector, process):
    """The process found the name of its own span, and its lines are told as part of it."""

    def both():
        return [line for line in collector.lines if line.trace_id == process.trace_id][1:2]

    collector.wait("the log", both)
    first, second = [line for line in collector.lines if line.trace_id == process.trace_id][:2]
    found = re.fullmatch(r"TRACEPARENT=00-([0-9a-f]{32})-([0-9a-f]{16})-01", first.body.string_value)
    assert found, first.body
    assert (bytes.fromhex(found[1]), bytes.fromhex(found[2])) == (process.trace_id, process.span_id)
    assert first.span_id == process.span_id and first.severity_number == logs_pb2.SEVERITY_NUMBER_INFO
    assert second.body.string_value == "нет: сумма не сходится"
    assert second.severity_number == logs_pb2.SEVERITY_NUMBER_ERROR and second.severity_text == "error"
    about = attributes(second)
    assert about["invoice"] == {"number": 4711} and about["drover.log.seq"] == 2, about


def metric(c, name, signal):
    pattern = rf'^{name}\{{signal="{signal}"\}} (\d+)$'
    found = re.search(pattern, requests.get(f"{c.url}/metrics", timeout=SECONDS).text, re.MULTILINE)
    return int(found[1]) if found else 0


def run(c, collector, settings):
    token = set_up(c)
    with Agent(c.url, token):
        job = fire(c)
        # It was refused at first, and told to come again.
        collector.wait("a refusal", lambda: collector.refused > 0)
        collector.set(refuses=False)
        check_lines(collector, check_trace(collector, job))
        uids = [attributes(line)["log.record.uid"] for line in collector.lines]
        assert len(set(uids)) == len(uids), "nothing crashed: no line is sent twice"
        counted = [metric(c, f"drover_telemetry_{what}_total", "traces") for what in ["sent", "lost"]]
        assert counted == [4, 0], counted
        # What has ended while nobody takes it survives a crash.
        collector.set(refuses=True)
        late = fire(c)
        collector.wait("a refusal", lambda: collector.refused > 0)
        c.kill()
    assert spans_of(collector, late["id"]) is None
    collector.set(refuses=False)
    with Coordinator(settings, c.store):
        check_lines(collector, check_trace(collector, late))
    assert "collector-secret" not in c.log_text()


def main():
    collector = Collector()
    settings = {
        "DROVER_TELEMETRY__ENDPOINT": f"http://127.0.0.1:{collector.server_address[1]}/otlp/",
        "DROVER_TELEMETRY__HEADERS": "authorization=Bearer collector-secret",
    }
    try:
        with Coordinator(settings) as coordinator:
            run(coordinator, collector, settings)
    finally:
        collector.shutdown()
    print("Fire, job, process and task are one trace, and the process knows its name.")


if __name__ == "__main__":
    main()
