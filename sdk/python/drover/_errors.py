"""Everything that can go wrong. Each text says what happened and what helps."""

from __future__ import annotations

from typing import Any

# What helps against a refusal, by its code. The coordinator's own text stands before it.
_REMEDIES: dict[str, str] = {
    "unauthenticated": "The key of a job is good only while its attempt runs. Outside of a job set DROVER_KEY.",
    "forbidden": "A job may reach only what process.toml names under [requires]: queues, resources, storages.",
    "not_found": "Check the name; what process.toml does not name under [requires] is not there for a job.",
    "stale_attempt": "Somebody else has this task by now: stop working on it.",
    "already_exists": "It is there already; the error's attribute `id` names it.",
    "too_large": "Put large data into a file: an artifact, a storage folder, or a file of the task.",
    "out_of_space": "The coordinator's disk is full; nothing was changed.",
}


class DroverError(Exception):
    """Anything that this package raises by itself."""


class NotConnected(DroverError):
    """No coordinator is named: the program does not run under Drover, and no address and key were given."""


class Unreachable(DroverError):
    """The coordinator did not answer within the time that is allowed for repetitions."""


class Damaged(DroverError):
    """What arrived is not what was sent: its digest differs."""


class Changed(DroverError):
    """A file became shorter while it was sent, and was not kept there. Send it when nobody writes it any more."""


class ApiError(DroverError):
    """
    The coordinator refused. `code` is its stable word for why (`not_found`, `stale_attempt` …), `status` the HTTP
    status, `detail` its text, `errors` one entry per field that is wrong, `id` the object that is in the way.
    """

    def __init__(self, status: int, problem: dict[str, Any], call: str):
        self.status = status
        self.code: str = str(problem.get("type", ""))
        self.title: str = str(problem.get("title", f"status {status}"))
        self.detail: str = str(problem.get("detail", ""))
        self.errors: list[dict[str, str]] = [error for error in problem.get("errors", []) if isinstance(error, dict)]
        self.id: str | None = problem.get("id")
        self.request_id: str = str(problem.get("request_id", ""))
        self.call = call
        super().__init__(self._text())

    def _text(self) -> str:
        parts = [f"{self.call}: {self.title}"]
        if self.detail and self.detail != self.title:
            parts[0] += f": {self.detail}"
        parts += [f"{error.get('pointer', '')}: {error.get('detail', '')}" for error in self.errors]
        remedy = self._remedy()
        if remedy:
            parts.append(remedy)
        parts.append(f"({self.code or self.status}, request {self.request_id or 'unknown'})")
        return " ".join(parts)

    def _remedy(self) -> str | None:
        # The resource is closed to all jobs, whatever process.toml names.
        if self.code == "forbidden" and "writable_by_jobs" in self.detail:
            return "Open it to jobs: drover resource update NAME --writable-by-jobs true."
        return _REMEDIES.get(self.code)


class NotFound(ApiError):
    """There is no such thing, or this key may not see it."""


class AlreadyExists(ApiError):
    """Another one has this name or reference; `id` is the id of that one."""


class StaleAttempt(ApiError):
    """The task is no longer ours: its lease ran out, or somebody ended it."""


_BY_CODE = {"not_found": NotFound, "already_exists": AlreadyExists, "stale_attempt": StaleAttempt}


def refusal(status: int, problem: dict[str, Any], call: str) -> ApiError:
    return _BY_CODE.get(str(problem.get("type")), ApiError)(status, problem, call)


class TaskFailure(Exception):
    """
    Raise a subclass of it to fail a task, or the job if no task is being worked on.

    `code` is a word or a number of your own for statistics, `output` is kept with the failed task, `retry` overrides
    what the queue says about trying again.
    """

    kind = "application"

    def __init__(
        self, message: str, code: str | int | None = None, *, output: Any = None, retry: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.output = output
        self.retry = retry


class BusinessError(TaskFailure):
    """The data or the rules of the business forbid it: trying again changes nothing, a person has to look at it."""

    kind = "business"


class ApplicationError(TaskFailure):
    """The program, or an application that it drives, failed: trying again may help."""


class TooManyErrors(ApplicationError):
    """One application error after another: the fault is not in the tasks. The others were left for later."""
