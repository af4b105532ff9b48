"""A run of any service: its normalised state, and the table that translates the service's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pendulum import DateTime


class RunState(str, Enum):
    """Where a run is, in words that all services share."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended. A word that nobody knows has not."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Run:
    """
    What a service said about a run at one moment.

    :param id: the service's id of the run.
    :param state: the normalised state.
    :param status: the service's own word for it.
    :param url: page of the run for people, or None.
    :param message: what the service says about how the run goes or ended, or None.
    :param started_at: when it started (UTC), or None where the service does not say.
    :param finished_at: when it ended (UTC), or None.
    :param created_at: when the service took it in (UTC), or None.
    """

    id: str
    state: RunState
    status: str
    url: str | None = None
    message: str | None = None
    started_at: DateTime | None = None
    finished_at: DateTime | None = None
    created_at: DateTime | None = None


def to_wait_for(runs: Sequence[Run]) -> Run | None:
    """
    Return the one of several runs on which somebody depends who needs one of them to succeed.

    One that has succeeded counts, else the first that has not ended, else the last: a run that failed may
    have been repeated by a later one. None where there is no run.

    :param runs: the runs, the newest first.
    """
    oldest_first = tuple(reversed(runs))
    succeeded = (run for run in oldest_first if run.state is RunState.SUCCEEDED)
    going = (run for run in oldest_first if not run.state.is_terminal)
    return next(succeeded, None) or next(going, None) or (runs[0] if runs else None)


LONGEST_MOMENT = 64
"""Characters of a time at most: what was read is kept."""


def moment(value: Any) -> DateTime | None:
    """
    Read a time in ISO 8601, with or without fraction; one without offset is in UTC. None: it is no such text.

    :param value: the text.
    """
    return _moment(value) if isinstance(value, str) and len(value) <= LONGEST_MOMENT else None


@lru_cache(maxsize=4096)  # lists tell the same again and again
def _moment(text: str) -> DateTime | None:
    import pendulum

    try:
        read = datetime.fromisoformat(text)
        # pendulum's own conversion takes five times as long, and a list tells thousands of times.
        utc = read.astimezone(UTC) if read.tzinfo else read
        return pendulum.DateTime(
            *(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond),
            tzinfo=pendulum.UTC,
        )
    except (ValueError, OverflowError):
        return None


class StatusTable:
    """
    A service's status words and the state that each means. Letter case does not matter.

    :param words: for each state its words. A word stands for one state only.
    """

    def __init__(self, words: Mapping[RunState, tuple[str, ...]]) -> None:
        self._states: dict[str, RunState] = {}
        for state, names in words.items():
            for name in names:
                if self._states.setdefault(name.casefold(), state) is not state:
                    raise ValueError(f"status word {name!r} stands for two states")

    def state(self, word: str) -> RunState:
        """
        Return the state that a word means, UNKNOWN for a word that the table lacks.

        :param word: the service's word.
        """
        return self._states.get(word.casefold(), RunState.UNKNOWN)

    def all_words(self) -> tuple[str, ...]:
        """Return every word of the table, in lower case."""
        return tuple(self._states)

    def active_words(self) -> tuple[str, ...]:
        """Return the words for runs that have not ended."""
        return (*self.words(RunState.PENDING), *self.words(RunState.RUNNING))

    def ended_words(self) -> tuple[str, ...]:
        """Return the words for runs that have ended, well or badly."""
        return tuple(word for word, state in self._states.items() if state.is_terminal)

    def words(self, state: RunState) -> tuple[str, ...]:
        """
        Return the words that mean a state.

        :param state: the state.
        """
        return tuple(word for word, meant in self._states.items() if meant is state)
