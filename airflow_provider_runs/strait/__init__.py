"""Strait: job runs."""
