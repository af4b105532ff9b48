"""The button that leads from a task to its remote run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

RUN_URL = "run_url"


class RunLink(BaseOperatorLink):
    """Link to the page of the remote run, from the moment at which its id is known."""

    name = "Remote run"
    xcom_key = RUN_URL

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """
        Return the address of the run's page, "" where there is none.

        :param operator: the task.
        :param ti_key: key of the task instance.
        """
        return XCom.get_value(key=RUN_URL, ti_key=ti_key) or ""
