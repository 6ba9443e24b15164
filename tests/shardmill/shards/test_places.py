"""Some samples of a tar by their numbers: those and no others, by few requests."""

import hashlib
import io
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.samples import EncodedSample
from shardmill.shards import places
from shardmill.shards.places import COLUMNS, Places, read_places
from shardmill.shards.ustar import TarWriter

SAMPLES = st.lists(
    st.dictionaries(st.sampled_from(["cls", "jpg", "mask.png"]), st.binary(max_size=2000), min_size=1), max_size=12
)


def tar_of(samples: list[dict[str, bytes]]) -> tuple[bytes, Places, list[EncodedSample]]:
    """A tar, where its samples stand, and what they are."""
    stream = io.BytesIO()
    tar, rows = TarWriter(stream), []
    for number, components in enumerate(samples):
        for name, data in sorted(components.items()):
            offset = tar.write(f"k{number}", name, data)
            rows.append((f"k{number}", name, offset, len(data), hashlib.sha256(data).hexdigest(), f"o{number}"))
    tar.close()
    schema = pa.schema([(name, pa.int64() if name in ("offset", "size") else pa.string()) for name in COLUMNS])
    table = pa.table(list(zip(*rows, strict=True)) or [[]] * len(COLUMNS), schema=schema)
    return stream.getvalue(), Places(table), [EncodedSample(f"k{n}", c) for n, c in enumerate(samples)]


def ranges(numbers: set[int]) -> list[range]:
    """Those of neighbours."""
    starts = [n for n in sorted(numbers) if n - 1 not in numbers]
    stops = [n + 1 for n in sorted(numbers) if n + 1 not in numbers]
    return [range(*each) for each in zip(starts, stops, strict=True)]


@pytest.mark.parametrize("uri", ["file:///a.tar", "s3://b/a.tar"])
@given(samples=SAMPLES, data=st.data())
def test_any_samples_and_components_are_read_as_they_were_written(uri: str, samples, data) -> None:
    tar, found, expected = tar_of(samples)
    assert len(found) == len(samples)
    assert found.keys.to_pylist() == [sample.key for sample in expected]
    assert found.origins.to_pylist() == [f"o{number}" for number in range(len(samples))]
    wanted = data.draw(st.sets(st.sampled_from(range(len(samples))))) if samples else set()
    chosen = data.draw(st.none() | st.sets(st.sampled_from(["cls", "jpg"])))
    requests: list[tuple[int, int]] = []

    def read_range(start: int, length: int) -> bytes:
        requests.append((start, length))
        return tar[start : start + length]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "READ_BYTES", data.draw(st.sampled_from([1, 3000, 1 << 20])))
        patch.setattr(places, "_GAP", data.draw(st.sampled_from([0, 600, 1 << 20])))
        read = list(read_places(read_range, uri, found.at(ranges(wanted), chosen)))
    assert [place.number for place, _ in read] == sorted(wanted)
    for place, sample in read:
        whole = expected[place.number].components
        components = {name: each for name, each in whole.items() if chosen is None or name in chosen}
        assert sample == EncodedSample(f"k{place.number}", components)
        assert place.content == {name: hashlib.sha256(each).hexdigest() for name, each in components.items()}
    spans = sorted((start, start + length) for start, length in requests)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))  # nothing is read twice


def test_neighbours_are_read_together_and_what_is_far_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_GAP", 1000)
    monkeypatch.setattr(places, "READ_BYTES", 5000)
    tar, found, _ = tar_of([{"jpg": bytes(1000)} for _ in range(20)])
    requests: list[int] = []

    def read_range(start: int, length: int) -> bytes:
        requests.append(length)
        return tar[start : start + length]

    for wanted, count in (({1, 2}, 1), ({1, 3}, 2), (set(range(20)), 7), ({0, 19}, 2)):
        requests.clear()
        assert len(list(read_places(read_range, "file:///a", found.at(ranges(wanted))))) == len(wanted)
        assert len(requests) == count
        assert max(requests) <= 5000
