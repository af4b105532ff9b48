from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.kiln.api import KilnRunApi


class KilnHook(RunHook):
    """:param kiln_conn_id: the Airflow connection."""

    api_class = KilnRunApi
    conn_name_attr, default_conn_name = "kiln_conn_id", "kiln_default"

    def __init__(self, kiln_conn_id=default_conn_name):
        super().__init__(kiln_conn_id, {})
