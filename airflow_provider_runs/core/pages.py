"""
Read a list page by page: the one place where a list of a service goes on, and where it ends.

A list ends where the service says so, or where its reader wants no more of it. A service whose list has no
end must hold nobody: a page that brings nothing new, :data:`MAX_PAGES` and :data:`MAX_SECONDS` end it, too.
Then nobody knows what else it would have shown, and that something is not in it means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ApiError, RunsError, is_too_long
from airflow_provider_runs.core.http import Flow, Request, Response

T = TypeVar("T")
Place = TypeVar("Place")
Row = dict[str, Any]

MAX_PAGES = 1000
"""Pages of one list at most. With the usual 100 rows of a page that is a list of 100,000 runs."""
MAX_SECONDS = 600.0
"""Seconds after which no further page is asked for."""
MAX_BYTES = 128 * 1024 * 1024
"""Bytes of a list's answers after which no further page is asked for."""


class IncompleteList(ApiError):
    """
    A list was not read to its end: the service says that it goes on, but it leads nowhere or is too long.

    What was read of it does not tell that something is not in it. A later call may read all of it.

    :param message: what was listed, and why that stopped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, status=200, permanent=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[Place]):
    """
    A page of a list.

    :param rows: what it lists.
    :param following: where the next page begins; None: it is the last one.
    :param otherwise: where the next page begins if this one brings nothing new, for lists whose pages
        overlap; None: such a page ends the list.
    :param incomplete: why the next page may not begin where this one ends; None: it does.
    """

    rows: list[Row]
    following: Place | None
    otherwise: Place | None = None
    incomplete: str | None = None


class PageSize:
    """
    How many rows are asked for at once: fewer than usual where they would make too long an answer.

    :param usual: rows of a page.
    """

    def __init__(self, usual: int) -> None:
        self._usual = usual
        self.most = usual

    def widen(self) -> None:
        """Try longer pages again: the rows that were so long may have passed."""
        self.most = min(self._usual, 2 * self.most)

    def ask(self, rows: int, flow_of: Callable[[int], Flow[T]]) -> Flow[T]:
        """
        Return a page, of half as many rows each time that they are too long for one answer.

        :param rows: rows at most.
        :param flow_of: asks for a page of so many rows.
        """
        while True:
            size = min(rows, self.most)
            try:
                return (yield from flow_of(size))
            except RunsError as error:
                if size == 1 or not is_too_long(error):
                    raise
            self.most = size // 2


def read_pages(
    what: str,
    ask: Callable[[Place], Flow[Page[Place]]],
    start: Place,
    id_of: Callable[[Row], Hashable],
    take: Callable[[list[Row]], bool],
) -> Flow[None]:
    """
    Read a list page by page, until it ends or no more of it is wanted.

    :param what: who lists what, for messages ("Mage: listing runs").
    :param ask: asks for the page that begins at a place.
    :param start: the place of the first page.
    :param id_of: returns what a row is told from others by; None: a row without an id, which is no news.
    :param take: is given the rows of a page that did not come before, one at least; tells whether more are
        wanted.
    :raises IncompleteList: if the list had to be left before its end.
    """
    seen: set[Hashable] = set()
    until = clock.monotonic() + MAX_SECONDS
    meter = _Meter()
    place = start
    overlapped = False
    for number in range(1, MAX_PAGES + 1):
        page = yield from meter.measured(ask(place))
        ids = {id_of(row) for row in page.rows} - seen - {None}
        fresh = [row for row in page.rows if id_of(row) not in seen]
        seen |= ids
        if fresh and not take(fresh):
            return
        if page.following is None:
            return
        is_news = bool(ids)
        if not is_news and (overlapped or page.otherwise is None):
            raise _left(what, f"page {number} brings nothing new", len(seen))
        if page.incomplete is not None:
            raise _left(what, page.incomplete, len(seen))
        if meter.count > MAX_BYTES:
            raise _left(what, f"it is longer than {MAX_BYTES >> 20} MiB", len(seen))
        following = page.following if is_news else page.otherwise
        assert following is not None
        if clock.monotonic() >= until:
            raise _left(what, f"it has not ended after {MAX_SECONDS:.0f} s and {number} pages", len(seen))
        place, overlapped = following, not is_news
    raise _left(what, f"it has not ended after {MAX_PAGES} pages", len(seen))


class _Meter:
    """Counts the bytes of answers."""

    def __init__(self) -> None:
        self.count = 0

    def measured(self, flow: Flow[T]) -> Flow[T]:
        """Run a flow whose answers count."""
        try:
            request: Request = next(flow)
            while True:
                try:
                    response: Response = yield request
                except RunsError as error:
                    request = flow.throw(error)
                else:
                    self.count += len(response.body)
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result


def _left(what: str, why: str, count: int) -> IncompleteList:
    return IncompleteList(
        f"{what} stopped early: the list should go on, but {why}. {count} entries were read; what else there "
        "is nobody knows. Narrow the list by its filters, or try again later"
    )
