from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.kiln.api import KilnRunApi

DOCUMENTED_WORDS = {"firing": "running", "fired": "succeeded", "cracked": "failed"}


def make_api():
    return KilnRunApi(read_settings(KilnRunApi.connection, conn_id="kiln_default", password="secret"))
