"""
Wait for a list of runs, through the poller that all waits of a connection share.

Each run is polled by itself, so batches, the rate limit and the view of outages are those of every other
wait. One subscriber takes the messages of all of them: there is no task and no queue for each run, and the
log gets a few lines for the list instead of some for each run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace

from airflow_provider_runs.base.channel import Connect
from airflow_provider_runs.base.poller import Tell, shared_poller
from airflow_provider_runs.base.subscriptions import DELIVERED_AT_ONCE, Message, Subscription
from airflow_provider_runs.core.outcome import MOST_TOLD, Outcome, Verdict
from airflow_provider_runs.core.progress import Note, Topic, Watch

TELL_SECONDS = 10.0
"""What happens to the runs of a list is told so often at most."""


class _RunOfGroup:
    """Takes the messages about one run of a group."""

    __slots__ = ("_group", "_run_id")

    def __init__(self, group: Group, run_id: str) -> None:
        self._group = group
        self._run_id = run_id

    def put_nowait(self, message: Message, /) -> None:
        self._group.take(self._run_id, message)


class Group:
    """
    Gather the messages about the runs of a list.

    :param run_ids: the runs, each once.
    """

    def __init__(self, run_ids: Sequence[str]) -> None:
        self.run_ids = run_ids
        self.outcomes: dict[str, Outcome] = {}
        """How the waits ended, as far as they have."""
        self._messages: list[Note | Outcome] = []
        """What the log does not know yet."""
        self._troubled: set[str] = set()
        self._named = 0
        self._ended = 0
        self._ended_told = 0
        self._changed = asyncio.Event()
        self._over = asyncio.Event()
        self._fault: Exception | None = None

    def subscribers(self) -> dict[str, _RunOfGroup]:
        """Return what takes the messages about each run, by the run's id."""
        return {run_id: _RunOfGroup(self, run_id) for run_id in self.run_ids}

    def take(self, run_id: str, message: Message) -> None:
        """
        Take a message about a run.

        :param run_id: the run.
        :param message: a line for a run's own log, how its wait ended, or a fault that ended all waits.
        """
        if isinstance(message, Exception):
            self._fault = message
        elif isinstance(message, Outcome):
            self.outcomes[run_id] = message
            self._ended += message.verdict.is_of_the_run
            self._troubled.discard(run_id)
            self._messages.append(message)
        elif not self._concerns_the_list(run_id, message):
            return
        else:
            self._messages.append(message)
        if self._fault is not None or len(self.outcomes) == len(self.run_ids):
            self._over.set()
        self._changed.set()

    async def wait(self, tell: Tell) -> None:
        """
        Wait until the wait for each run is over, and report in turns what has happened.

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
        if self._fault is not None:
            raise self._fault

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
        messages, self._messages = self._messages, []
        for number, said in enumerate(messages, start=1):
            if isinstance(said, Note):
                tell(said)
            elif said.verdict in (Verdict.FAILED, Verdict.CANCELLED):
                reason = f": {said.message}" if said.message else ""
                word = said.verdict.value
                tell(Note(f"Run {said.run_id} has ended as {word} ({said.status}){reason}", alarming=True))
            elif said.message and self._may_name():
                tell(Note(said.message, alarming=True))
            if number % DELIVERED_AT_ONCE == 0:
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
    async with shared_poller(key, connect) as poller:
        subscriptions = [
            Subscription(poller.follow(replace(watch, run_id=run_id), service), subscriber)
            for run_id, subscriber in group.subscribers().items()
        ]
        async with poller.subscribed(subscriptions):
            await group.wait(tell)
    return Outcome.of_many(watch.run_id, (group.outcomes[run_id] for run_id in run_ids))
