"""What the services need of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from holdfast_scheduler.model import Command, TaskRow
from holdfast_scheduler.settings import Settings
from holdfast_scheduler.watching import Watchers

P = ParamSpec("P")
T = TypeVar("T")


class Engine(Protocol):
    """The engine, as the services see it; `engine.Engine` is the one there is, tests bring their own."""

    @property
    def settings(self) -> Settings:
        """The settings of this scheduler."""

    @property
    def watchers(self) -> Watchers:
        """Who waits for which run."""

    @property
    def replica(self) -> bytes:
        """Id of this replica."""

    @property
    def replica_id(self) -> str:
        """Name of this replica."""

    def submit(self, command: Command) -> asyncio.Future[Any]:
        """Carry out a command of `model`; the future has its outcome after the commit. Raises, in it: RequestError."""

    async def do(self, command: Command) -> Any:
        """The same, awaited."""

    async def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query of `reads` in a reader's thread."""

    async def task(self, namespace: str, task_id: str) -> TaskRow | None:
        """The newest definition of a task."""

    async def task_ids(self, namespace: str) -> list[str]:
        """All tasks of a namespace."""

    def workers(self, namespace: str, task_id: str, version: str = "") -> int:
        """Connected workers that have the task; only those of a version, if one is given."""
