"""The job that runs this program: its input, output, error, artifacts, progress, and whether it is asked to stop."""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from . import _json, _log
from ._errors import DroverError, TaskFailure

if TYPE_CHECKING:
    from ._robot import Robot

# The coordinator takes no longer ones with tasks.
_MAX_CODE_BYTES = 256

_interrupted = threading.Event()


class Job:
    """What the agent told about this run. By hand, outside of Drover, everything has a sensible place of its own."""

    def __init__(self, environment: dict[str, str] | None = None):
        env = dict(os.environ if environment is None else environment)
        self.id: str | None = env.get("DROVER_JOB_ID") or None
        self.attempt = int(env.get("DROVER_ATTEMPT") or 1)
        self.robot = env.get("DROVER_ROBOT", "")
        self.process = env.get("DROVER_PROCESS", "")
        self.version = env.get("DROVER_VERSION", "")
        self._input_path = env.get("DROVER_INPUT")
        self._output_path = env.get("DROVER_OUTPUT")
        self._error_path = env.get("DROVER_ERROR")
        self._stop_file = env.get("DROVER_STOP_FILE")
        self._artifacts = pathlib.Path(env.get("DROVER_ARTIFACTS") or "out")
        self._input: dict[str, Any] | None = None

    @property
    def input(self) -> dict[str, Any]:
        """The input with which the job was started; empty if there is none."""
        if self._input is None:
            self._input = self._read_input()
        return self._input

    def _read_input(self) -> dict[str, Any]:
        if not self._input_path or not os.path.exists(self._input_path):
            return {}
        try:
            with open(self._input_path, encoding="utf-8") as file:
                value = json.load(file)
        except (OSError, ValueError) as error:
            raise DroverError(f"the input {self._input_path} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise DroverError(f"the input {self._input_path} must be a JSON object")
        return value

    def set_output(self, value: Any) -> None:
        """Writes the output of the job; the last one counts. At most 1 MiB of JSON: large data is for artifacts."""
        if self._output_path:
            _json.write_file(self._output_path, value)
        else:
            _log.write("info", f"output: {_json.dumps(value)}")

    def set_error(self, kind: str, message: str, code: str | int | None = None) -> None:
        """Says why the job fails: `business` or `application`. It fails even if the program then ends with 0."""
        message, code = _json.text(message), code_of(code)
        _log.write("error", message, {"code": code} if code else None)
        if self._error_path:
            _json.write_file(self._error_path, {"kind": kind, "code": code, "message": message})

    @property
    def artifacts(self) -> pathlib.Path:
        """The folder whose files are kept with the job."""
        self._artifacts.mkdir(parents=True, exist_ok=True)
        return self._artifacts

    def artifact(self, path: str) -> pathlib.Path:
        """Where to write an artifact of this name; folders in it are made."""
        target = self.artifacts / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def progress(self, percent: float | None = None, text: str | None = None) -> None:
        """How far the job is, for whoever looks at it."""
        progress: dict[str, Any] = {}
        if percent is not None:
            progress["percent"] = round(float(percent), 1)
        if text is not None:
            progress["text"] = text
        _log.write("info", text or f"{progress.get('percent', 0):g} %", progress=progress)

    def stop_requested(self) -> bool:
        """Whether the job is asked to end in order. Ask now and then in long work; the loop over tasks does so."""
        return _interrupted.is_set() or bool(self._stop_file and os.path.exists(self._stop_file))


def run(main: Callable[..., Any], robot: Robot) -> NoReturn:
    """
    Runs `main`, and ends the program as its result says: what it returns is the job's output, what it raises its error.
    """
    _take_interrupts()
    sys.exit(_run(main, robot))


def _run(main: Callable[..., Any], robot: Robot) -> int:
    job, clean_up = robot.job, robot._clean_up
    try:
        takes_robot = bool(inspect.signature(main).parameters)
        output = main(robot) if takes_robot else main()
        clean_up(None)
        if output is not None:
            job.set_output(output)
    except Exception as error:
        _quietly(clean_up, error)
        kind, code, message = told(error)
        if not isinstance(error, (TaskFailure, DroverError)):
            _log.write("error", "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip())
        job.set_error(kind, message, code)
        return 1
    return 0


def _quietly(clean_up: Callable[[BaseException | None], None], error: BaseException) -> None:
    try:
        clean_up(error)
    except Exception as further:
        _log.write("warning", f"the task that was being worked on could not be ended: {further}")


def told(error: BaseException) -> tuple[str, str | None, str]:
    """Kind, code and message of an error, as jobs and tasks keep them."""
    if isinstance(error, TaskFailure):
        return error.kind, code_of(error.code), str(error.message)
    if isinstance(error, DroverError):
        return "application", type(error).__name__, str(error)
    text = str(error)
    return "application", type(error).__name__, f"{type(error).__name__}: {text}" if text else type(error).__name__


def code_of(code: object) -> str | None:
    """A code as jobs and tasks keep it: a text, whatever a program numbers its errors by."""
    return None if code is None else _json.cut(_json.text(str(code)), _MAX_CODE_BYTES)


def _take_interrupts() -> None:
    """The first Ctrl-C, which the agent sends as well, asks to stop; the second one breaks off."""

    def asked(_number: int, _frame: Any) -> None:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        _interrupted.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, asked)
        if hasattr(signal, "SIGBREAK"):
            signal.signal(signal.SIGBREAK, asked)
