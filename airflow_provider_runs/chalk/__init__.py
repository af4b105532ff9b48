"""Chalk: resolver runs."""
