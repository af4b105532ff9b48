from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.kiln.hooks import KilnHook


class KilnRunTrigger(RunTrigger):
    hook_class = KilnHook
