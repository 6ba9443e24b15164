"""The asset definitions of a dataset, one file an asset, and their checks in `checks.py`."""
