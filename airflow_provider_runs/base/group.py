"""
Wait for a list of runs, or look at one once, through the watcher that all waits of a connection share.

Each run is watched by itself, so batches, the cap on requests and the view of outages are those of every
other wait. One listener hears for all of them: there is no task and no queue for each run, and the log gets a
few lines for the list instead of some for each run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace

from airflow_provider_runs.base.watch import (
    TOLD_AT_ONCE,
    Connect,
    Said,
    Tell,
    Waiter,
    Watcher,
    WatcherDied,
    with_watcher,
)
from airflow_provider_runs.core.errors import RunsError, is_permanent
from airflow_provider_runs.core.outcome import MOST_TOLD, Outcome, Verdict
from airflow_provider_runs.core.progress import Note, Progress, Topic, Watch
from airflow_provider_runs.core.run import Run

TELL_SECONDS = 10.0
"""What happens to the runs of a list is told so often at most."""
INTERVAL = 60.0
"""For a look, which asks about no run twice unless it failed."""


class _Listener:
    """Hear what is said about one run of a group."""

    __slots__ = ("_group", "_run_id")

    def __init__(self, group: Group, run_id: str) -> None:
        self._group = group
        self._run_id = run_id

    def put_nowait(self, said: Said, /) -> None:
        self._group.hear(self._run_id, said)


class Group:
    """
    Gather what is said about the runs of a list.

    :param run_ids: the runs, each once.
    """

    def __init__(self, run_ids: Sequence[str]) -> None:
        self.run_ids = run_ids
        self.outcomes: dict[str, Outcome] = {}
        """How the waits ended, as far as they have."""
        self._heard: list[Note | Outcome] = []
        """What the log does not know yet."""
        self._troubled: set[str] = set()
        self._named = 0
        self._ended = 0
        self._ended_told = 0
        self._changed = asyncio.Event()
        self._over = asyncio.Event()
        self._died: WatcherDied | None = None

    def listeners(self) -> dict[str, _Listener]:
        """Return who hears for each run that is still waited for, by the run's id."""
        return {run_id: _Listener(self, run_id) for run_id in self.run_ids if run_id not in self.outcomes}

    def hear(self, run_id: str, said: Said) -> None:
        """
        Take what is said about a run.

        :param run_id: the run.
        :param said: a line for a run's own log, how its wait ended, or that nobody watches any more.
        """
        if isinstance(said, WatcherDied):
            self._died = said
        elif isinstance(said, Outcome):
            self.outcomes[run_id] = said
            self._ended += said.verdict.is_of_the_run
            self._troubled.discard(run_id)
            self._heard.append(said)
        elif not self._concerns_the_list(run_id, said):
            return
        else:
            self._heard.append(said)
        if self._died is not None or len(self.outcomes) == len(self.run_ids):
            self._over.set()
        self._changed.set()

    async def wait(self) -> None:
        """
        Wait until the wait for each run is over.

        :raises WatcherDied: if the watcher ended before.
        """
        await self._over.wait()
        if len(self.outcomes) < len(self.run_ids):
            self._over.clear()
            died, self._died = self._died, None
            assert died is not None
            raise died

    async def wait_and_tell(self, tell: Tell) -> None:
        """
        Wait as :meth:`wait`, and say in turns what has happened.

        :param tell: called with what belongs in the task's log.
        """
        while not self._over.is_set():
            await self._changed.wait()
            self._changed.clear()
            await self._tell(tell)
            with suppress(TimeoutError):
                async with asyncio.timeout(TELL_SECONDS):
                    await self._over.wait()
        await self._tell(tell)
        await self.wait()

    def _concerns_the_list(self, run_id: str, note: Note) -> bool:
        """Tell whether a note on one run belongs in the log of the list: trouble once, no common status."""
        if note.topic is Topic.TROUBLE:
            self._troubled.add(run_id)
            return len(self._troubled) == 1
        if note.topic is Topic.RECOVERY:
            self._troubled.discard(run_id)
            return not self._troubled
        return note.alarming and self._may_name()

    def _may_name(self) -> bool:
        """Tell whether one more run may be named that has not ended."""
        self._named += 1
        return self._named <= MOST_TOLD

    async def _tell(self, tell: Tell) -> None:
        heard, self._heard = self._heard, []
        for number, said in enumerate(heard, start=1):
            if isinstance(said, Note):
                tell(said)
            elif said.verdict in (Verdict.FAILED, Verdict.CANCELLED):
                reason = f": {said.message}" if said.message else ""
                word = said.verdict.value
                tell(Note(f"Run {said.run_id} has ended as {word} ({said.status}){reason}", alarming=True))
            elif said.message and self._may_name():
                tell(Note(said.message, alarming=True))
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
        if self._ended > self._ended_told:
            self._ended_told = self._ended
            tell(Note(f"{self._ended} of {len(self.run_ids)} runs have ended"))


async def wait_for_runs(
    key: Hashable, connect: Connect, run_ids: Sequence[str], watch: Watch, service: str, tell: Tell
) -> Outcome:
    """
    Wait until each of many runs has ended, together with all other waits that have the same key.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    :param run_ids: the runs, each once; at least one.
    :param watch: how long each is waited for; its ``run_id`` is the name of the list.
    :param service: the service's name, for messages.
    :param tell: called, in the caller's own context, with what belongs in its log.
    """
    group = Group(run_ids)

    async def wait(watcher: Watcher) -> None:
        waiters = [
            Waiter(watcher.follow(replace(watch, run_id=run_id), service), listener)
            for run_id, listener in group.listeners().items()
        ]
        async with watcher.joined(waiters):
            await group.wait_and_tell(tell)

    await with_watcher(key, connect, wait)
    return Outcome.of_many(watch.run_id, (group.outcomes[run_id] for run_id in run_ids))


class _Glance(Progress):
    """Follow a look, which is over with the first answer about the run, or after it was asked for in vain."""

    attempts = 1
    answer: Run | RunsError

    def saw(self, run: Run, now: float) -> Outcome | None:
        self.answer = run
        return self._outcome(Verdict.UNKNOWN, "")

    def missed(self, error: RunsError, now: float, *, since: float | None = None) -> Outcome | None:
        self.failures += since is None
        if since is None and self.failures < self.attempts and not is_permanent(error):
            return None
        # Whoever gets it must not keep this event loop by its traceback.
        self.answer = error.with_traceback(None)
        return self._outcome(Verdict.UNKNOWN, "")


async def look_at_runs(
    key: Hashable, connect: Connect, run_ids: Sequence[str], service: str, attempts: int = 1
) -> dict[str, Run | RunsError]:
    """
    Ask about many runs once, in batches where the service can and singly what a batch does not answer.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    :param run_ids: the runs, each once.
    :param service: the service's name, for messages.
    :param attempts: how often a run is asked about at most, where asking fails.
    :return: for each run what the service said, or why it could not be asked about it.
    """
    group = Group(run_ids)
    glances: dict[str, _Glance] = {}

    async def look(watcher: Watcher) -> None:
        waiters = []
        for run_id, listener in group.listeners().items():
            glances[run_id] = watcher.follow(Watch(run_id, INTERVAL, INTERVAL), service, _Glance)
            glances[run_id].attempts = attempts
            waiters.append(Waiter(glances[run_id], listener))
        async with watcher.joined(waiters):
            await group.wait()

    await with_watcher(key, connect, look)
    return {run_id: glances[run_id].answer for run_id in run_ids}
