"""Paradime: Bolt runs."""
