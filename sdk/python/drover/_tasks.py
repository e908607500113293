"""
Tasks of queues: adding them, and working them off one after another.

A task is ended by what became of its body: succeeded, or failed with the error that it raised. Ending one and taking
the next is one call. Under a job its heartbeat keeps the lease; elsewhere a thread renews it.
"""

from __future__ import annotations

import datetime
import pathlib
import threading
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Callable, NamedTuple, Union

from . import _clock, _json, _log
from ._client import Answer, Lost
from ._errors import ApiError, ApplicationError, DroverError, StaleAttempt, TooManyErrors, Unreachable
from ._job import code_of, told
from ._storage import receive, send

if TYPE_CHECKING:
    from ._robot import Robot

When = Union[datetime.datetime, datetime.timedelta, int, float, str]

# A long poll ends so often to see whether a stop is asked.
_POLL_SECONDS = 5
# The coordinator takes messages of at most 8 KiB.
_MAX_MESSAGE_BYTES = 8000
# So many tasks of a bulk addition have a key together.
_KEY_LINES = 1000
# One call of it holds at most so much of them, and one at least; in case of a lost answer it is sent again.
_PIECE_BYTES = 4 * 1024 * 1024
_MAX_ERRORS = 1000
# Refusals that a task without its output does not get.
_OF_OUTPUT = ("invalid", "too_large")


def moment(when: When) -> str:
    """A moment as the API takes it: a time, a time as text, or a while from now (timedelta, seconds)."""
    if isinstance(when, str):
        return when
    if isinstance(when, (int, float)):
        when = datetime.timedelta(seconds=when)
    if isinstance(when, datetime.timedelta):
        when = _clock.now() + when
    return _json.timestamp(when)


class Task:
    """
    One task that this program has taken. Set `output` for what is to be kept with it.

    `payload` is the data, `checkpoint` what an earlier attempt left, `attempt` the number of this attempt. Everything
    that the API tells is in `data`.
    """

    def __init__(self, robot: Robot, data: dict[str, Any], loop: TaskLoop | None = None):
        self._robot = robot
        self._loop = loop
        self._lock = threading.Lock()
        self.data = data
        self.id: str = data["id"]
        self.attempt: int = data["attempt"]
        self.payload: Any = data.get("payload")
        self.checkpoint: Any = data.get("checkpoint")
        self.output: Any = None
        self.ended = False
        self._end_is_unknown = False

    def __repr__(self) -> str:
        return f"Task({self.id!r}, reference={self.reference!r}, attempt={self.attempt})"

    @property
    def reference(self) -> str | None:
        return self.data.get("reference")

    @property
    def name(self) -> str | None:
        return self.data.get("name")

    @property
    def tags(self) -> list[str]:
        return list(self.data.get("tags") or [])

    @property
    def priority(self) -> int:
        return int(self.data.get("priority") or 2)

    @property
    def deadline(self) -> str | None:
        return self.data.get("deadline")

    # Ending it. Without these calls it ends as its body does.

    def succeed(self, output: Any = None) -> None:
        """Ends it as succeeded, now."""
        self._end("succeed", self._success(output), False)

    def fail(
        self,
        message: str,
        code: str | int | None = None,
        *,
        kind: str = "business",
        output: Any = None,
        retry: bool | None = None,
    ) -> None:
        """Ends it as failed, now. Raising BusinessError or ApplicationError does the same."""
        self._end("fail", _failure(kind, message, code_of(code), output, retry), False)

    def postpone(self, until: When, checkpoint: Any = None, *, attempt_counts: bool = False) -> None:
        """Puts it back until then (a time, or a while), with a checkpoint for whoever takes it next."""
        body: dict[str, Any] = {"until": moment(until), "attempt_counts": attempt_counts}
        if checkpoint is not None:
            body["checkpoint"] = checkpoint
        self._end("postpone", body, False)

    # While it is worked on.

    def save(self, checkpoint: Any, percent: float | None = None, text: str | None = None) -> None:
        """Keeps a checkpoint: should this attempt end badly, the next one finds it in `checkpoint`."""
        body: dict[str, Any] = {"checkpoint": checkpoint}
        if percent is not None or text is not None:
            body["progress"] = {
                name: value for name, value in (("percent", percent), ("text", text)) if value is not None
            }
        self._call("checkpoint", body)
        self.checkpoint = checkpoint

    def progress(self, percent: float | None = None, text: str | None = None) -> None:
        """How far it is, for whoever looks at it."""
        self.save(self.checkpoint, percent, text)

    def comment(self, text: str) -> None:
        """Replaces the comment of the task."""
        self._call("comment", {"comment": text})

    def renew(self) -> None:
        """Keeps it for a further lease. Nobody needs to call it: the job's heartbeat or a thread does it."""
        self._call("renew", {})

    def stop_requested(self) -> bool:
        """Whether the job is asked to stop: in a long body, save and postpone the task then."""
        return self._robot.job.stop_requested()

    def attach(self, name: str, source: str | pathlib.Path | bytes | IO[bytes]) -> None:
        """Attaches a file."""
        send(self._robot.client, ("tasks", self.id, "files", name), source, None)

    def download(self, name: str, target: str | pathlib.Path) -> pathlib.Path:
        """Downloads an attached file; its digest is checked."""
        return receive(self._robot.client, ("tasks", self.id, "files", name), pathlib.Path(target))

    # With a `with`, its body decides how it ends, and the loop goes on.

    def __enter__(self) -> Task:
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        self._settle(error)
        return True

    def _settle(self, error: Exception | None) -> None:
        """Ends it as its body ended, unless that has ended it, and the loop if it is to go no further."""
        if not self.ended:
            self._end_as(error)
        elif error is not None and not isinstance(error, StaleAttempt):
            raise error
        if self._loop is not None:
            self._loop._check()

    def _end_as(self, error: Exception | None) -> None:
        """Takes the next one as well, if the loop wants one."""
        if isinstance(error, StaleAttempt):
            self._was_taken_away(error)
            return
        # An output that is no JSON, or is refused, must not leave the task without an end.
        body = self._writable(self._success(None) if error is None else self._failure_of(error))
        try:
            try:
                self._end_by(body)
            except ApiError as refusal:
                if "output" not in body or refusal.code not in _OF_OUTPUT:
                    raise
                body = self._without_output(body, refusal)
                self._end_by(body)
        except StaleAttempt as stale:
            self._was_taken_away(stale)

    def _end_by(self, body: dict[str, Any]) -> None:
        """A body that names a kind of error is that of a failure."""
        kind = body.get("kind")
        take_next = self._loop is not None and self._loop._wants_next(kind)
        self._end("succeed" if kind is None else "fail", body, take_next)

    def _writable(self, body: dict[str, Any]) -> dict[str, Any]:
        """Tried before it is sent: what goes wrong from then on says nothing about the output."""
        try:
            _json.encoded(body.get("output"))
        except _json.NOT_JSON as error:
            return self._without_output(body, error)
        return body

    def _without_output(self, body: dict[str, Any], refusal: Exception) -> dict[str, Any]:
        """A success is a failure then; a failure stays what it is."""
        text = f"the output of task {self.reference or self.id} is refused: {refusal}"
        if "kind" not in body:
            return self._failure_of(ApplicationError(text, "output_refused", retry=False))
        _log.write("warning", text)
        return {name: value for name, value in body.items() if name != "output"}

    def _failure_of(self, error: Exception) -> dict[str, Any]:
        kind, code, message = told(error)
        fields = {"task": self.id, "reference": self.reference, "kind": kind, "code": code}
        if kind == "application" and not isinstance(error, (ApplicationError, DroverError)):
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
            _log.write("error", f"task {self.reference or self.id} failed: {message}\n{trace}", fields)
        else:
            level = "warning" if kind == "business" else "error"
            _log.write(level, f"task {self.reference or self.id} failed: {message}", fields)
        return _failure(kind, message, code, getattr(error, "output", None), getattr(error, "retry", None))

    def _success(self, output: Any) -> dict[str, Any]:
        output = self.output if output is None else output
        return {} if output is None else {"output": output}

    def _was_taken_away(self, error: StaleAttempt) -> None:
        self.ended = True
        _log.write("warning", f"the result of task {self.reference or self.id} does not count: {error.detail}")

    def _end(self, verb: str, body: dict[str, Any], take_next: bool) -> None:
        if self.ended:
            raise DroverError(f"task {self.reference or self.id} has been ended already")
        if take_next:
            body = {**body, "take_next": True}
        self._end_is_unknown = True
        try:
            answer = self._call(verb, body)
        except ApiError as refusal:
            # What the coordinator itself refuses has a code, and was not carried out.
            self._end_is_unknown = not refusal.code
            raise
        self.ended = True
        if self._loop is not None and verb != "postpone":
            self._loop._count(body)
        if take_next and self._loop is not None:
            self._loop._next = answer.get("next")
            self._loop._next_is_known = True

    def _call(self, verb: str, body: dict[str, Any]) -> Any:
        # The thread that renews must not do so after the end.
        with self._lock:
            if verb == "renew" and self.ended:
                return None
            return self._robot.client.call("POST", ("tasks", self.id, verb), {**body, "attempt": self.attempt})


def _failure(kind: str, message: str, code: str | None, output: Any, retry: bool | None) -> dict[str, Any]:
    # This call goes past the agent, which masks what the job itself says.
    message = _log.masked(message or "no message")
    if len(message.encode()) > _MAX_MESSAGE_BYTES:
        message = _json.cut(message, _MAX_MESSAGE_BYTES) + " … (the whole is in the log)"
    body: dict[str, Any] = {"kind": kind, "message": message}
    for name, value in (("code", code), ("output", output), ("retry", retry)):
        if value is not None:
            body[name] = value
    return body


class TaskLoop:
    """
    The tasks of a queue, one after another, until none waits, a stop is asked or `limit` were taken.

    `succeeded` and `failed` count what became of them, `stopped` says that a stop ended the loop.
    """

    def __init__(
        self,
        robot: Robot,
        queue: str,
        *,
        wait_seconds: float | None = 0,
        tags: Sequence[str] = (),
        reference: str | None = None,
        ids: Sequence[str] = (),
        limit: int | None = None,
        give_up_after: int | None = 5,
    ):
        self.queue = queue
        self.succeeded = 0
        self.failed = 0
        self.stopped = False
        self._robot = robot
        self._wait_seconds = wait_seconds
        filters = {"tags": list(tags), "reference": reference, "ids": list(ids)}
        self._filter = {name: value for name, value in filters.items() if value}
        self._limit = limit
        self._taken = 0
        self._give_up_after = give_up_after
        self._errors_in_a_row = 0
        self._last_error = ""
        self._next: dict[str, Any] | None = None
        self._next_is_known = False
        self._current: Task | None = None

    def __iter__(self) -> Iterator[Task]:
        self._robot._loops.append(self)
        renewing = _Renewing(self)
        try:
            while True:
                task = self._take()
                if task is None:
                    return
                self._current = task
                renewing.watch(task)
                yield task
                task._settle(None)
        finally:
            renewing.end()
            self._give_back()
            # An error that leaves the body ends this before anybody is told of it: the task at hand waits for its end.
            if self._current is None or self._current.ended:
                self._robot._loops.remove(self)

    def result(self) -> dict[str, Any]:
        """The figures, as an output of the job."""
        return {"succeeded": self.succeeded, "failed": self.failed, "stopped": self.stopped}

    def _take(self) -> Task | None:
        """The task that came with the end of the one before, else a new call, else None."""
        waits_until = None if self._wait_seconds is None else time.monotonic() + self._wait_seconds
        while True:
            if self._robot.job.stop_requested():
                self.stopped = True
                return None
            if self._limit is not None and self._taken >= self._limit:
                return None
            data, known = self._next, self._next_is_known
            self._next, self._next_is_known = None, False
            if data is None and not (known and self._wait_seconds == 0):
                left = _POLL_SECONDS if waits_until is None else waits_until - time.monotonic()
                data = self._ask(max(0, min(_POLL_SECONDS, int(left + 0.999))))
            if data is not None:
                self._taken += 1
                return Task(self._robot, data, self)
            if waits_until is not None and time.monotonic() >= waits_until:
                return None

    def _ask(self, wait_seconds: int) -> dict[str, Any] | None:
        body: dict[str, Any] = {"max": 1, "wait_seconds": wait_seconds}
        if self._filter:
            body["filter"] = self._filter
        answer = self._robot.client.call("POST", ("queues", self.queue, "take"), body, extra_seconds=wait_seconds)
        items = answer["items"]
        return items[0] if items else None

    def _wants_next(self, failure: str | None) -> bool:
        """Whether another task is wanted after this end; `failure` is its kind of error."""
        # The task that comes with the end of another one cannot be chosen by a filter.
        if self._filter or self._robot.job.stop_requested() or self._is_too_many(self._errors_with(failure)):
            return False
        return self._limit is None or self._taken < self._limit

    def _count(self, body: dict[str, Any]) -> None:
        """A task has ended by this body, whoever sent it."""
        failure = body.get("kind")
        self._errors_in_a_row = self._errors_with(failure)
        if failure is None:
            self.succeeded += 1
        else:
            self.failed += 1
            self._last_error = body["message"]

    def _check(self) -> None:
        """Goes no further where the errors are not those of the tasks."""
        if self._is_too_many(self._errors_in_a_row):
            raise TooManyErrors(
                f"{self._errors_in_a_row} tasks in a row failed with application errors; the fault is not in the "
                f"tasks, so the others are left for later. The last error: {self._last_error}",
                "too_many_errors",
            )

    def _errors_with(self, failure: str | None) -> int:
        return self._errors_in_a_row + 1 if failure == "application" else 0

    def _is_too_many(self, errors: int) -> bool:
        return self._give_up_after is not None and errors >= self._give_up_after

    def _give_back(self) -> None:
        """A task that came with the end of another one, and was never begun, is free again at once."""
        data, self._next, self._next_is_known = self._next, None, False
        if data is not None:
            # The moment at which it was taken is past by the coordinator's own clock, whatever that of this host says.
            Task(self._robot, data).postpone(data["started_at"])

    def _abandon(self, error: BaseException | None) -> None:
        """The program ends in the middle of the loop: nothing that it holds may wait for its lease."""
        if isinstance(error, Unreachable) or isinstance(error, ApiError) and error.code == "unauthenticated":
            # Nobody is there to be told; the leases run out, or end with the job.
            return
        task, self._current = self._current, None
        # An end that something else has answered may have been carried out: it must not become a failure.
        if task is not None and not task.ended and not task._end_is_unknown and error is not None:
            kind, code, message = told(error)
            task._end("fail", _failure(kind, message, code, None, None), False)
        self._give_back()


class _Renewing:
    """Renews the lease of the task at hand, where no heartbeat of a job does."""

    def __init__(self, loop: TaskLoop):
        self._task: Task | None = None
        self._ended = threading.Event()
        self._needed = loop._robot.job.id is None
        self._thread: threading.Thread | None = None

    def watch(self, task: Task) -> None:
        self._task = task
        if self._needed and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="drover-renewing", daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while True:
            task = self._task
            if self._ended.wait(_renewal_seconds(task.data if task else {})):
                return
            if task is None or task is not self._task or task.ended:
                continue
            try:
                task.renew()
            except DroverError as error:
                # The end of the task will say so again, where it can be handled.
                _log.write("debug", f"the lease of task {task.reference or task.id} was not renewed: {error}")


def _renewal_seconds(data: dict[str, Any]) -> float:
    """A third of the lease, as the coordinator gave it."""
    try:
        ends, began = (_parsed(data[name]) for name in ("lease_ends_at", "started_at"))
        return min(300.0, max(0.3, (ends - began).total_seconds() / 3))
    except (KeyError, ValueError):
        return 20.0


def _parsed(time: Any) -> datetime.datetime:
    return datetime.datetime.fromisoformat(str(time).replace("Z", "+00:00"))


class BulkResult:
    """What became of many tasks that were added. `errors` holds the first 1,000 as (line, text); lines count from 1."""

    def __init__(self) -> None:
        self.added = 0
        self.duplicates = 0
        self.failed = 0
        self.errors: list[tuple[int, str]] = []

    def __repr__(self) -> str:
        return f"BulkResult(added={self.added}, duplicates={self.duplicates}, failed={self.failed})"

    def as_dict(self) -> dict[str, int]:
        return {"added": self.added, "duplicates": self.duplicates, "failed": self.failed}


def new_task(
    payload: Any,
    reference: str | None = None,
    *,
    name: str | None = None,
    priority: int | None = None,
    deadline: When | None = None,
    postponed_until: When | None = None,
    tags: Sequence[str] = (),
    comment: str | None = None,
    max_attempts: int | None = None,
) -> dict[str, Any]:
    """A task that is to be added, for `add_tasks`."""
    task: dict[str, Any] = {"payload": payload}
    more = {
        "reference": reference,
        "name": name,
        "priority": priority,
        "deadline": None if deadline is None else moment(deadline),
        "postponed_until": None if postponed_until is None else moment(postponed_until),
        "tags": list(tags) or None,
        "comment": comment,
        "max_attempts": max_attempts,
    }
    task.update((name, value) for name, value in more.items() if value is not None)
    return task


def add_tasks(
    robot: Robot,
    queue: str,
    tasks: Iterable[dict[str, Any]],
    *,
    key: str | None = None,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> BulkResult:
    """
    Adds many, in pieces of which each may be sent again. A piece begins with as many blank lines as tasks of its key
    come before it: so the key and the number of a task depend on its place alone, and not on where pieces are cut,
    which the length of any other may change.
    """
    key = key or str(uuid.uuid4())
    result = BulkResult()
    for first, piece in _pieces(tasks):
        number, before = divmod(first, _KEY_LINES)
        answers = robot.client.send(
            "POST",
            ("queues", queue, "tasks", "bulk"),
            b"\n" * before + b"".join(line.content for line in piece),
            {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"},
            key=f"{key}.{number}",
            extra_seconds=60,
            take=_bulk_lines,
        )
        if len(answers) != len(piece):
            text = f"{len(piece)} tasks were sent, but {len(answers)} were answered"
            raise DroverError(f"{text}: repeat it with key={key!r}")
        for line, answer in zip(piece, answers):
            answer["line"] += first - before
            if line.error is not None:
                answer["error"] = {"code": "bad_request", "detail": line.error}
            _count_line(result, answer)
            if each is not None:
                each(answer)
    return result


class _Line(NamedTuple):
    content: bytes
    # Why it stands in the place of a task.
    error: str | None = None


def _line(task: dict[str, Any]) -> _Line:
    """
    In the place of a task that is no JSON stands a line that the coordinator refuses: so the others keep their numbers,
    and the task can be mended and sent under the same key.
    """
    try:
        return _Line(_json.encoded(task) + b"\n")
    except _json.NOT_JSON as error:
        return _Line(b"null\n", _json.text(f"The task cannot be written as JSON: {error}"))


def _pieces(tasks: Iterable[dict[str, Any]]) -> Iterator[tuple[int, list[_Line]]]:
    """Lines that are sent together, with the place of the first among all, counted from 0."""
    piece: list[_Line] = []
    first = size = 0
    for place, line in enumerate(map(_line, tasks)):
        if piece and (place % _KEY_LINES == 0 or size + len(line.content) > _PIECE_BYTES):
            yield first, piece
            piece, first, size = [], place, 0
        piece.append(line)
        size += len(line.content)
    if piece:
        yield first, piece


def _bulk_lines(answer: Answer) -> list[dict[str, Any]]:
    """One answer per line; the sum at the end shows that nothing is missing."""
    lines = [answer.decoded(line) for line in answer.read().splitlines() if line.strip()]
    if not lines or "added" not in lines[-1]:
        raise Lost("the answer broke off")
    return lines[:-1]


def _count_line(result: BulkResult, answer: dict[str, Any]) -> None:
    if "id" in answer:
        result.added += 1
    elif "duplicate_of" in answer:
        result.duplicates += 1
    else:
        result.failed += 1
        if len(result.errors) < _MAX_ERRORS:
            error = answer.get("error") or {}
            fields = "; ".join(f"{field['pointer']}: {field['detail']}" for field in error.get("errors", []))
            result.errors.append((answer["line"], fields or str(error.get("detail", "not valid"))))
