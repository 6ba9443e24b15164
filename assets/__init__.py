"""Dagster's assets of a dataset, generated from its graph, and their checks."""
