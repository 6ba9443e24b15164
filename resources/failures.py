"""Failures of a step in plain words."""

import dagster as dg

from shardmill.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    EngineError,
    ShardmillError,
    TooManyRejectsError,
)

_FINAL = (AccessDeniedError, ConfigurationError, ConflictError, CorruptionError, TooManyRejectsError)


def failure(error: ShardmillError) -> dg.Failure:
    """The failure to raise from `error`. It allows retries only where one can help."""
    return dg.Failure(str(error), allow_retries=not _is_final(error))


def _is_final(error: ShardmillError) -> bool:
    return isinstance(error, _FINAL) or (isinstance(error, EngineError) and error.final)
