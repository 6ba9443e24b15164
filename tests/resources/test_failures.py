"""Failures: plain words, and a retry only where it can help."""

import pickle

import pytest

from resources.failures import FAILED, failure, partial_failure
from shardmill.errors import (
    ConfigurationError,
    ConflictError,
    CorruptionError,
    EngineError,
    ShardmillError,
    StorageError,
    SupersededError,
    TooManyRejectsError,
)


@pytest.mark.parametrize("kind", [ConfigurationError, CorruptionError, TooManyRejectsError])
def test_what_comes_again_is_not_retried(kind: type[ShardmillError]) -> None:
    assert failure(kind("why")).allow_retries is False


@pytest.mark.parametrize("kind", [StorageError, EngineError, ConflictError, SupersededError])
def test_what_may_pass_is_retried(kind: type[ShardmillError]) -> None:
    assert failure(kind("why")).allow_retries is True


def test_the_engine_says_whether_a_retry_can_help_also_across_processes() -> None:
    error = pickle.loads(pickle.dumps(EngineError("embed failed on shard 000000: no GPU", final=True)))
    assert str(error) == "embed failed on shard 000000: no GPU"
    assert failure(error).allow_retries is False


def test_a_run_is_tried_again_where_that_can_help_one_of_its_partitions() -> None:
    away, wrong = StorageError("away"), ConfigurationError("wrong")
    assert partial_failure(["a", "b", "c"], {"a": away, "b": wrong}).allow_retries is True
    assert partial_failure(["a", "b", "c"], {"a": wrong, "b": wrong}).allow_retries is False


def test_the_failure_of_a_run_over_one_partition_says_which() -> None:
    assert partial_failure(["b"], {"b": StorageError("away")}).metadata[FAILED].value == {"b": "away"}


def test_the_description_is_the_errors_own_words() -> None:
    assert failure(StorageError("file:///x cannot be read")).description == "file:///x cannot be read"
