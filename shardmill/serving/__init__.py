"""The transform server: a dataset's transform over HTTP, next to the storage, by AIStore's ETL contract.

It needs the extra `serve`. Importing this package imports neither AIStore's SDK nor FastAPI.
"""
