"""
What a try of a task does about the run that it or an earlier try began: one table, without I/O.

A record in Airflow's task state store (3.3 and later) says what was begun. :func:`decide` reads from the
table what is to be done about it; :class:`~airflow_provider_runs.base.start.DurableStart` does it, and asks
again.

A generation is one value of ``max_tries``, which Airflow raises when a task is cleared and keeps over
retries, and one fingerprint of what is asked for. A DAG file with fewer ``retries`` may bring a cleared task
back to the same ``max_tries``; then the DAG run's count of clears tells.

The whole table, in the names of :class:`Recorded`, :class:`Step` and :class:`Seen`, which say what each
means:

================ =============== ===========================================================================
recorded         what is done    where the service says
================ =============== ===========================================================================
nothing          start           not_asked
elsewhere        start           not_asked
others           start           not_asked
doomed           ask             not_asked
doomed           cancel          active, wanted
doomed           start           succeeded, failed, no_run, unsure, gone
doomed           fail_uncertain  bad_input, locked_out, refused, busy, limited, not_sent, unreachable
spared           ask             not_asked
spared           start           active, succeeded, failed, no_run, unsure, gone
spared           wait            wanted
spared           fail_uncertain  bad_input, locked_out, refused, busy, limited, not_sent, unreachable
known            ask             not_asked
known            start           failed
known            wait            active, succeeded, final
known            wait            gone, bad_input, locked_out, refused, busy, limited, not_sent, unreachable
keyed            send_again      not_asked
findable         ask             not_asked
findable         take_down       active, succeeded, failed
findable         repeat          no_run, ignorable
findable         adopt           adoptable
findable         fail            busy, limited, not_sent, unreachable
findable         fail_uncertain  bad_input, locked_out
findable         fail_for_good   unsure, gone, refused
retried          ask             not_asked
retried          take_down       active, succeeded, failed
retried          repeat          no_run, ignorable
retried          start           gone
retried          adopt           adoptable
retried          fail            busy, limited, not_sent, unreachable
retried          fail_uncertain  bad_input, locked_out
retried          fail_for_good   unsure, refused
lost             fail_for_good   not_asked
sent             wait            active, succeeded, failed
sent             ask             limited, unreachable
sent             fail            busy, not_sent
sent             fail_for_good   bad_input, locked_out, refused, gone
sent_keyed       wait            active, succeeded, failed
sent_keyed       ask             unreachable
sent_keyed       send_again      not_sent, limited
sent_keyed       fail            busy
sent_keyed       fail_for_good   bad_input, locked_out, refused, gone
sent_again       take_down       active, succeeded, failed
sent_again       ask             unreachable
sent_again       send_again      not_sent, limited
sent_again       fail            busy
sent_again       fail_uncertain  locked_out
sent_again       fail_for_good   bad_input, refused, gone
repeated         wait            active, succeeded, failed
repeated         ask             unreachable
repeated         send_again      not_sent, limited
repeated         fail            busy
repeated         fail_uncertain  bad_input, locked_out, refused, gone
sent_retry       wait            active, succeeded, failed
sent_retry       ask             bad_input, locked_out, refused, gone, limited, unreachable
sent_retry       fail            busy, not_sent
unanswered       wait            active, succeeded, failed
unanswered       fail_uncertain  no_run, unsure, gone, bad_input, locked_out, refused
unanswered       fail_uncertain  busy, limited, not_sent, unreachable
unanswered_keyed wait            active, succeeded, failed
unanswered_keyed send_again      no_run, busy, limited, not_sent, unreachable
unanswered_keyed fail_uncertain  unsure, gone, bad_input, locked_out, refused
unanswered_again take_down       active, succeeded, failed
unanswered_again send_again      no_run, busy, limited, not_sent, unreachable
unanswered_again fail_uncertain  unsure, gone, bad_input, locked_out, refused
refused_retry    wait            active, succeeded, failed
refused_retry    start           no_run, gone, unsure
refused_retry    fail            bad_input, locked_out, refused, busy, limited, not_sent, unreachable
refused_resume   wait            active, succeeded, failed
refused_resume   fail            bad_input, locked_out, refused, busy, limited, not_sent, unreachable
refused_resume   fail_for_good   no_run, gone, unsure
================ =============== ===========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from airflow_provider_runs.base.record import StartRecord
from airflow_provider_runs.core.api import CanCancel, CanFindStarted, CanFindUnmarked, RunApi, Unsure
from airflow_provider_runs.core.errors import (
    AlreadyRunning,
    ApiError,
    BadInput,
    ConnectionFailed,
    NotFound,
    RunsError,
    Unauthorized,
    is_permanent,
)
from airflow_provider_runs.core.progress import UNREACHABLE_TIMEOUT
from airflow_provider_runs.core.run import Run, RunState

IF_RUNNING = ("start", "attach", "skip", "fail")
"""
What becomes of a new start while another run of the same goes: it starts nevertheless, the newest of them is
waited for instead, the task is skipped, or it fails.
"""
ON_UNKNOWN_START = ("fail", "adopt", "start")
"""
What becomes of a start whose answer was lost, where runs carry no key and others may have been started, too:
the task fails, waits for the only run that could be its own, or starts another.
"""


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What the user chose.

    :param retry_from_failure: whether a retry goes on with the run of the try before, where that ended badly.
    :param if_running: what becomes of a new start while another run goes: see :data:`IF_RUNNING`.
    :param on_unknown_start: see :data:`ON_UNKNOWN_START`.
    :param cancel_superseded: whether a run of an older generation is cancelled.
    :param unreachable_timeout: seconds for which a start with a key is sent again while the service is
        unreachable, and for which any start is put off; None: for ever.
    :param is_final: whether the bad end of the recorded run of an earlier try is the task's verdict, so that
        no other run is started; told the run, the record, and whether the task may have been cleared since.
    """

    retry_from_failure: bool = False
    if_running: str = "start"
    on_unknown_start: str = "fail"
    cancel_superseded: bool = True
    unreachable_timeout: float | None = UNREACHABLE_TIMEOUT
    is_final: Callable[[Run, StartRecord, bool], bool] = lambda run, record, cleared: False


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One try of a task: Airflow's numbers, what it asks for, and what the user chose.

    :param api_class: the service's description: what it can do.
    :param fingerprint: of where the run goes and what is asked for, see
        :func:`~airflow_provider_runs.base.record.fingerprint_of`.
    :param max_tries: Airflow's ``max_tries``.
    :param is_retry: whether Airflow's numbers say that this try is a retry.
    :param clears: how often anything in the DAG run has been cleared; None where Airflow does not tell.
    :param resumes: id of the ended run that the task goes on with; None: it starts a new one.
    :param rules: what the user chose.
    """

    api_class: type[RunApi]
    fingerprint: str
    max_tries: int
    is_retry: bool = False
    clears: int | None = None
    resumes: str | None = None
    rules: Rules = Rules()

    def is_cleared(self, record: StartRecord) -> bool:
        """
        Tell whether the task was cleared since, also where changed retries hide it in the numbers.

        :param record: what was begun.
        """
        if record.max_tries != self.max_tries:
            return True
        return not self.is_retry and None not in (record.clears, self.clears) and record.clears != self.clears

    def is_other(self, record: StartRecord) -> bool:
        """
        Tell whether a record is of another generation: the task was cleared, or asks for something else now.

        :param record: what was begun.
        """
        return self.is_cleared(record) or record.fingerprint != self.fingerprint

    def clears_changed(self, record: StartRecord) -> bool:
        """
        Tell whether something in the DAG run may have been cleared since: maybe this task, while it ran.

        :param record: what was begun.
        """
        return self.clears is None or record.clears != self.clears

    def can_find(self, record: StartRecord) -> bool:
        """
        Tell whether a run can be found whose id nobody has taken down.

        :param record: what was begun.
        """
        return record.resumes is not None or issubclass(self.api_class, (CanFindStarted, CanFindUnmarked))

    def has_key(self, record: StartRecord) -> bool:
        """
        Tell whether the recorded request may be sent again without starting a second run.

        :param record: what was begun.
        """
        return self.api_class.takes_key and record.resumes is None

    @property
    def cancels(self) -> bool:
        """Whether a run of an older generation is cancelled."""
        return self.rules.cancel_superseded and issubclass(self.api_class, CanCancel)


class Absent(Enum):
    """What is there instead of a run or an error."""

    NOT_ASKED = "the service has not been asked"
    NO_RUN = "no run was found"


class Stage(Enum):
    """How far this try has come with the recorded request."""

    BEFORE = "it was begun by an earlier try"
    SENT = "this try has sent it"
    SENT_AGAIN = "this try has sent again what an earlier one had begun, with the same key"
    REPEATED = "this try has sent it again, after an answer that told nothing"
    UNANSWERED = "this try got no answer that says whether a run was started"
    UNANSWERED_AGAIN = "as UNANSWERED, of what an earlier try had begun"
    REFUSED = "the service refuses to go on with the ended run"


class Recorded(Enum):
    """What the start record is to this try."""

    NOTHING = "no record, or one of a request that was refused"
    ELSEWHERE = "of an older generation, through another connection or scope"
    OTHERS = "of an older generation, of a run that somebody else started"
    DOOMED = "of an older generation, whose run is to be cancelled"
    SPARED = "of an older generation, whose run must not or cannot be cancelled"
    KNOWN = "with the run's id"
    KEYED = "without the run's id; its request can be sent again with the same key"
    FINDABLE = "without the run's id; the run can be found"
    RETRIED = "without the run's id; a failed run was to be gone on with, which can be looked at"
    LOST = "without the run's id; nothing finds the run"
    SENT = "just sent"
    SENT_KEYED = "just sent, with a key"
    SENT_AGAIN = "just sent again, with the key of an earlier try"
    REPEATED = "just sent once more with its key, after an answer that told nothing"
    SENT_RETRY = "just sent, to go on with an ended run"
    UNANSWERED = "just sent, without a usable answer"
    UNANSWERED_KEYED = "just sent with a key, without a usable answer"
    UNANSWERED_AGAIN = "just sent again, with the key of an earlier try, without a usable answer"
    REFUSED_RETRY = "to go on with the failed run of the try before, which is refused"
    REFUSED_RESUME = "to go on with the run that the user named, which is refused"


class Seen(Enum):
    """What the service says about the recorded run or request."""

    NOT_ASKED = "nothing yet"
    ACTIVE = "it has not ended"
    WANTED = "it has not ended, and is the one that the task goes on with"
    SUCCEEDED = "it has succeeded"
    FAILED = "it ended badly"
    FINAL = "it ended badly, which is the task's verdict"
    NO_RUN = "there is none"
    GONE = "it is not known any more"
    UNSURE = "nothing tells which run it is"
    ADOPTABLE = "nothing tells, one run could be it, and on_unknown_start is adopt"
    IGNORABLE = "nothing tells, and on_unknown_start is start"
    BAD_INPUT = "the request for it would be wrong"
    LOCKED_OUT = "the credentials are refused"
    REFUSED = "the request is refused for good"
    BUSY = "the service starts none while another one goes"
    LIMITED = "the service has had too many requests"
    NOT_SENT = "the service is unreachable; the request has surely not left"
    UNREACHABLE = "the service is unreachable or refuses for now; the request may have arrived"


class Step(Enum):
    """What is to be done."""

    START = "record and send a request for another run"
    CANCEL = "cancel the run, then start another"
    ASK = "ask the service for the run"
    SEND_AGAIN = "send the same request with the same key"
    REPEAT = "send the request once more, as it has had no effect"
    TAKE_DOWN = "record the run's id, and decide again"
    ADOPT = "record the run as somebody else's, and wait for it"
    WAIT = "wait for the run, which is over at once if it has ended"
    FAIL = "fail with the service's error; a retry of the task tries again"
    FAIL_UNCERTAIN = "fail, as a run may have been started; a retry of the task finds out"
    FAIL_FOR_GOOD = "fail without a retry"


_RUNS = (Seen.ACTIVE, Seen.SUCCEEDED, Seen.FAILED)
_PERMANENT = (Seen.BAD_INPUT, Seen.LOCKED_OUT, Seen.REFUSED, Seen.GONE)
_FOR_NOW = (Seen.BUSY, Seen.LIMITED, Seen.NOT_SENT, Seen.UNREACHABLE)
_OF_OLDER = {
    Seen.NOT_ASKED: Step.ASK,
    Seen.SUCCEEDED: Step.START,
    Seen.FAILED: Step.START,
    Seen.NO_RUN: Step.START,
    Seen.UNSURE: Step.START,
    **dict.fromkeys((*_PERMANENT, *_FOR_NOW), Step.FAIL_UNCERTAIN),
    Seen.GONE: Step.START,
}
_OF_FINDABLE = {
    Seen.NOT_ASKED: Step.ASK,
    **dict.fromkeys(_RUNS, Step.TAKE_DOWN),
    Seen.NO_RUN: Step.REPEAT,
    Seen.UNSURE: Step.FAIL_FOR_GOOD,
    Seen.ADOPTABLE: Step.ADOPT,
    Seen.IGNORABLE: Step.REPEAT,
    Seen.GONE: Step.FAIL_FOR_GOOD,
    Seen.REFUSED: Step.FAIL_FOR_GOOD,
    Seen.BAD_INPUT: Step.FAIL_UNCERTAIN,
    Seen.LOCKED_OUT: Step.FAIL_UNCERTAIN,
    **dict.fromkeys(_FOR_NOW, Step.FAIL),
}
_OF_SENT = {
    **dict.fromkeys(_RUNS, Step.WAIT),
    **dict.fromkeys(_PERMANENT, Step.FAIL_FOR_GOOD),
    Seen.BUSY: Step.FAIL,
    Seen.NOT_SENT: Step.FAIL,
    Seen.LIMITED: Step.ASK,
    Seen.UNREACHABLE: Step.ASK,
}
_AGAIN = dict.fromkeys((Seen.NOT_SENT, Seen.LIMITED), Step.SEND_AGAIN)
_OF_UNANSWERED = {
    **dict.fromkeys(_RUNS, Step.WAIT),
    **dict.fromkeys((Seen.NO_RUN, Seen.UNSURE, *_PERMANENT, *_FOR_NOW), Step.FAIL_UNCERTAIN),
}
_OF_UNANSWERED_KEYED = {
    **_OF_UNANSWERED,
    **dict.fromkeys((Seen.NO_RUN, *_FOR_NOW), Step.SEND_AGAIN),
}
_OF_REFUSED = {
    **dict.fromkeys(_RUNS, Step.WAIT),
    **dict.fromkeys((*_PERMANENT, *_FOR_NOW), Step.FAIL),
}

TABLE: Mapping[Recorded, Mapping[Seen, Step]] = {
    Recorded.NOTHING: {Seen.NOT_ASKED: Step.START},
    Recorded.ELSEWHERE: {Seen.NOT_ASKED: Step.START},
    Recorded.OTHERS: {Seen.NOT_ASKED: Step.START},
    Recorded.DOOMED: {**_OF_OLDER, Seen.ACTIVE: Step.CANCEL, Seen.WANTED: Step.CANCEL},
    Recorded.SPARED: {**_OF_OLDER, Seen.ACTIVE: Step.START, Seen.WANTED: Step.WAIT},
    Recorded.KNOWN: {
        Seen.NOT_ASKED: Step.ASK,
        **dict.fromkeys((Seen.ACTIVE, Seen.SUCCEEDED, Seen.FINAL), Step.WAIT),
        Seen.FAILED: Step.START,
        **dict.fromkeys((*_PERMANENT, *_FOR_NOW), Step.WAIT),
    },
    Recorded.KEYED: {Seen.NOT_ASKED: Step.SEND_AGAIN},
    Recorded.FINDABLE: _OF_FINDABLE,
    Recorded.RETRIED: {**_OF_FINDABLE, Seen.GONE: Step.START},
    Recorded.LOST: {Seen.NOT_ASKED: Step.FAIL_FOR_GOOD},
    Recorded.SENT: _OF_SENT,
    Recorded.SENT_KEYED: {**_OF_SENT, **_AGAIN},
    Recorded.SENT_AGAIN: {
        **_OF_SENT,
        **_AGAIN,
        **dict.fromkeys(_RUNS, Step.TAKE_DOWN),
        Seen.LOCKED_OUT: Step.FAIL_UNCERTAIN,
    },
    Recorded.REPEATED: {**_OF_SENT, **_AGAIN, **dict.fromkeys(_PERMANENT, Step.FAIL_UNCERTAIN)},
    Recorded.SENT_RETRY: {**_OF_SENT, **dict.fromkeys(_PERMANENT, Step.ASK)},
    Recorded.UNANSWERED: _OF_UNANSWERED,
    Recorded.UNANSWERED_KEYED: _OF_UNANSWERED_KEYED,
    Recorded.UNANSWERED_AGAIN: {**_OF_UNANSWERED_KEYED, **dict.fromkeys(_RUNS, Step.TAKE_DOWN)},
    Recorded.REFUSED_RETRY: {
        **_OF_REFUSED,
        **dict.fromkeys((Seen.NO_RUN, Seen.GONE, Seen.UNSURE), Step.START),
    },
    Recorded.REFUSED_RESUME: {
        **_OF_REFUSED,
        **dict.fromkeys((Seen.NO_RUN, Seen.GONE, Seen.UNSURE), Step.FAIL_FOR_GOOD),
    },
}
"""What is to be done, by what is recorded and by what the service says of it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    A cell of the table.

    :param recorded: what the record is to this try.
    :param seen: what the service says.
    :param step: what is to be done.
    """

    recorded: Recorded
    seen: Seen
    step: Step


def decide(
    record: StartRecord | None,
    attempt: Attempt,
    seen: Run | RunsError | Absent = Absent.NOT_ASKED,
    stage: Stage = Stage.BEFORE,
) -> Decision:
    """
    Return what is to be done about a record.

    :param record: what was begun, None where nothing was.
    :param attempt: the present try.
    :param seen: what the service says about the recorded run or request.
    :param stage: how far this try has come with it.
    """
    recorded = _recorded(record, attempt, stage)
    saw = _seen(seen)
    match recorded, saw, seen:
        case Recorded.KNOWN, Seen.FAILED, Run() if record is not None:
            if attempt.rules.is_final(seen, record, attempt.clears_changed(record)):
                saw = Seen.FINAL
        case ((Recorded.DOOMED | Recorded.SPARED), Seen.ACTIVE, Run()) if seen.id == attempt.resumes:
            saw = Seen.WANTED
        case ((Recorded.FINDABLE | Recorded.RETRIED), Seen.UNSURE, Unsure()):
            rule = attempt.rules.on_unknown_start
            if rule == "start":
                saw = Seen.IGNORABLE
            elif rule == "adopt" and len(seen.runs) == 1:
                saw = Seen.ADOPTABLE
    return Decision(recorded, saw, TABLE[recorded][saw])


def _recorded(record: StartRecord | None, attempt: Attempt, stage: Stage) -> Recorded:
    if record is None or (record.refused and stage is Stage.BEFORE):
        return Recorded.NOTHING
    if stage is not Stage.BEFORE:
        return _of_this_try(record, attempt, stage)
    if attempt.is_other(record):
        return _of_older(record, attempt)
    if record.run_id is not None:
        return Recorded.KNOWN
    if attempt.has_key(record):
        return Recorded.KEYED
    if not attempt.can_find(record):
        return Recorded.LOST
    return Recorded.RETRIED if record.resumes is not None and attempt.resumes is None else Recorded.FINDABLE


def _of_this_try(record: StartRecord, attempt: Attempt, stage: Stage) -> Recorded:
    if stage is Stage.SENT and record.resumes is not None:
        return Recorded.SENT_RETRY
    if stage is Stage.REFUSED:
        return Recorded.REFUSED_RETRY if attempt.resumes is None else Recorded.REFUSED_RESUME
    if stage in (Stage.SENT, Stage.UNANSWERED) and attempt.has_key(record):
        return Recorded[f"{stage.name}_KEYED"]
    return Recorded[stage.name]


def _of_older(record: StartRecord, attempt: Attempt) -> Recorded:
    """A run id means nothing where the record's fingerprint names another place."""
    if record.fingerprint.split(".")[0] != attempt.fingerprint.split(".")[0]:
        return Recorded.ELSEWHERE
    if record.attached:
        return Recorded.OTHERS
    return Recorded.DOOMED if attempt.cancels else Recorded.SPARED


_KINDS: Mapping[type[RunsError], Seen] = {
    Unsure: Seen.UNSURE,
    BadInput: Seen.BAD_INPUT,
    NotFound: Seen.GONE,
    Unauthorized: Seen.LOCKED_OUT,
    AlreadyRunning: Seen.BUSY,
}


def _seen(seen: Run | RunsError | Absent) -> Seen:
    if isinstance(seen, Absent):
        return Seen[seen.name]
    if isinstance(seen, Run):
        if not seen.state.is_terminal:
            return Seen.ACTIVE
        return Seen.SUCCEEDED if seen.state is RunState.SUCCEEDED else Seen.FAILED
    for kind, saw in _KINDS.items():
        if isinstance(seen, kind):
            return saw
    if isinstance(seen, ConnectionFailed) and not seen.sent:
        return Seen.NOT_SENT
    if isinstance(seen, ApiError) and seen.is_limit:
        return Seen.LIMITED
    return Seen.REFUSED if is_permanent(seen) else Seen.UNREACHABLE
