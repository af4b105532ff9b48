from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.kiln.hooks import KilnHook
from airflow_provider_runs.kiln.triggers import KilnRunTrigger


class KilnTriggerRunOperator(TriggerRunOperator):
    """
    :param glaze: what to fire.
    :param kiln_conn_id: the Airflow connection.
    """

    hook_class, trigger_class = KilnHook, KilnRunTrigger
    run_fields = resource_fields = ("glaze",)
    template_fields = ("kiln_conn_id", *run_fields, *TriggerRunOperator.shared_template_fields)

    def __init__(self, *, glaze, kiln_conn_id=KilnHook.default_conn_name, **kwargs):
        super().__init__(**kwargs)
        self.glaze, self.kiln_conn_id = glaze, kiln_conn_id
