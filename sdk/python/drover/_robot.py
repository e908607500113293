"""The one object that everything hangs on: a job and a connection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Callable

from . import _log, _resources, _tasks
from ._client import Client
from ._job import Job
from ._storage import Storage
from ._tasks import BulkResult, Task, TaskLoop, When


class Robot:
    """
    A robot at work: what it is to do, and what it can reach.

    Under Drover `Robot()` is all there is to it; elsewhere give it a `Client`.
    """

    def __init__(self, client: Client | None = None, job: Job | None = None):
        self.job = job or Job()
        self._client = client
        self._loops: list[TaskLoop] = []

    @property
    def client(self) -> Client:
        """The connection, made when it is first needed: a program that needs none runs without a coordinator."""
        if self._client is None:
            self._client = Client.from_environment()
        return self._client

    # The job.

    @property
    def input(self) -> dict[str, Any]:
        """The input of the job."""
        return self.job.input

    def stop_requested(self) -> bool:
        """Whether the job is asked to end in order."""
        return self.job.stop_requested()

    def artifact(self, path: str) -> Any:
        """Where to write a file that is to be kept with the job."""
        return self.job.artifact(path)

    def progress(self, percent: float | None = None, text: str | None = None) -> None:
        """How far the job is."""
        self.job.progress(percent, text)

    def log(self, level: str, message: str, **fields: Any) -> None:
        """A line of the log, with fields by which it can be found."""
        _log.write(level, message, fields)

    def debug(self, message: str, **fields: Any) -> None:
        _log.write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        _log.write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        _log.write("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        _log.write("error", message, fields)

    # Tasks.

    def tasks(
        self,
        queue: str,
        *,
        wait_seconds: float | None = 0,
        tags: Sequence[str] = (),
        reference: str | None = None,
        ids: Sequence[str] = (),
        limit: int | None = None,
        give_up_after: int | None = 5,
    ) -> TaskLoop:
        """
        The tasks of a queue, one after another: `for task in robot.tasks("invoices"): with task: …`

        It ends when no task has waited for `wait_seconds` (None: never), when a stop is asked, or after `limit` tasks;
        it raises `TooManyErrors` when `give_up_after` tasks in a row failed with application errors (None: never).
        """
        return TaskLoop(
            self,
            queue,
            wait_seconds=wait_seconds,
            tags=tags,
            reference=reference,
            ids=ids,
            limit=limit,
            give_up_after=give_up_after,
        )

    def work(self, queue: str, handle: Callable[[Task], Any], **options: Any) -> dict[str, Any]:
        """
        Gives each task of a queue to `handle`, as `tasks` with the same options does. What it returns is the output of
        the task, what it raises its error. Answers how many succeeded and failed, to be the output of the job.
        """
        loop = self.tasks(queue, **options)
        for task in loop:
            with task:
                task.output = handle(task)
        return loop.result()

    def add_task(
        self,
        queue: str,
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
    ) -> str:
        """Adds one task and answers its id. Raises AlreadyExists if the queue wants unique references."""
        task = _tasks.new_task(
            payload,
            reference,
            name=name,
            priority=priority,
            deadline=deadline,
            postponed_until=postponed_until,
            tags=tags,
            comment=comment,
            max_attempts=max_attempts,
        )
        return str(self.client.call("POST", ("queues", queue, "tasks"), task)["id"])

    def add_tasks(
        self,
        queue: str,
        tasks: Iterable[dict[str, Any]],
        *,
        key: str | None = None,
        each: Callable[[dict[str, Any]], None] | None = None,
    ) -> BulkResult:
        """
        Adds any number of tasks, made by `new_task`, in bounded memory. One that is not valid, or whose reference is
        there already, holds up no other.

        `each` is called with the answer for each: `{line, id}`, `{line, duplicate_of}` or `{line, error}`. The same
        `key` with the same tasks within 24 hours adds nothing twice; those that were not valid may be mended in their
        places meanwhile.
        """
        return _tasks.add_tasks(self, queue, tasks, key=key, each=each)

    # Resources and files.

    def resource(self, name: str) -> Any:
        """
        The value of a resource, as it is meant for this robot: a text, a number, a boolean, JSON, a `Credential` or a
        `Secret`.
        """
        return _resources.read(self.client, name)

    def set_resource(self, name: str, value: Any) -> None:
        """Writes the value of a resource that jobs may write."""
        _resources.write(self.client, name, value)

    def storage(self, folder: str) -> Storage:
        """A storage folder."""
        return Storage(self.client, folder)

    def _clean_up(self, error: BaseException | None) -> None:
        """The program ends: tasks that are still held get their end."""
        for loop in list(self._loops):
            loop._abandon(error)
