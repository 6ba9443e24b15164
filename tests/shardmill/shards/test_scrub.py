"""Every shard comes to its turn, new ones at once, and one that is damaged stays due."""

import json
import string
from dataclasses import replace

import pytest

from shardmill.errors import CorruptionError
from shardmill.shards.reader import ShardSet
from shardmill.shards.scrub import ROUNDS, due_for_scrub, mark_as_sound
from shardmill.storage import Storage
from tests.spelling import NAME, Hooked, spell, write


@pytest.fixture
def shards(storage: Storage, folder: str) -> ShardSet:
    return write(storage, f"{folder}/{NAME}", spell(string.ascii_lowercase))


def scrub(shards: ShardSet) -> str:
    """The letters that were read."""
    due = due_for_scrub(shards)
    letters = "".join(sample.key for shard in due for sample, _ in shard.read(shards.storage))
    mark_as_sound(shards, due)
    return letters


def test_all_that_is_new_is_read_and_then_a_tenth_at_a_time(shards: ShardSet) -> None:
    assert scrub(shards) == string.ascii_lowercase
    rounds = [scrub(shards) for _ in range(ROUNDS)]
    assert [len(letters) for letters in rounds] == [3] * ROUNDS
    assert set("".join(rounds)) == set(string.ascii_lowercase)


def test_what_an_update_made_is_read_at_once(shards: ShardSet) -> None:
    scrub(shards)
    changed = write(shards.storage, shards.folder, spell(string.ascii_lowercase + "AB"))
    assert scrub(changed)[:2] == "AB"


@pytest.mark.parametrize("letter", "agz")
def test_damage_of_equal_size_is_found_within_the_stated_number_of_runs(shards: ShardSet, letter: str) -> None:
    from pathlib import Path

    scrub(shards)
    [damaged] = [shard for shard in shards.shards if shard.start == letter]
    file = Path(shards.layout.data(damaged.file_name).removeprefix("file://"))
    data = bytearray(file.read_bytes())
    data[512] ^= 1
    file.write_bytes(data)

    def is_found() -> bool:
        try:
            return not scrub(shards)
        except CorruptionError:
            return True

    assert any(is_found() for _ in range(ROUNDS))
    assert is_found()  # it stays due
    with pytest.raises(CorruptionError, match=file.name):
        scrub(shards)


def test_the_record_names_what_is_committed_once_and_nothing_else(shards: ShardSet) -> None:
    scrub(shards)
    changed = write(shards.storage, shards.folder, spell(string.ascii_lowercase[3:]))
    for _ in range(3):
        scrub(changed)
    names = json.loads(shards.storage.read(shards.layout.beside("scrubbed.json")))
    assert sorted(names) == sorted(shard.file_name for shard in changed.shards)


def test_of_two_scrubs_at_once_neither_fails(shards: ShardSet) -> None:
    storage = Hooked(hooks={"replace": ("scrubbed.json", lambda: scrub(shards))})
    assert scrub(replace(shards, storage=storage)) == string.ascii_lowercase
    assert len(scrub(shards)) == 3, "what the other one has written down stands"


def test_a_record_that_cannot_be_read_begins_anew(shards: ShardSet) -> None:
    scrub(shards)
    uri = shards.layout.beside("scrubbed.json")
    info = shards.storage.stat(uri)
    assert info is not None
    shards.storage.replace(uri, b"{", info.version)
    assert scrub(shards) == string.ascii_lowercase
