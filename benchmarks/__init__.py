"""Measurements of the running service: a table for people, one JSON line for machines."""
