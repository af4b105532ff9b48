from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.kiln.hooks import KilnHook
from airflow_provider_runs.kiln.triggers import KilnRunTrigger


class KilnRunSensor(RunSensor):
    """
    :param run_id: the firing's id.
    :param kiln_conn_id: the Airflow connection.
    """

    hook_class, trigger_class = KilnHook, KilnRunTrigger
    template_fields = (*RunSensor.shared_template_fields, "kiln_conn_id")

    def __init__(self, *, run_id=None, kiln_conn_id=KilnHook.default_conn_name, **kwargs):
        super().__init__(run_id=run_id, **kwargs)
        self.kiln_conn_id = kiln_conn_id
