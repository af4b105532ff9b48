"""Mage: pipeline runs."""
