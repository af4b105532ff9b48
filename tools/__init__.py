"""What the demo and the slow tests run: a real Airflow, a real Mage."""
