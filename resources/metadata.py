"""What a person sees of a materialization: counts, rates, rejects, schema, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from shardmill.errors import Rejected
from shardmill.images import decode_image, decode_mask
from shardmill.images.contact_sheet import colour_labels, data_uri, draw_contact_sheet
from shardmill.samples import image_format
from shardmill.shards.commit import Commit
from shardmill.shards.left_out import read_left_out
from shardmill.shards.reader import ShardSet

_TILES = 24
_EXAMPLES = 3
_LARGEST_TILE = 448
"""Pixels on the long side of what a tile is drawn from: four times its own, so that nothing of it is lost."""


def describe_shard_set(shards: ShardSet, seconds: float | None, masks: Sequence[str] = ()) -> dict[str, Any]:
    """Metadata of one partition that took `seconds` to write; `masks` are its components that are label maps.

    `seconds` is None for one that is only looked at.
    """
    commit = shards.commit
    metadata: dict[str, Any] = {}
    if sheet := _contact_sheet(shards, masks):
        metadata["contact sheet"] = sheet
    for entry in commit.shards:
        if entry.picture:
            picture = shards.storage.read(shards.layout.beside(entry.picture))
            metadata["map"] = dg.MetadataValue.md(f"![map]({data_uri(picture)})")
    if commit.rejects_by_reason:
        metadata["rejects by reason"] = _reasons(commit.rejects_by_reason)
        metadata["rejected samples"] = _rejects(shards)
    if commit.left_out:
        metadata["left out by rule"] = _left_out(shards)
    metadata |= {
        "dagster/uri": shards.folder,
        "dagster/row_count": commit.total_samples,
        **_counts(commit),
        **({} if seconds is None else _pace(shards, seconds)),
        **{name.replace("_", " "): value for entry in commit.shards for name, value in entry.summary.items()},
        **_components(commit),
        **_runtimes(commit),
        "digest": commit.digest,
    }
    if commit.suffix == "parquet":
        metadata["dagster/column_schema"] = _column_schema(shards)
    metadata["software"] = dg.MetadataValue.json(commit.versions)
    return metadata


def _counts(commit: Commit) -> dict[str, Any]:
    return {
        "samples in": commit.total_samples_in,
        "rejects": commit.total_rejects,
        "filtered": commit.total_filtered,
        "bytes": commit.total_bytes,
        "shards": len(commit.shards),
        **_objects(commit),
    }


def _objects(commit: Commit) -> dict[str, Any]:
    """What became of the raw objects, where it was made of such."""
    if commit.left_out_sha256:
        return {"objects listed": commit.listed, "objects left out": sum(commit.left_out.values())}
    samples, rejects = (
        sum(each) for each in zip((0, 0), *((e.objects, e.rejected_objects) for e in commit.shards), strict=True)
    )
    return {"objects in samples": samples, "objects in rejects": rejects} if samples or rejects else {}


def _left_out(shards: ShardSet) -> dg.MetadataValue[Any]:
    """Each rule with the first few objects that it leaves out; all stand in `left_out.parquet`."""
    table, _ = read_left_out(shards.storage, shards.layout)
    records = []
    for rule, count in shards.commit.left_out.items():
        examples = ", ".join(table.examples(rule, _EXAMPLES)) if table else ""
        records.append(dg.TableRecord({"rule": rule, "objects": count, "for example": examples}))
    return dg.MetadataValue.table(records)


def _pace(shards: ShardSet, seconds: float) -> dict[str, Any]:
    commit = shards.commit
    metadata: dict[str, Any] = {
        "shards made": shards.made,
        "samples computed": shards.computed,
        "samples copied": shards.copied,
        "seconds": round(seconds, 2),
    }
    if shards.made == len(commit.shards) > 0 and not shards.copied:  # else the rate would count what was not computed
        metadata["samples per second"] = round(commit.total_samples / max(seconds, 1e-9), 1)
    return metadata


def _components(commit: Commit) -> dict[str, Any]:
    """Which components the samples have, where they differ."""
    sets = commit.components
    rows = [dg.TableRecord({"components": names, "samples": count}) for names, count in sets.items()]
    return {"components": dg.MetadataValue.table(rows)} if len(sets) > 1 else {}


def _runtimes(commit: Commit) -> dict[str, str]:
    """What computed the shards, where there is a choice."""
    names = sorted({entry.runtime for entry in commit.shards if entry.runtime})
    return {"runtime": ", ".join(names)} if names else {}


def _reasons(reasons: Mapping[str, int]) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.table(
        [dg.TableRecord({"reason": reason, "samples": count}) for reason, count in reasons.items()]
    )


def _rejects(shards: ShardSet) -> dg.MetadataValue[Any]:
    """The first hundred; all stand in `rejects.parquet`."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "key": reject.key,
                    "reason": reject.reason,
                    "detail": reject.detail,
                    "object": reject.source_uri,
                }
            )
            for reject in islice(shards.rejects(), 100)
        ]
    )


def _column_schema(shards: ShardSet) -> dg.TableSchema:
    import pyarrow.parquet as pq

    if not shards.shards:
        return dg.TableSchema(columns=[])
    with shards.shards[0].open(shards.storage) as stream:
        schema = pq.read_schema(stream)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(field.name, str(field.type), constraints=dg.TableColumnConstraints(nullable=field.nullable))
            for field in schema
        ]
    )


def _contact_sheet(shards: ShardSet, masks: Sequence[str]) -> dg.MetadataValue[Any] | None:
    """Thumbnails of the first samples: each image, and beside it its label maps in colour."""
    if shards.commit.suffix != "tar" or not shards.shards:
        return None
    tiles = list(islice(_thumbnails(shards, masks), _TILES))
    return dg.MetadataValue.md(f"![contact sheet]({data_uri(draw_contact_sheet(tiles))})") if tiles else None


def _thumbnails(shards: ShardSet, masks: Sequence[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for sample in shards.samples():
        for component, data in sample.components.items():
            if not image_format(component):
                continue
            try:
                pixels = (
                    colour_labels(decode_mask(data, component)) if component in masks else decode_image(data, component)
                )
            except Rejected:  # larger than the default limit, where the dataset allows more: no picture of it
                continue
            # No larger than is drawn, so that a page of large photographs is never in memory at once.
            step = max(1, max(pixels.shape[:2]) // _LARGEST_TILE)
            yield f"{sample.key}.{component}", np.ascontiguousarray(pixels[::step, ::step])
