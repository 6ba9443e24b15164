"""The control plane: the dataset component, jobs, and the definitions that Dagster loads."""
