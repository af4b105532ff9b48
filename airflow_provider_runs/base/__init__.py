"""What Airflow needs of a run, written once for all services."""
