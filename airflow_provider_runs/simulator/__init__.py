"""The simulated services, for tests and for trying DAGs offline.

``python -m airflow_provider_runs.simulator`` serves them on a loopback port, each under its own path
(``/chalk``, ``/mage``), or one of them at the root (``--system chalk``). In Python, :class:`Simulator` does
the same in a thread. It needs no Airflow.

Controls, all JSON:

========================  =============================================================================
``POST /_plans``          how runs of a resource behave: ``system``, ``resource`` (glob on Chalk's
                          ``resolver_fqn``; on Mage's pipeline uuid, trigger id or trigger name),
                          ``duration``, ``queued`` (seconds), ``outcome`` (``succeeded``, ``failed``,
                          ``cancelled``, ``stuck`` or a literal word of the service), ``message`` (or
                          ``error``), ``hold`` (seconds before the trigger call answers),
                          ``ends_at_once``, ``times`` (how many runs; null for all). The newest match wins
``DELETE /_plans``        forget all plans
``POST /_faults``         how calls go wrong: ``system``, ``operation`` (``token``, ``trigger``, ``get``,
                          ``list``, ``schedules``, ``cancel``, ``retry``, ``delete``, ``login``, ``logs``,
                          ``status``, ``who_am_i``, ``page``, ``*``), ``fault`` (below), ``status``,
                          ``retry_after``, ``body``, ``seconds``, ``times``, ``probability``,
                          ``for_seconds``, ``acts``. The newest match wins
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
================  ========  =========================================================================

``acts`` (true or false) overrides whether the service does the work, for example a 504 after the run has
started. A full outage is operation ``*`` with ``status`` 503 or ``reset_before``.
"""

from airflow_provider_runs.simulator.server import Server, Simulator
from airflow_provider_runs.simulator.world import ControlError

__all__ = ["ControlError", "Server", "Simulator"]
