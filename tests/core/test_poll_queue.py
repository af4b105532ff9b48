"""What is polled next, and with what, without a loop and a clock."""

from __future__ import annotations

import math

from airflow_provider_runs.core.poll_queue import MIN_BATCH_SIZE, Polled, PollQueue

INTERVAL = 10.0
SHARE = 0.5


def a_queue() -> PollQueue[Polled]:
    return PollQueue(lambda run, now: INTERVAL)


def runs(number: int, prefix: str = "r", **rest: bool) -> list[Polled]:
    return [Polled(f"{prefix}{index}", **rest) for index in range(number)]


def ids(batch: list[Polled]) -> list[str]:
    return [run.run_id for run in batch]


def test_an_empty_queue_has_nothing_due_and_nothing_ready() -> None:
    queue = a_queue()
    queue.collect_due(1e9, SHARE)
    assert queue.next_due() == math.inf
    assert not queue.has_ready
    assert queue.next_batch(10) == []


def test_what_is_due_becomes_ready_in_its_order_and_the_rest_stays() -> None:
    queue, (first, second, third) = a_queue(), runs(3)
    queue.schedule(second, 2.0)
    queue.schedule(first, 1.0)
    queue.schedule(third, 3.0)
    queue.collect_due(2.0, None)
    assert [ids(queue.next_batch(None)) for _ in range(3)] == [["r0"], ["r1"], []]
    assert queue.next_due() == third.due == 3.0
    assert first.due is None


def test_only_the_last_moment_counts_that_was_set() -> None:
    queue, (run,) = a_queue(), runs(1)
    queue.schedule(run, 1.0)
    queue.schedule(run, 5.0)
    queue.collect_due(2.0, None)
    assert not queue.has_ready
    queue.collect_due(5.0, None)
    assert queue.next_batch(None) == [run]


def test_what_nobody_wants_is_forgotten() -> None:
    queue, (gone, kept, left) = a_queue(), runs(3)
    for run in (gone, kept, left):
        queue.schedule(run, 1.0)
    gone.is_wanted = False
    queue.collect_due(1.0, None)
    kept.is_wanted = False
    assert [ids(queue.next_batch(None)) for _ in range(2)] == [["r2"], []]


def test_a_few_runs_are_polled_singly_and_more_together() -> None:
    for number, sizes in (
        (MIN_BATCH_SIZE - 1, [1] * (MIN_BATCH_SIZE - 1)),
        (MIN_BATCH_SIZE, [MIN_BATCH_SIZE]),
    ):
        queue = a_queue()
        for run in runs(number):
            queue.schedule(run, 1.0)
        queue.collect_due(1.0, SHARE)
        found = []
        while batch := queue.next_batch(50):
            found.append(len(batch))
        assert found == sizes


def test_a_batch_has_neighbours_and_is_no_longer_than_it_may_be() -> None:
    queue = a_queue()
    for run in reversed(runs(9)):
        queue.schedule(run, 1.0)
    queue.collect_due(1.0, SHARE)
    assert ids(queue.next_batch(5)) == ["r0", "r1", "r2", "r3", "r4"]
    assert ids(queue.next_batch(5)) == ["r5", "r6", "r7", "r8"]


def test_what_is_nearly_due_shares_the_request_of_what_is_due() -> None:
    queue, (due, *nearly, far) = a_queue(), runs(MIN_BATCH_SIZE + 1)
    queue.schedule(due, 1.0)
    for run in nearly:
        queue.schedule(run, 1.0 + SHARE * INTERVAL)
    queue.schedule(far, 1.1 + SHARE * INTERVAL)
    queue.collect_due(1.0, SHARE)
    assert queue.next_batch(50) == [due, *nearly]
    assert queue.next_due() == far.due


def test_what_is_nearly_due_keeps_its_moment_where_that_makes_no_batch() -> None:
    queue, (due, nearly) = a_queue(), runs(2)
    queue.schedule(due, 1.0)
    queue.schedule(nearly, 2.0)
    queue.collect_due(1.0, SHARE)
    assert queue.next_batch(50) == [due]
    assert not queue.has_ready
    assert queue.next_due() == nearly.due == 2.0


def test_a_search_is_a_batch_of_its_own_and_is_not_made_early() -> None:
    queue, known, (search, early) = a_queue(), runs(MIN_BATCH_SIZE), runs(2, "s", is_search=True)
    for run in known:
        queue.schedule(run, 1.0)
    queue.schedule(search, 1.0)
    queue.schedule(early, 2.0)
    queue.collect_due(1.0, SHARE)
    assert [ids(queue.next_batch(50)) for _ in range(3)] == [["s0"], ids(known), []]
    assert early.due == 2.0


def test_searches_and_runs_take_turns() -> None:
    queue = a_queue()
    for run in (*runs(3), *runs(3, "s", is_search=True)):
        queue.schedule(run, 1.0)
    queue.collect_due(1.0, None)
    assert [ids(queue.next_batch(None))[0] for _ in range(6)] == ["s0", "r0", "s1", "r1", "s2", "r2"]


def test_what_a_batch_did_not_answer_is_polled_singly_before_all_others() -> None:
    queue, (alone, *others) = a_queue(), runs(2 * MIN_BATCH_SIZE)
    for run in others:
        queue.schedule(run, 1.0)
    queue.retry_individually(alone)
    queue.collect_due(1.0, SHARE)
    assert [queue.next_batch(50) for _ in range(2)] == [[alone], others]


def test_what_is_ready_can_be_taken_back() -> None:
    queue, ready, (search,), (alone,) = a_queue(), runs(2), runs(1, "s", is_search=True), runs(1, "a")
    for run in (*ready, search):
        queue.schedule(run, 1.0)
    queue.retry_individually(alone)
    queue.collect_due(1.0, None)
    assert set(queue.drain()) == {*ready, search, alone}
    assert not queue.has_ready
