"""Runs of other tools as first-class Apache Airflow tasks."""

__version__ = "0.1.0"
