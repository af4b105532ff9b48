"""What a Strait run has returned, as XCom."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from airflow_provider_runs.base.logs import StreamsLogs
from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.inputs import integer
from airflow_provider_runs.core.outcome import Outcome
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.lists import PAGE

MAX_XCOM_BYTES = 49_152


class PushesResults(StreamsLogs):
    """Base of operators that can push what their run has returned, once it has succeeded."""

    push_result: bool = False
    push_outputs: bool = False
    max_xcom_bytes: int | str = MAX_XCOM_BYTES

    def _check_rules(self) -> None:
        super()._check_rules()
        integer("max_xcom_bytes", self.max_xcom_bytes, at_least=1)
        if (self.push_result or self.push_outputs) and not self.wait_for_completion:
            raise BadInput("push_result and push_outputs need a task that waits: wait_for_completion=True")

    def _conclude(self, context: Any, outcome: Outcome, *, own: Callable[[], bool]) -> str:
        run_id = super()._conclude(context, outcome, own=own)
        hook = self.hook
        assert isinstance(hook, StraitHook)
        if self.push_result:
            result = hook.get_details(run_id).get("result")
            self._push(context, "result", result, run_id, "StraitHook.get_details")
        if self.push_outputs:
            rows = hook.list_outputs(run_id)
            if len(rows) >= PAGE:
                self.log.warning("Strait lists %s outputs of a run at most: more are not pushed", PAGE)
            outputs = {str(row.get("output_key")): row.get("value") for row in rows}
            self._push(context, "outputs", outputs, run_id, "StraitHook.list_outputs")
        return run_id

    def _push(self, context: Any, key: str, value: Any, run_id: str, reader: str) -> None:
        """Push a JSON value; leave out one that is too long or cannot be kept, for the run did succeed."""
        most = integer("max_xcom_bytes", self.max_xcom_bytes, at_least=1)
        try:
            kept = _storable(value, self.hook.api.redact)
            size = len(json.dumps(kept, ensure_ascii=False).encode())
            if size <= most:
                context["ti"].xcom_push(key=key, value=kept)
                return
            why = f"as JSON it has {size} bytes, and max_xcom_bytes is {most}"
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            # Such as a mapping with a name that Airflow keeps for itself.
            why = f"Airflow cannot keep it ({type(error).__name__}: {error})"
        self.log.error("The %s of run %s is not pushed as XCom: %s. %s reads it", key, run_id, why, reader)


def _storable(value: Any, redact: Callable[[str], str]) -> Any:
    """
    Return a JSON value with the secrets in its texts masked, and without what PostgreSQL refuses in JSON.

    :param value: the value.
    :param redact: masks the secrets in a text.
    """
    if isinstance(value, str):
        return redact(value).replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_storable(name, redact): _storable(item, redact) for name, item in value.items()}
    if isinstance(value, list):
        return [_storable(item, redact) for item in value]
    # JSON can spell numbers that are too large for it.
    return None if isinstance(value, float) and not math.isfinite(value) else value
