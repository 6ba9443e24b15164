"""Dagster resources: storage and engine, and the IO manager that writes shard sets with them."""
