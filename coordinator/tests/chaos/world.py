"""The real programs on loopback, each with its folder and its log, and calls to the coordinator that get through."""

import base64
import http.client
import json
import os
import pathlib
import signal
import subprocess
import time
import uuid

import processes

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("DROVER_BIN_DIR", HERE.parents[2] / "target" / "debug")).resolve()
START_SECONDS = 60
STOP_SECONDS = 90
# Rounds take seconds when leases do.
LEASES = {"JOB_SECONDS": "2", "ACCEPT_SECONDS": "2", "LOST_AFTER_SECONDS": "3", "HEARTBEAT_SECONDS": "1"}


class Failure(Exception):
    """The product did not do what it promises."""


def environment(**settings):
    """Nothing of the caller's own settings, and no proxy of its own between us."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"NO_PROXY": "127.0.0.1"} | settings


class Program:
    """A program that is started again and again and appends to one log."""

    def __init__(self, name, arguments, settings, log):
        self.name, self.arguments, self.settings, self.log = name, arguments, settings, log
        self.process = None

    def start(self):
        assert not self.runs()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [BIN / self.arguments[0], *self.arguments[1:]],
                env=environment(**self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def runs(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        if self.runs():
            self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def wait(self, seconds):
        """Its exit code; None if it still runs."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


class Coordinator(Program):
    def __init__(self, folder, network):
        self.store, self.network, self.port = folder / "store", network, None
        self.key = base64.b64encode(str(uuid.uuid4()).encode()).decode()
        settings = {f"DROVER_LEASES__{name}": value for name, value in LEASES.items()} | {
            "DROVER_HTTP__LISTEN": "127.0.0.1:0",
            "DROVER_STORE__PATH": str(self.store),
            "DROVER_STORE__SEGMENT_MIB": "2",
            "DROVER_BOOTSTRAP__API_KEY": self.key,
            "DROVER_LOG__FORMAT": "json",
        }
        super().__init__("coordinator", ["drover-coordinator", "run"], settings, folder / "coordinator.log")

    def start(self):
        """Returns when it listens; the network leads to it from then on."""
        self.port = self.network.target = None
        offset = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        ends_at = time.monotonic() + START_SECONDS
        while time.monotonic() < ends_at:
            if address := self._address(offset):
                self.port = self.network.target = int(address.rsplit(":", 1)[1])
                return
            if not self.runs():
                raise Failure(f"the coordinator ended with {self.process.returncode} when it was started")
            time.sleep(0.02)
        raise Failure("the coordinator does not start")

    def _address(self, offset):
        with open(self.log, "rb") as log:
            log.seek(offset)
            for line in log.read().split(b"\n")[:-1]:
                if b'"address"' in line:
                    return json.loads(line)["fields"].get("address")
        return None

    def stop(self):
        self.signal(signal.SIGTERM)
        code = self.wait(STOP_SECONDS)
        if code != 0:
            raise Failure(f"the coordinator ended with {code} when it was asked to")

    def check(self):
        """The stopped store: records against indexes, both ways."""
        command = [BIN / "drover-coordinator", "check"]
        settings = environment(DROVER_STORE__PATH=str(self.store))
        checked = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300, check=False)
        return checked.returncode, checked.stdout + checked.stderr


class Agent(Program):
    def __init__(self, name, folder, network):
        self.state = folder / name
        settings = {"DROVER_AGENT__CAPACITY": "3", "DROVER_AGENT__DRAIN_TIMEOUT_SECONDS": "1"}
        super().__init__(name, ["drover-agent", "run", "--state", str(self.state)], settings, folder / f"{name}.log")
        self.server = f"http://127.0.0.1:{network.port}"

    def join(self, token):
        command = [BIN / "drover-agent", "join", "--server", self.server, "--token", token]
        command += ["--state", self.state, "--name", self.name]
        subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=60)

    def key(self):
        return json.loads((self.state / "agent.json").read_text())["key"]

    def crash_host(self):
        """As if the host's power went: the agent, every supervisor and everything below them are gone at once."""
        self.kill()
        ends_at = time.monotonic() + STOP_SECONDS
        while supervisors := processes.supervisors(self.state):
            for supervisor in supervisors:
                # One that stands still writes no end down, and inherits whoever flees.
                processes.send(supervisor, signal.SIGSTOP)
                while below := processes.descendants(supervisor):
                    for pid in below:
                        processes.send(pid, signal.SIGKILL)
                    if time.monotonic() > ends_at:
                        raise Failure(f"processes that cannot be ended: {below}")
                processes.send(supervisor, signal.SIGKILL)
            time.sleep(0.01)

    def left_behind(self):
        """What its host still has of attempts: files, and what the journal has not called over."""
        folders = [self.state / "runs", self.state / "work" / "jobs"]
        files = [path for folder in folders if folder.exists() for path in folder.iterdir()]
        journal, open_ = self.state / "journal", {}
        for line in journal.read_bytes().splitlines() if journal.exists() else []:
            # The attempt and what is known of it, each after its checksum; half a line is one that was being written.
            if len(parts := line.split(b" ", 3)) == 4:
                open_[parts[1].decode()] = parts[3] != b"null"
        return files + [name for name, is_open in open_.items() if is_open]


class Api:
    """Calls to the coordinator, not through the network that is disturbed, but through its crashes."""

    def __init__(self, coordinator, patience_seconds=120):
        self.coordinator, self.patience_seconds = coordinator, patience_seconds

    def once(self, method, path, body=None, headers=None):
        """One try: status and answer, as JSON if it is. OSError or HTTPException if there is none."""
        if self.coordinator.port is None:
            raise ConnectionRefusedError
        connection = http.client.HTTPConnection("127.0.0.1", self.coordinator.port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {self.coordinator.key}"} | (headers or {})
            if body is not None:
                body, headers["Content-Type"] = json.dumps(body), "application/json"
            connection.request(method, f"/api/v1{path}", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if "json" in answer.headers.get("Content-Type", ""):
            content = json.loads(content)
        return answer.status, content

    def call(self, method, path, body=None, also=()):
        """Tries until there is an answer; one that is neither a success nor in `also` is a failure."""
        # The same request again after a lost answer must not be a second one.
        headers = {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
        ends_at = time.monotonic() + self.patience_seconds
        while True:
            try:
                status, content = self.once(method, path, body, headers)
                if status < 300 or status in also:
                    return content
                if status not in (429, 503):
                    raise Failure(f"{method} {path}: {status} {content}")
                why = status
            except (OSError, http.client.HTTPException) as error:
                why = error
            if time.monotonic() > ends_at:
                raise Failure(f"{method} {path} got no answer in {self.patience_seconds} s: {why}")
            time.sleep(0.1)

    def items(self, path, limit=1000):
        """All items of a list."""
        items, cursor = [], ""
        while cursor is not None:
            page = self.call("GET", f"{path}?limit={limit}{cursor}")
            items += page["items"]
            cursor = f"&cursor={page['next_cursor']}" if page.get("next_cursor") else None
        return items
