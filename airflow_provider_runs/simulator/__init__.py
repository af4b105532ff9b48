"""The simulated services, for tests and for trying DAGs offline."""
