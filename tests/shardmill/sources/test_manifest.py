import itertools
import pickle
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.errors import ConfigurationError
from shardmill.sources.manifest import Manifest, RawObject, batch_of, manifest_schema

TEXT = st.text(st.characters(codec="utf-8"))
OBJECTS = st.builds(
    RawObject,
    key=st.sampled_from(["a", "b", "c/d", "%20"]),
    component=st.sampled_from(["", "jpg", "cls"]),
    uri=TEXT,
    size=st.integers(0, 2**62),
    version=TEXT,
    modified=st.integers(0, 2**31).map(float),
    metadata=st.none() | TEXT,
    columns=st.none() | TEXT,
)
ONE = RawObject("a", "jpg", "file:///a.jpg", 3, "v1", 1.5, '{"label": 1}')


def as_tuple(item: RawObject) -> tuple[object, ...]:
    return (*item[:6], str(item.metadata), str(item.columns))


@given(st.lists(OBJECTS))
def test_a_manifest_holds_every_object(objects: list[RawObject]) -> None:
    manifest = Manifest.from_objects(objects)
    assert sorted(manifest, key=as_tuple) == sorted(objects, key=as_tuple)
    assert manifest.objects == len(objects)
    assert manifest.bytes == sum(item.size for item in objects) or sum(item.size for item in objects) >= 2**63
    assert manifest.samples == len({item.key for item in objects})
    assert manifest.table.schema == manifest_schema()


@given(st.lists(OBJECTS, min_size=2).flatmap(lambda objects: st.tuples(st.just(objects), st.permutations(objects))))
def test_equal_sets_of_objects_are_equal_manifests_whatever_the_order(
    lists: tuple[list[RawObject], list[RawObject]],
) -> None:
    one, two = map(Manifest.from_objects, lists)
    assert one.digest == two.digest
    columns = [name for name in manifest_schema().names if name != "modified"]
    assert one.table.select(columns) == two.table.select(columns)


def test_one_uri_with_different_metadata_is_in_one_order() -> None:
    two = ONE._replace(metadata='{"label": 2}')
    assert Manifest.from_objects([ONE, two]).digest == Manifest.from_objects([two, ONE]).digest


@given(st.lists(OBJECTS))
def test_by_key_gives_each_key_once_with_all_its_objects(objects: list[RawObject]) -> None:
    groups = list(Manifest.from_objects(objects).by_key())
    assert [key for key, _ in groups] == sorted({item.key for item in objects})
    for key, group in groups:
        expected = [item for item in objects if item.key == key]
        assert sorted(group, key=as_tuple) == sorted(expected, key=as_tuple)


@pytest.mark.parametrize(
    "change",
    [{"key": "b"}, {"component": "png"}, {"uri": "x"}, {"size": 4}, {"version": "v2"}, {"metadata": None}],
    ids=str,
)
def test_the_digest_changes_with_all_that_an_object_is(change: dict[str, object]) -> None:
    assert Manifest.from_objects([ONE._replace(**change)]).digest != Manifest.from_objects([ONE]).digest


def test_the_digest_does_not_change_with_the_time_alone() -> None:
    assert Manifest.from_objects([ONE._replace(modified=2.0)]).digest == Manifest.from_objects([ONE]).digest


@given(st.lists(OBJECTS, max_size=4), st.lists(OBJECTS, max_size=4))
def test_different_sets_have_different_digests(one: list[RawObject], two: list[RawObject]) -> None:
    def identity(objects: list[RawObject]) -> list[str]:
        return sorted(repr(item._replace(modified=0.0)) for item in objects)

    same = identity(one) == identity(two)
    assert (Manifest.from_objects(one).digest == Manifest.from_objects(two).digest) == same


def test_a_manifest_of_many_objects_is_sorted_across_its_batches() -> None:
    objects = [ONE._replace(key=f"{number:05d}") for number in reversed(range(25_000))]
    manifest = Manifest.from_objects(objects)
    keys = [key for key, _ in groupby(manifest, key=lambda item: item.key)]
    assert keys == sorted(keys)
    assert manifest.samples == 25_000


def test_a_part_holds_the_objects_that_were_chosen_in_that_order() -> None:
    manifest = Manifest.from_objects(ONE._replace(key=f"{number:05d}") for number in range(3000))
    objects = list(manifest)
    for rows in ([2999, 0, 1500], [7], [], list(range(3000))):
        part = manifest.part(np.array(rows, np.int64))
        assert list(part) == [objects[row] for row in rows]
        assert (part.samples, part.bytes) == (len(rows), 3 * len(rows))


def test_a_part_travels_without_the_other_objects() -> None:
    manifest = Manifest.from_objects(ONE._replace(key=f"{number:05d}") for number in range(3000))
    part = manifest.part(np.array([2999, 0]))
    sent = pickle.dumps(part)
    assert list(pickle.loads(sent)) == list(part)
    assert len(sent) < len(pickle.dumps(manifest)) / 10


@given(st.lists(OBJECTS), st.lists(st.integers(0, 50)))
def test_a_sample_starts_where_the_key_is_another(objects: list[RawObject], cuts: list[int]) -> None:
    """However the objects lie in memory."""
    bounds = sorted({0, len(objects), *(cut for cut in cuts if cut < len(objects))})
    batches = [batch_of(objects[low:high]) for low, high in itertools.pairwise(bounds)]
    manifest = Manifest.from_batches(batches)
    keys = [key for (key,) in manifest.rows("key")]
    assert manifest.starts.tolist() == [row for row in range(len(keys)) if not row or keys[row] != keys[row - 1]]
    assert manifest.table == Manifest.from_objects(objects).table


def test_an_empty_manifest_is_one_too() -> None:
    manifest = Manifest.from_objects([])
    assert (manifest.objects, manifest.samples, manifest.bytes, list(manifest), list(manifest.by_key())) == (
        0,
        0,
        0,
        [],
        [],
    )


def test_times_are_kept_to_the_microsecond() -> None:
    [item] = Manifest.from_objects([ONE._replace(modified=1_790_000_000.123456)])
    assert item.modified == pytest.approx(1_790_000_000.123456, abs=1e-6)


@given(st.lists(OBJECTS), st.dictionaries(st.sampled_from(["a", "b", "z"]), TEXT))
def test_columns_are_given_by_key_and_nothing_else_changes(objects: list[RawObject], columns: dict[str, str]) -> None:
    manifest = Manifest.from_objects(objects)
    joined = manifest.with_columns(columns)
    assert joined.table.schema == manifest_schema()
    assert list(joined) == [item._replace(columns=columns.get(item.key)) for item in manifest]
    assert joined.digest_of_samples == manifest.digest_of_samples
    assert (joined.digest == manifest.digest) == (list(joined) == list(manifest))


def test_more_text_than_a_column_holds_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardmill.sources.manifest._MOST_BYTES", 40)
    few = [ONE._replace(key="k", uri="0123456789" * 4, version="v", metadata=None)]
    assert Manifest.from_objects(few).objects == 1
    with pytest.raises(ConfigurationError, match=r"'uri' of 2 objects has 43 bytes .* at most 40.* more partitions"):
        Manifest.from_objects([*few, few[0]._replace(uri="abc")])
