"""Runs of any service, described without Airflow: values, tables and the two drivers."""
