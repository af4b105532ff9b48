"""Play the service by hand: answer the requests of a flow one after the other."""

from __future__ import annotations

from typing import TypeVar

from airflow_provider_runs.core.http import Flow, Request, Response

T = TypeVar("T")


def play(flow: Flow[T], *responses: Response | BaseException) -> tuple[list[Request], T]:
    """
    Run a flow against given answers; return the requests that it made, and its result.

    The flow must use up exactly these answers. What it raises is raised here.

    :param flow: what to run.
    :param responses: the answers in order. An exception is thrown into the flow instead of an answer.
    """
    requests: list[Request] = []
    left = list(responses)
    try:
        requests.append(next(flow))
        while left:
            answer = left.pop(0)
            if isinstance(answer, BaseException):
                requests.append(flow.throw(answer))
            else:
                requests.append(flow.send(answer))
    except StopIteration as end:
        if left:
            raise AssertionError(f"{len(left)} answers were not asked for: {left}") from None
        return requests, end.value
    flow.close()
    raise AssertionError(f"there is no answer for {requests[-1]}")
