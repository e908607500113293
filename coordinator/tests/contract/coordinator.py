"""A real coordinator on an empty store in a temporary folder, ended with the test, and a few calls to it."""

import base64
import io
import json
import os
import pathlib
import select
import subprocess
import tempfile
import time
import uuid
import zipfile

import requests

ROOT = pathlib.Path(__file__).resolve().parents[3]
PASSWORD = "correct horse battery staple"
START_SECONDS = 60
STOP_SECONDS = 30


def program():
    """The program as it was built; DROVER_BIN_DIR names another folder."""
    return pathlib.Path(os.environ.get("DROVER_BIN_DIR", ROOT / "target" / "debug")) / "drover-coordinator"


class Coordinator:
    """Use it in a `with`: whatever happens, the process is ended, and it must end in order."""

    def __init__(self, settings=None, store=None):
        self.settings = settings or {}
        self.expected_code = 0
        self.key = base64.b64encode(str(uuid.uuid4()).encode()).decode()
        self.folder = tempfile.TemporaryDirectory(prefix="drover-contract.")
        self.store = store or pathlib.Path(self.folder.name) / "store"

    def __enter__(self):
        settings = {
            "DROVER_HTTP__LISTEN": "127.0.0.1:0",
            "DROVER_STORE__PATH": str(self.store),
            "DROVER_BOOTSTRAP__API_KEY": self.key,
            "DROVER_BOOTSTRAP__PASSWORD": PASSWORD,
            "DROVER_LOG__FORMAT": "json",
        }
        self.log = open(pathlib.Path(self.folder.name) / "log", "w+b")
        self.process = subprocess.Popen(
            [program(), "run"], env=os.environ | settings | self.settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self.url = "http://" + self._address()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _address(self):
        """Its log says where it listens; what it says later goes to the file."""
        ends_at = time.monotonic() + START_SECONDS
        pipe, text = self.process.stderr, b""
        while (left := ends_at - time.monotonic()) > 0:
            if not select.select([pipe], [], [], left)[0]:
                break
            piece = os.read(pipe.fileno(), 65536)
            if not piece:
                break
            text += piece
            for line in text.split(b"\n")[:-1]:
                address = json.loads(line)["fields"].get("address")
                if address:
                    self._drain(text)
                    return address
        raise RuntimeError(f"the coordinator does not start: {text.decode()}")

    def _drain(self, first):
        import shutil
        import threading

        self.log.write(first)
        copy = threading.Thread(target=shutil.copyfileobj, args=(self.process.stderr, self.log), daemon=True)
        copy.start()
        self.drain = copy

    def __exit__(self, kind, *_):
        self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        text = self.log_text()
        if kind is None:
            assert code == self.expected_code, f"the coordinator ended with {code}:\n{text[-4000:]}"
            self._check_store()
        self.folder.cleanup()

    def kill(self):
        """As if it crashed; another one may go on with its store."""
        self.process.kill()
        self.process.wait()
        self.expected_code = -9

    def log_text(self):
        if hasattr(self, "drain"):
            self.drain.join(5)
        self.log.flush()
        self.log.seek(0)
        return self.log.read().decode()

    def _check_store(self):
        """Whatever was sent, the store must be sound afterwards."""
        settings = {"DROVER_STORE__PATH": str(self.store)}
        checked = subprocess.run(
            [program(), "check"], env=os.environ | settings, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"the store is not sound:\n{checked.stdout}{checked.stderr}"

    def call(self, method, path, body=None, key=None, wanted=None, **more):
        """One call below the API's base; an unexpected answer is an error that shows it."""
        headers = {"Authorization": f"Bearer {key or self.key}"} | more.pop("headers", {})
        answer = requests.request(
            method, f"{self.url}/api/v1{path}", json=body, headers=headers, timeout=60, **more
        )
        if not (wanted is None and answer.ok) and answer.status_code != wanted:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer

    def json(self, *arguments, **more):
        return self.call(*arguments, **more).json()


def package():
    """A package with a manifest, as people upload it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("process.toml", '[process]\nname = "invoices"\n\n[run]\ncommand = ["python3", "main.py"]\n')
        file.writestr("main.py", "print('checked')\n")
    return out.getvalue()
