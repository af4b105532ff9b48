"""The simulated services, for tests and for trying DAGs offline.

``python -m airflow_provider_runs.simulator`` serves them on a loopback port, each under its own path
(``/chalk``, ``/mage``, ``/paradime``, ``/strait``), or one of them at the root (``--system chalk``). In
Python, :class:`Simulator` does the same in a thread. It needs no Airflow; Paradime needs graphql-core (the
extra ``simulator``).

Controls, all JSON (``Content-Type: application/json``), for what runs on this machine: another ``Host`` than
``127.0.0.1``, ``localhost`` or ``[::1]`` is refused, and so are pages of other origins in its browsers:

========================  =============================================================================
``POST /_plans``          how runs of a resource behave: ``system``, ``resource`` (glob on Chalk's
                          ``resolver_fqn``; on Mage's pipeline uuid, trigger id or trigger name; on the
                          slug or name of Paradime's schedule; on the id, slug or name of Strait's job),
                          ``duration``, ``queued`` (seconds),
                          ``outcome`` (``succeeded``, ``failed``, ``cancelled``, ``stuck`` or a literal
                          word of the service), ``message`` (or ``error``), ``hold`` (seconds before the
                          trigger call answers), ``ends_at_once``, ``times`` (how many runs; null for
                          all). The newest match wins
``DELETE /_plans``        forget all plans
``POST /_faults``         how calls go wrong: ``system``, ``operation`` (``token``, ``trigger``, ``get``,
                          ``list``, ``schedules``, ``cancel``, ``retry``, ``delete``, ``login``, ``logs``,
                          ``status``, ``who_am_i``, ``page``, ``*``; Paradime's and Strait's are below),
                          ``fault`` (below), ``status``, ``retry_after``, ``body``, ``seconds``, ``times``,
                          ``probability``, ``for_seconds``, ``acts``. The newest match wins
``DELETE /_faults``       forget all faults
``POST /_expire_tokens``  make issued tokens of ``system`` (default all) invalid
``GET /_runs?system=``    all runs: ``system``, ``id``, ``resource``, ``status``, ``created_at``,
                          ``started_at``, ``finished_at``, ``scope``, ``key`` (idempotency key), ``body``
                          (what was asked), ``cancels`` (calls received), ``cancelled``
``GET /_requests``        ``counts`` by system, operation and status, and the ``last`` requests, without
                          secrets; the status of a request that was cut or left hanging is null
``DELETE /_requests``     start counting again
``POST /_reset``          forget runs, plans, faults, tokens and requests
``GET /_health``          the systems that are served and their addresses
========================  =============================================================================

Faults:

================  ========  =========================================================================
``status``        no work   answer ``status`` (default 503) with ``body`` or the service's own error
``reset_before``  no work   cut the connection
``reset_after``   works     cut the connection after the work (the run has started)
``hang``          no work   never answer; with ``seconds``, cut the connection then
``html``          no work   answer an HTML page, ``status`` default 502
``empty``         works     answer an empty body, ``status`` default 200
``not_json``      works     answer text that is not JSON, ``status`` default 200
``slow``          works     answer as usual, ``seconds`` later
``cut_body``      works     cut the connection in the middle of the answer, for example of a download
``two_lengths``   works     answer with two lengths that differ, which no library can read
``errors``        no work   GraphQL, HTTP 200: one field is null, and ``errors`` names it; ``body`` is its
                            message. With the ``body`` ``[]``: works, and ``errors`` is an empty list
``not_ok``        no work   GraphQL, HTTP 200: the ``ok`` of one field is false; a query tells the rest
``silence``       stream    nothing after the head, not even keepalives; with ``seconds``, it ends then
``flood``         stream    a thousand log events at once, then as usual
``split``         stream    three bytes at a time, and lines end with CR LF
``lose``          stream    keepalives only: all else gets lost
``cut_frame``     stream    cut the connection in the middle of the first event
``end``           stream    end at once, or after ``seconds``, as if the longest time were over
``error_frame``   stream    an ``event: error`` with the message ``body``, then the end
================  ========  =========================================================================

Where a stream of events is asked for, the faults that work cut it (``reset_after``, ``cut_body``,
``two_lengths``) or come in its place; it meets those of streams on its own, once it is open.

``acts`` (true or false) overrides whether the service does the work, for example a 504 after the run has
started. A full outage is operation ``*`` with ``status`` 503 or ``reset_before``.

Paradime's operations are the words of what a GraphQL request asks: ``trigger`` (triggerBoltRun), ``get``
(boltRunStatus), ``commands`` (boltRunStatus with its commands), ``command`` (boltCommand), ``logs``,
``resource_url``, ``cancel``, ``retry`` (all three), ``list`` (listBoltRuns), ``schedule``
(boltScheduleName), ``schedules``, ``suspend``, ``create``, ``delete``, else the name of the field. A
request with aliases counts once; one that asks several things has all the words, parted by commas. Each
field meets ``errors`` and ``not_ok`` on its own (boltRunStatus as ``get``), so ``times=1`` spoils one alias
of many. ``invalid`` is what is not GraphQL, ``download`` the download of an artifact. ``status`` 200 with a
``body`` of ``{"data": null, "errors": [...]}`` is an error of the whole request. The switches of the
service (who may come in, an older server, limits, what is null) are options: see ``ParadimeOptions``. A
plan's ``outcome`` may be several words, parted by commas: what successive looks at the status find once the
run's time is over.

Strait's operations are ``trigger``, ``bulk_trigger``, ``jobs``, ``job``, ``list``, ``dlq``, ``get``,
``cancel``, ``bulk_cancel``, ``bulk_cancel_all``, ``replay``, ``dlq_replay``, ``bulk_replay``,
``bulk_dlq_replay``, ``children``, ``events``, ``checkpoints``, ``outputs``, ``debug_bundle``, ``debug``,
``lineage``, ``dependencies``, ``reset_key``, ``reschedule``, ``pause``, ``resume``, ``restart``, ``state``,
``resources``, ``stream``, ``chunks``, ``usage``, ``tool_calls`` and ``health``. Its limits, the shapes of an
older server and the times of its streams are options: see ``StraitOptions``. A plan's ``outcome`` may be
several words, parted by commas: what a run ends in first, and each time that it is replayed or restarted.
"""

from airflow_provider_runs.simulator.server import Server, Simulator
from airflow_provider_runs.simulator.world import ControlError

__all__ = ["ControlError", "Server", "Simulator"]
