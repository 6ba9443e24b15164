"""Names with dots: a key ends at the first one, so that pieces of a name can come to stand for components.

`Screenshot 2026-01-05 at 10.05.32.png` would be the component `05.32.png` of `Screenshot 2026-01-05 at 10`, and all
that were taken in one hour one sample.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter

from shardmill.errors import ConfigurationError
from shardmill.samples import IMAGE_FORMATS, canonical_suffix, image_format
from shardmill.sources.manifest import Manifest, RawObject

_MANY = 32
"""Objects with one suffix that no sample has, but for one whose key is the beginning of many names."""
_FEW = 4
"""Images that are one sample without a doubt, if all samples have them."""
_WORD = r"(?:[a-z_]|%[89a-f][0-9a-f])(?:[a-z0-9_\-+=@,]|%[89a-f][0-9a-f])*"
_SIZE = r"[1-9][0-9]{0,4}(?:x[1-9][0-9]{0,4}|[dxkm]|px|[cmn]m)"
_MEANT = re.compile(rf"(?:{_WORD}|[0-9]|[1-9][0-9]|{_SIZE})")
"""A part of a component's name as people give it: a word (`trimap`, `tar`, `b01`), a number that counts views, or a
size (`200x200`, `2x`, `10m`).
"""


@lru_cache(maxsize=4096)
def looks_torn(component: str) -> bool:
    """Whether a component, as it is called in a shard, looks like the rest of a name: `05.32.png`, `2_cat.jpg`.

    Its last suffix says nothing, nor do words and small numbers before that: `trimap.png`, `tar.gz`, `0.jpg`.
    """
    return not all(map(_MEANT.fullmatch, component.split(".")[:-1]))


def torn_apart(group: Sequence[RawObject], of_table: bool = False) -> str | None:
    """What to say of a sample that was made of several objects whose names have dots; None if it was not.

    `of_table`: they are rows of a table.
    """
    if len(group) < 2:
        return None
    torn = _torn([item.component for item in group])
    if len(torn) < 2:
        return None
    return (
        f"{len(group)} objects would be one sample, because a key ends at the first dot: {group[0].uri} and "
        f"{group[1].uri} for example. {_advice((item.uri for item in group), of_table)}"
    )


def check_for_dots(manifest: Manifest, most: float, of_table: bool = False) -> None:
    """Refuse a partition of which more than this share of the objects have names that would be torn apart.

    Raises:
        ConfigurationError: There are more.
    """
    counts = {each["values"]: each["counts"] for each in manifest.table["component"].value_counts().to_pylist()}
    suffixes = Counter(name.rpartition(".")[2] for name in counts)
    if not any(map(looks_torn, counts)) and max(suffixes.values(), default=0) <= _MANY:
        return
    torn, worst = 0, ("", [""])
    uris: dict[str, str] = {}  # of each suffix, one
    for key, group in manifest.by_key():
        found = _torn([item.component for item in group])
        if found:
            torn += len(found)
            uris |= {item.uri.rpartition(".")[2].lower(): item.uri for item in group}
            worst = max(worst, (key, [item.uri for item in group]), key=lambda each: len(each[1]))
    if torn <= most * manifest.objects:
        return
    uris |= _images(manifest)
    key, found = worst[0], worst[1]
    so = f"{len(found)} objects would be one sample" if len(found) > 1 else f"{found[0]} would be a sample"
    raise ConfigurationError(
        f"names with dots: a key ends at the first dot, so that {so}, {key!r}. {torn} of {manifest.objects} objects "
        f"have such names, {found[0]} among them. {_advice(uris.values(), of_table)}"
    )


def several_in_one(manifest: Manifest, of_table: bool = False) -> str | None:
    """What to say of a partition where images that may each be a sample are samples together: `cat.0.jpg`, `cat.1.jpg`.

    None where they are meant so: beside an image that has the key alone (`cat.jpg`, `cat.mask.png`), or where most
    samples have the same few (`left.jpg`, `right.jpg`).
    """
    dotted = {name for name in manifest.table["component"].unique().to_pylist() if "." in name and image_format(name)}
    if max(Counter(map(image_format, dotted)).values(), default=0) < 2:
        return None
    seen, images, samples, worst = Counter[str](), 0, 0, list[str]()
    for _, group in groupby(manifest.rows("key", "component", "uri"), itemgetter(0)):
        found = {component: uri for _, component, uri in group if image_format(component)}
        if not found.keys() <= dotted or max(Counter(map(image_format, found)).values(), default=0) < 2:
            continue
        seen.update(found.keys())
        images, samples, worst = images + len(found), samples + 1, max(worst, [*found.values()], key=len)
    is_common = all(2 * count > samples for count in seen.values())
    if is_common and len(worst) <= max(_FEW, samples):
        return None
    return (
        f"{images:,} images are in {samples:,} samples of up to {len(worst)} images each, because a key ends at the "
        f"first dot: {worst[0]} and {worst[1]} are one sample. If each is a sample of its own: "
        f"{_advice([*worst, *_images(manifest).values()], of_table)}"
    )


def _images(manifest: Manifest) -> dict[str, str]:
    """Of each suffix of images one URI: a pattern for some suffixes alone would leave out the others."""
    return {
        uri.rpartition(".")[2].lower(): uri for name, uri in manifest.rows("component", "uri") if image_format(name)
    }


def _torn(components: Sequence[str]) -> list[str]:
    suffixes = Counter(component.rpartition(".")[2] for component in {*components})  # rows may name one several times
    return [each for each in components if looks_torn(each) or suffixes[each.rpartition(".")[2]] > _MANY]


def _advice(uris: Iterable[str], of_table: bool) -> str:
    """What to write, so that a key ends at the last dot, or is another."""
    if of_table:
        return "Give the table a column of keys, and name it as `key_column` in `source`"
    suffixes = sorted({uri.rpartition("/")[2].rpartition(".")[2].lower() for uri in uris})
    images = [suffix for suffix in suffixes if canonical_suffix(suffix) in IMAGE_FORMATS]
    several = len(set(map(canonical_suffix, images))) > 1
    patterns: dict[str, list[str]] = {}
    for suffix in suffixes:
        component = "image" if several and suffix in images else canonical_suffix(suffix)
        patterns.setdefault(component, []).append(f"{{key}}.{suffix}")
    parts = (f"{name}: {json.dumps(each[0] if len(each) == 1 else each)}" for name, each in patterns.items())
    return f"Use `components: {{{', '.join(parts)}}}` in `source`: there the key is all that stands for {{key}}"
