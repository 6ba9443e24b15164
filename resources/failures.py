"""Failures of a step in plain words."""

import dagster as dg

from shardmill.errors import ConfigurationError, ConflictError, CorruptionError, ShardmillError, TooManyRejectsError

_FINAL = (ConfigurationError, ConflictError, CorruptionError, TooManyRejectsError)


def failure(error: ShardmillError) -> dg.Failure:
    """The failure to raise from `error`. It allows retries only where one can help."""
    return dg.Failure(str(error), allow_retries=not _is_final(error))


def _is_final(error: BaseException | None) -> bool:
    """Whether the error, or what caused it (an engine says which shard failed), is one that comes again."""
    return error is not None and (isinstance(error, _FINAL) or _is_final(error.__cause__))
