"""
Drover for robots written in Python: the job's input and output, tasks of queues, resources, files, log and progress.

    import drover

    def book(task):
        if task.payload["total"] <= 0:
            raise drover.BusinessError("nothing to book", code="no_amount")
        return {"booked": task.payload["total"]}

    drover.run(lambda robot: robot.work("invoices", book))

Standard library only, Python 3.9 or newer. See README.md beside this package.
"""

from __future__ import annotations

from typing import Any, Callable, NoReturn

from . import _job
from ._client import Client
from ._errors import (
    AlreadyExists,
    ApiError,
    ApplicationError,
    BusinessError,
    Changed,
    Damaged,
    DroverError,
    NotConnected,
    NotFound,
    StaleAttempt,
    TaskFailure,
    TooManyErrors,
    Unreachable,
)
from ._job import Job
from ._log import LogHandler
from ._resources import Credential, Secret
from ._robot import Robot
from ._storage import Storage
from ._tasks import BulkResult, Task, TaskLoop, new_task

__version__ = "0.1.0"
__all__ = [
    "AlreadyExists",
    "ApiError",
    "ApplicationError",
    "BulkResult",
    "BusinessError",
    "Changed",
    "Client",
    "Credential",
    "Damaged",
    "DroverError",
    "Job",
    "LogHandler",
    "NotConnected",
    "NotFound",
    "Robot",
    "Secret",
    "StaleAttempt",
    "Storage",
    "Task",
    "TaskFailure",
    "TaskLoop",
    "TooManyErrors",
    "Unreachable",
    "new_task",
    "run",
]


def run(main: Callable[..., Any], robot: Robot | None = None) -> NoReturn:
    """
    Runs `main(robot)`, or `main()`, and ends the program: what it returns is the output of the job, what it raises the
    job's error. A stop that is asked does not break `main` off: `robot.stop_requested()` tells.
    """
    _job.run(main, robot or Robot())
