"""What a task says of a start that cannot be settled, and of a run that is left alone."""

from __future__ import annotations

from airflow_provider_runs.base.decisions import Absent, Attempt, Decision, Recorded, Seen
from airflow_provider_runs.base.exceptions import RequestRefused, StartUncertain
from airflow_provider_runs.base.record import StartRecord
from airflow_provider_runs.core.api import CanCancel, Unsure
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.run import Run


def changed(record: StartRecord, attempt: Attempt) -> str:
    """
    Return what has become of the task since.

    :param record: what was begun, of an older generation.
    :param attempt: the present try.
    """
    return "cleared" if attempt.is_cleared(record) else "changed"


def failure(
    decision: Decision, record: StartRecord, attempt: Attempt, seen: Run | RunsError | Absent
) -> RunsError:
    """
    Return what the task fails with where nothing more can be found out about a record.

    :param decision: the cell of the table.
    :param record: what was begun.
    :param attempt: the present try.
    :param seen: what the service says.
    """
    service = attempt.api_class.service
    begun = f"an earlier try may have started a {service} run"
    if decision.recorded in (Recorded.DOOMED, Recorded.SPARED):
        return StartUncertain(
            f"run {record.run_id or '(id unknown)'} of this task before it was {changed(record, attempt)} "
            f"may still go on, and it is unknown whether it does: {seen}"
        )
    match decision.seen:
        case Seen.NOT_ASKED:
            return RequestRefused(
                f"{begun} that cannot be found again. Look for it in {service}; clear the task to start "
                "another run"
            )
        case Seen.UNSURE:
            return RequestRefused(
                f"{seen}. Look which of them is this task's; clear the task to start another run "
                f"(on_unknown_start is {attempt.rules.on_unknown_start})"
            )
        case Seen.LOCKED_OUT:
            # New credentials may tell: a later try is worth it, as nothing else can find this run.
            return StartUncertain(
                f"{begun}, and it may not be asked for: {seen}. A retry of the task asks again"
            )
        case Seen.BAD_INPUT:
            return StartUncertain(f"{begun}, which cannot be looked for: {seen}")
        case Seen.REFUSED | Seen.GONE:
            return RequestRefused(
                f"{begun}, which cannot be looked for: {seen}. Look for it in {service}; clear the task to "
                "start another run"
            )
    assert isinstance(seen, RunsError)
    return seen


def uncertain(answer: RunsError, found: RunsError | Absent, *, is_recorded: bool) -> StartUncertain:
    """
    Return what the task fails with where its own request may have started a run.

    :param answer: what the request ended with.
    :param found: what a look for the run has brought; the answer itself where nobody looked.
    :param is_recorded: whether a retry can find out.
    """
    reason = f"{answer}. The run may have been started"
    if isinstance(found, Unsure):
        reason = f"{reason}; {found}"
    elif isinstance(found, RunsError) and found is not answer:
        return StartUncertain(f"{reason}; looking for it failed too: {found}")
    if not is_recorded:
        return StartUncertain(f"{reason}; nothing keeps a retry from starting another: look for it first")
    return StartUncertain(f"{reason}; a retry of the task finds out before it starts another")


def left_alone(record: StartRecord, attempt: Attempt, seen: Run | RunsError | Absent) -> str | None:
    """
    Return what the log says of a run of an older generation that is left alone, if it is.

    :param record: what was begun.
    :param attempt: the present try.
    :param seen: what the service says.
    """
    service, was = attempt.api_class.service, f"the task was {changed(record, attempt)}"
    if isinstance(seen, Unsure):
        return f"{seen}. It is left alone"
    if isinstance(seen, Run) and not seen.state.is_terminal:
        can_cancel = issubclass(attempt.api_class, CanCancel)
        reason = "cancel_on_kill is off" if can_cancel else f"{service} cannot cancel"
        return f"Run {seen.id}, started before {was}, goes on beside the new one ({reason}): {seen.url}"
    # The arguments of now do not find what other arguments started.
    is_elsewhere = record.resumes is None and record.fingerprint != attempt.fingerprint
    is_lost = record.run_id is None and not record.refused
    if seen is Absent.NO_RUN and is_lost and (is_elsewhere or not attempt.can_find(record)):
        return (
            f"A {service} run may have been started before {was}. Its answer never came, so its id is not "
            "known and it is left alone"
        )
    return None
