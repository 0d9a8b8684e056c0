"""The spaces that a node keeps ready, and which of them answers.

Usually there is one. After a switch there are two until the rollback is given up: the new one
answers, and the old one goes on applying records, so that a rollback takes effect at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import close_live, redirect_live
from contracts.events.control_record import SpaceRef
from contracts.supervision.side_tasks import Run, SideTasks
from streams.registry.control_topic import Control

log = structlog.get_logger(__name__)

_POLL_S = 0.1
_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class ServedSpace:
    """An open space: its app, its long-running tasks by name, and a check of readiness."""

    app: Starlette
    runs: dict[str, Run]
    is_ready: Callable[[], bool]


@dataclass(slots=True)
class _ManagedSpace:
    """One space: open, being opened (`serving` is None), or being closed (`task` is None)."""

    task: "asyncio.Task[None] | None" = None
    serving: ServedSpace | None = None
    ready: bool = False


class SpaceRouter:
    """The ASGI app that the server calls; it passes requests to the app of the answering space."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None, "want a space opened before the first request"
        await self.app(scope, receive, send)


class Spaces:
    """The spaces of a node, as the control topic wants them.

    `opening` opens a space, and `first` answers from the start.
    """

    def __init__(
        self,
        first: SpaceRef,
        opening: Callable[[SpaceRef], AbstractAsyncContextManager[ServedSpace]],
        side: SideTasks,
    ) -> None:
        self.router = SpaceRouter()
        self.opened = asyncio.Event()
        """It is set once the router has an app behind it."""
        self.named: list[str] = []
        """The spaces that the control topic names: those served, and one being made."""
        self._opening = opening
        self._side = side
        self._answering = first
        self._current = first
        self._wanted = [first]
        self._kept: dict[SpaceRef, _ManagedSpace] = {}
        self._changed = asyncio.Event()

    def describe(self) -> dict[str, Any]:
        """Return the space that answers, and for each space of the node whether it is ready."""
        return {
            "answering": self._answering.space,
            "kept": {ref.space: kept.ready for ref, kept in self._kept.items()},
        }

    def close_live(self) -> None:
        """Close the live connections of every space, since the server stops."""
        for kept in self._kept.values():
            if kept.serving is not None:
                close_live(kept.serving.app)

    async def run(self, follow: Callable[[], AsyncIterator[Control]]) -> None:
        """Run until cancelled, or until the space that answers fails.

        A control topic that cannot be followed leaves the spaces as they are.
        """

        async def control() -> None:
            await self._follow(follow())

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._side.forever("control", control))
            while True:
                self._reconcile(tasks)
                await self._changed.wait()
                self._changed.clear()

    async def _follow(self, followed: AsyncIterator[Control]) -> None:
        async for control in followed:
            self.named = control.spaces
            if control.active is not None:
                self._current = control.active.current
                self._wanted = control.active.served
                self._changed.set()

    def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        """Open what is wanted, answer in the current space once it is ready, close the rest."""
        for ref in self._wanted:
            if ref not in self._kept:
                kept = self._kept[ref] = _ManagedSpace()
                kept.task = tasks.create_task(self._keep_running(ref, kept), name=ref.space)
        if self._current != self._answering and self._kept[self._current].ready:
            self._answer(self._current)
        for ref, kept in self._kept.items():
            if ref not in self._wanted and ref != self._answering and kept.task is not None:
                kept.task.cancel()
                kept.task, kept.ready = None, False

    def _answer(self, ref: SpaceRef) -> None:
        before, now = self._kept[self._answering].serving, self._kept[ref].serving
        assert now is not None
        log.info("another space answers", space=ref.space, before=self._answering.space)
        redirect_live(now.app, None)
        # One assignment: a request is answered in the old space or in the new one.
        self.router.app = now.app
        self._answering = ref
        if before is not None:
            redirect_live(before.app, ref.space)

    async def _keep_running(self, ref: SpaceRef, kept: _ManagedSpace) -> None:
        try:
            while True:
                try:
                    await self._serve(ref, kept)
                except Exception as error:
                    if ref == self._answering:
                        raise
                    log.error("space not ready; trying again", space=ref.space, error=_cause(error))
                finally:
                    kept.serving, kept.ready = None, False
                await asyncio.sleep(_AGAIN_S)
        finally:
            del self._kept[ref]
            self._changed.set()

    async def _serve(self, ref: SpaceRef, kept: _ManagedSpace) -> None:
        async with self._opening(ref) as serving, asyncio.TaskGroup() as runs:
            kept.serving = serving
            if ref == self._answering:
                self.router.app = serving.app
                self.opened.set()
            for name, run in serving.runs.items():
                runs.create_task(_for_ever(name, run), name=f"{ref.space}: {name}")
            while not serving.is_ready():  # noqa: ASYNC110 - it changes often, without an event
                await asyncio.sleep(_POLL_S)
            kept.ready = True
            self._changed.set()


async def _for_ever(name: str, run: Run) -> None:
    await run()
    raise RuntimeError(f"{name} ended, but should run until cancelled")


def _cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or repr(error)
