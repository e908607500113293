"""What the tests drive the package against: a real coordinator, or a server that misbehaves as a test scripts it."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import http.server
import io
import json
import os
import pathlib
import select
import signal
import socket
import struct
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request
import uuid

from drover import Client, Job, Robot

ROOT = pathlib.Path(__file__).resolve().parents[3]
PACKAGE = pathlib.Path(__file__).resolve().parents[1]
START_SECONDS = 60


def program(name):
    """A program as it was built; DROVER_BIN_DIR names another folder."""
    return pathlib.Path(os.environ.get("DROVER_BIN_DIR", ROOT / "target" / "debug")) / name


class Coordinator:
    """A real coordinator on an empty store in a temporary folder. It can be ended and started again."""

    def __init__(self):
        self.key = base64.b64encode(str(uuid.uuid4()).encode()).decode()
        self.folder = tempfile.TemporaryDirectory(prefix="drover-sdk.")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        settings = {
            "DROVER_HTTP__LISTEN": f"127.0.0.1:{self.port}",
            "DROVER_STORE__PATH": os.path.join(self.folder.name, "store"),
            "DROVER_BOOTSTRAP__API_KEY": self.key,
            "DROVER_BOOTSTRAP__PASSWORD": str(uuid.uuid4()),
        }
        with open(os.path.join(self.folder.name, "log"), "ab") as log:
            self.process = subprocess.Popen(
                [program("drover-coordinator"), "run"], env={**os.environ, **settings}, stdout=log, stderr=log
            )
        ends_at = time.monotonic() + START_SECONDS
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            with contextlib.suppress(OSError), opener.open(f"{self.url}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > ends_at:
                raise RuntimeError(f"the coordinator does not start: {self.log()}")
            time.sleep(0.05)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(30)

    def log(self):
        return pathlib.Path(self.folder.name, "log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def close(self):
        if self.process.poll() is None:
            self.end()
        self.folder.cleanup()

    def client(self, key=None):
        return Client(self.url, key or self.key, retry_seconds=30)

    def robot(self, **environment):
        """A robot as it runs by hand: no job, no files of an agent."""
        return Robot(self.client(), Job(environment))


class CoordinatorCase(unittest.TestCase):
    """Tests that share one coordinator."""

    @classmethod
    def setUpClass(cls):
        cls.coordinator = Coordinator()
        cls.addClassCleanup(cls.coordinator.close)

    def call(self, method, *path, body=None, query=None):
        return self.coordinator.client().call(method, path, body, query=query)

    def queue(self, **settings):
        """A new queue with a name of its own."""
        name = f"queue-{uuid.uuid4()}"
        self.call("POST", "queues", body={"name": name, **settings})
        return name

    def listed(self, queue, **filters):
        return self.call("GET", "tasks", query={"queue": queue, "limit": 1000, **filters})["items"]


class Scripted:
    """A server that answers each request by the next step of a script, and keeps what it was asked."""

    def __init__(self, case, *steps, certificate=None):
        self.steps = list(steps)
        self.seen = []
        script = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                script.seen.append((self.command, self.path, dict(self.headers), body))
                step = script.steps.pop(0) if len(script.steps) > 1 else script.steps[0]
                step(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_CONNECT = handle_any

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        case.addCleanup(self.server.server_close)
        case.addCleanup(self.server.shutdown)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server.server_port}"


def answer(body, status=200, **headers):
    """Answers in order."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def step(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return step


def by_clock(ahead_seconds, step):
    """Answers as a server whose clock is ahead of that of this host."""

    def dated(handler):
        handler.date_time_string = lambda: email.utils.formatdate(time.time() + ahead_seconds, usegmt=True)
        step(handler)

    return dated


def problem(status, code, detail="why", **more):
    headers = more.pop("headers", {})
    body = {"type": code, "title": "Refused", "status": status, "detail": detail, "request_id": "r-1", **more}
    return answer(body, status, **headers)


def tunnel(server):
    """A proxy that hands on what comes, both ways."""

    def step(handler):
        handler.send_response(200)
        handler.end_headers()
        with socket.create_connection(server.server.server_address) as there:
            sockets = [handler.connection, there]
            while sockets:
                for ready in select.select(sockets, [], [])[0]:
                    other = there if ready is handler.connection else handler.connection
                    content = ready.recv(65536)
                    other.sendall(content) if content else sockets.clear()
        handler.close_connection = True

    return step


def cut(handler):
    """The connection breaks before the answer: whether the call was carried out is not known."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def cut_within(content, promised):
    """The connection breaks in the middle of the answer."""

    def step(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(promised))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    return step


@contextlib.contextmanager
def lines():
    """The log that the package writes meanwhile, as a list of records."""
    records, out = [], io.StringIO()
    with contextlib.redirect_stdout(out):
        yield records
    records.extend(json.loads(line) for line in out.getvalue().splitlines())


def run_program(text, files=None, **environment):
    """Runs a program as an agent does; answers the process and the files that it left."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for name, content in (files or {}).items():
            (place / name).write_text(content, encoding="utf-8")
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PACKAGE),
            "DROVER_JOB_ID": str(uuid.uuid4()),
            "DROVER_ATTEMPT": "1",
            "DROVER_INPUT": str(place / "input.json"),
            "DROVER_OUTPUT": str(place / "output.json"),
            "DROVER_ERROR": str(place / "error.json"),
            "DROVER_ARTIFACTS": str(place / "artifacts"),
            "DROVER_STOP_FILE": str(place / "stop"),
            **environment,
        }
        command = [sys.executable, "-B", "-c", text]
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=60, check=False)
        left = {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}
        return done, left
