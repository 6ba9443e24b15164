"""Wrong dataset files: the error names the field and its line, says what is wrong and what would be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill.dataset import load_dataset
from shardmill.errors import ConfigurationError
from shardmill.graph import Planner

FIELDS = {
    "name": "name: pets",
    "source": "source: {uri: 'raw/{partition}'}",
    "partitions": "partitions: [a]",
    "root": "root: made",
}
NOT_OURS = ("Input should", "Value error", "Field required", "Extra inputs", "should match", "pydantic", "item after")

WRONG = [
    # A line that is added, or in the place of another; the field, and words of the error.
    ("embeder: {}", "embeder", "is no field; did you mean 'embedder'"),
    ("parttions: [b]", "parttions", "is no field; did you mean 'partitions' or"),
    ("shards: {max_sampels: 5}", "shards.max_sampels", "is no field; did you mean 'max_samples'"),
    ("sensor: {interval: 5}", "sensor.interval", "is no field; did you mean 'interval_seconds'?"),
    ("gpu: {kind: l4}", "gpu.kind", "is no field; there are count, fraction, memory, accelerator"),
    ("source: {url: raw}", "source.url", "is no field; did you mean 'uri'?"),
    (
        "name: my pets",
        "name",
        "'my pets' is no name: use letters, digits and underscores, no underscore first",
    ),
    ("name: 5", "name", "must be text, and YAML takes 5 for a number: put it in quotes"),
    ("root:", "root", "is empty"),
    ("root: ''", "root", "is empty: give a path, or a URI with file://, gs:// or s3://"),
    ("root: gcs://bucket/x", "root", "is on no store that is supported (file://, gs://, s3://); did you mean gs://?"),
    ("root: 's3://'", "root", "names no bucket"),
    ("root: raw/a", "root", "'raw/a' lies within the source: what is made would be listed as raw"),
    ("source: 'raw/{partition}'", "source", "has fields of its own (uri, components,"),
    ("source: {uri: 'raw/{partiton}'}", "source.uri", "has {partiton}; did you mean {partition}?"),
    ("source: {uri: 'raw/{partition}', table: t.csv}", "source", "give either `uri`"),
    ("source: {uri: 'raw/{partition}', components: {jpg: '*.jpg'}}", "source.components", "needs {key} once"),
    (
        "source: {uri: 'raw/{partition}', components: {jpg: 'raw/{partition}/{key}.jpg'}}",
        "source.components",
        "{partition} belongs in the source's `uri` alone",
    ),
    ("partitions: a", "partitions", "must be a list, and is 'a'; write [a]"),
    ("partitions: []", "partitions", "must not be empty"),
    ("partitions: [a, a]", "partitions", "'a' is given twice"),
    ("partitions: [2026-01-31]", "partitions.0", "must be text, and YAML takes 2026-01-31 for a day: put it in quotes"),
    ("partitions: [a, 2026]", "partitions.1", "must be text, and YAML takes 2026 for a number: put it in quotes"),
    ("partitions: [_shardmill]", "partitions", "'_shardmill' is no partition: use letters, digits and"),
    (f"partitions: [{300 * 'x'}]", "partitions", "has 300 characters; 200 are the most"),
    ("partitions: {by: tim}", "partitions", "give a list of keys, or `by: time`, `by: prefix` or `by: batch`"),
    (
        "partitions: {by: time, every: week, start: 2026-01-01}",
        "partitions.every",
        "must be hour, day or month, and is",
    ),
    ("partitions: {by: time, start: yesterday}", "partitions.start", "must be a day, such as 2026-01-31, and is 'yest"),
    ("shards: 500", "shards", "has fields of its own (max_samples, max_bytes, order), and is 500"),
    ("shards: {max_samples: true}", "shards.max_samples", "must be a number, and is true"),
    ("shards: {max_samples: many}", "shards.max_samples", "must be a whole number, and is 'many'"),
    ("shards: {max_samples: 0}", "shards.max_samples", "must be more than 0, and is 0"),
    ("shards: {order: keys}", "shards.order", "must be hash or key, and is 'keys'; did you mean 'key'?"),
    ("max_reject_ratio: 5%", "max_reject_ratio", "must be a number, and is '5%'; write 0.05"),
    ("max_reject_ratio: 5", "max_reject_ratio", "must be at most 1.0, and is 5"),
    ("max_pixels: 1e6", "max_pixels", "must be a whole number, and is '1e6'; write 1000000"),
    ("fresh_hours: .inf", "fresh_hours", "must be a number, and is inf"),
    ("keep_superseded: 7 days", "keep_superseded", "'7 days' is no duration: give a number of seconds, or one with"),
    ("automation: on_cron", "automation", "must be true or false, and is 'on_cron'"),
    ("owners: me@x.org", "owners", "must be a list, and is 'me@x.org'; write [me@x.org]"),
    ("source: {uri: 'raw/{partition}', exclude: '*.txt'}", "source.exclude", """is '*.txt'; write ["*.txt"]"""),
    ("owners: [me]", "owners.0", "'me' is no owner: give an e-mail address, or team:<name>"),
    ("shards: {max_bytes: 256MB}", "shards.max_bytes", "must be a whole number, and is '256MB'; write 256000000"),
    ("source: {uri: 'raw/{partition}', components: {jpg: }}", "source.components.jpg", "is empty"),
    ("columns: {'': string}\nembedder: {}", "columns.", "must not be empty"),
    ("class_names: {0: cat}", "class_names", "must be a list, and is fields (0)"),
    ("backfill: {cron: 0 25 * * *}", "backfill.cron", "its hour is '25', and goes from 0 to 23"),
    ("backfill: {cron: '@daily', timezone: Berlin}", "backfill.timezone", "give an IANA name such as Europe/Berlin"),
    ("projection: tsne", "projection", "must be pca or umap, and is 'tsne'"),
    ("transform: {}", "transform.operations", "is missing"),
    ("transform: {operations: Resize}", "transform.operations", "must be a list, and is 'Resize'; write [Resize]"),
    ("transform: {operations: [Resize]}", "transform.operations.0", "has fields of its own (operation, arguments,"),
    ("transform: {operations: [{Resize: {}}]}", "transform.operations.0.Resize", "is no field; there are operation"),
    ("transform: {format: jpeg, operations: []}", "transform.format", "must be jpg, png or webp, and is 'jpeg'; did"),
    ("transform: {jpeg_quality: 500, operations: []}", "transform.jpeg_quality", "must be at most 100, and is 500"),
    ("embedder: efficientnet-lite0", "embedder", "has fields of its own (model, weights,"),
    ("embedder: {model: efficientnet-lite0/x}", "embedder.model", "'efficientnet-lite0/x' is unknown; did you mean"),
    (
        "embedder: {model: resnet50}",
        "embedder.model",
        "'resnet50' is unknown; did you mean torchvision/resnet50 or timm/resnet50?",
    ),
    ("embedder: {precision: fp16}", "embedder.precision", "must be auto, float32 or bfloat16, and is 'fp16'"),
    ("embedder: {normalize: maybe}", "embedder.normalize", "must be true or false, and is 'maybe'"),
    ("embedders: {%s: {}}" % ("a" * 101), f"embedders.{'a' * 101}", "has 101 letters: folders are called so"),
    ("embedders: {a-b: {}}", "embedders.a-b", "'a-b' is no name: use letters, digits and underscores"),
    ("stages: {s: {use: 'own:Class'}}", "stages", "must be a list, and is fields (s)"),
    ("stages: [{name: s, use: own.Class}]", "stages.0.use", "write package.module:Class; did you mean own:Class?"),
    ("stages: [{name: s, stage: 'own:Class'}]", "stages.0.stage", "is no field; there are name, use, of, parameters"),
    ("stages: [{name: a-b, use: 'own:Class'}]", "stages.0.name", "'a-b' is no name: use letters, digits and"),
    (
        "stages: [{name: s, use: 'own:Class'}, {name: s, use: 'own:Other'}]",
        "stages.1.name",
        "'s' is given twice: each is an asset of that name",
    ),
    (
        "stages: [{name: s, use: 'own:Class', parameters: {since: 2026-01-05}}]",
        "stages.0.parameters",
        "since: 2026-01-05 is not plain JSON: put it in quotes",
    ),
    ("gpu: {memory: 24GB}", "gpu.memory", "must be a whole number, and is '24GB'"),
    ("gpu: true", "gpu", "it is for the embeddings, and there is no embedder"),
]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """From a file's text to what is said of it, without the file's name."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pets.yaml"

    def told(text: str) -> str:
        file.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            Planner(load_dataset(file)).check()
        return str(caught.value).replace(str(file), "FILE")

    return told


def file_with(line: str) -> tuple[str, int]:
    """A file with this line in the place of another, or at its end; and the line's number."""
    lines = dict(FIELDS)
    lines[line.partition(":")[0]] = line
    return "\n".join(lines.values()), list(lines).index(line.partition(":")[0]) + 1


@pytest.mark.parametrize(("line", "field", "words"), WRONG, ids=[line[:40] for line, _, _ in WRONG])
def test_the_field_is_named_with_its_line_and_what_would_be_right(
    told: Callable[[str], str], line: str, field: str, words: str
) -> None:
    text, number = file_with(line)
    said = told(text)
    assert said.startswith("FILE declares no valid dataset:\n")
    assert f"  line {number}: {field}: " in said
    assert words in said
    assert not [each for each in NOT_OURS if each in said]


def test_a_field_s_name_is_text(told: Callable[[str], str]) -> None:
    said = told("\n".join([*FIELDS.values(), "1: x", "? \n: y"]))
    assert said.count("is no field: names of fields are text") == 2
    assert not [each for each in NOT_OURS if each in said]


def test_a_field_that_is_missing_is_named(told: Callable[[str], str]) -> None:
    assert told("name: pets\nroot: made") == (
        "FILE declares no valid dataset:\n  source: is missing\n  partitions: is missing"
    )


def test_lines_are_those_of_the_file_for_a_component_too(told: Callable[[str], str]) -> None:
    inner = "\n".join(f"  {line}" for line in FIELDS.values())
    said = told(f"type: orchestration.component.ImageDataset\n\nattributes:\n{inner}\n  shards:\n    max_sample: 3")
    assert "line 9: shards.max_sample: is no field; did you mean 'max_samples'" in said


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("transform: {operations: [{operation: Resiz}]}", "transform: operations.0: torchvision.transforms.v2 has no"),
        ("embedder: {of: webdataset}", "embedder.of: webdataset is no asset; did you mean 'webdataset_shards'?"),
        (
            "transforms: {t: {operations: [{operation: CenterCrop, arguments: {sise: 5}}]}}",
            "transforms.t: operations.0: ",
        ),
        ("stages: [{name: s, use: 'no_such_module:Class'}]", "stages.s: cannot import no_such_module:Class"),
    ],
)
def test_what_shows_before_anything_is_made_names_the_field_too(
    told: Callable[[str], str], line: str, expected: str
) -> None:
    assert expected in told(file_with(line)[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source: {uri: raw/{partition}}", "FILE, line 1, is no YAML: .*Put a value with braces in quotes"),
        ("name: a\nroot: {{ env.HOME }}", "FILE, line 2, is no YAML: .*Put a value with braces in quotes"),
        ("name: a\n\tshards: {}", "FILE, line 2, is no YAML: .*Indent with spaces, not with tabs"),
        ("name: [a", "FILE, line 1, is no YAML"),
        ("source: {uri: raw, exclude: [*.txt]}", "FILE, line 1, is no YAML: .*begins with .* in quotes"),
        ("exclude: *txt", "FILE, line 1, is no YAML: .*begins with .* in quotes"),
        ("owners: [@me]", "FILE, line 1, is no YAML: .*begins with .* in quotes"),
        (
            "description: cats: all of them",
            "FILE, line 1, is no YAML: .*Put a value with a colon and a space in",
        ),
        ("name: a\nname: b", "FILE, line 2: the field name is given twice, see line 1"),
        ("shards: {order: key, order: hash}", "FILE, line 1: the field order is given twice, see line 1"),
        ("name: a\n---\nname: b", "is no YAML"),
        ("x: !!python/object:os.system {}", "FILE, line 1, is no YAML"),
        ("a: &a [*a]", "FILE, line 1: an alias stands for what it is part of"),
        ("x: 2026-02-31", "FILE is no dataset file: day is out of range"),
        (20_000 * "[", "FILE is no dataset file: its brackets are too deep"),
        ("just text", "FILE declares no dataset"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_yaml_names_the_line(told: Callable[[str], str], text: str, expected: str) -> None:
    import re

    assert re.search(expected, told(text))


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once(told: Callable[[str], str]) -> None:
    levels = [f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]" for n in range(1, 12)]
    assert "values, aliases counted; 100,000 are the most" in told("\n".join(["a0: &a0 x", *levels]))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 5000000000 }}",
        "{{ 7 ** 700000000 }}",
        "{{ 'a'.center(5000000000) }}",
        "{{ 'a' | indent(99999999) }}",
        "{% for i in range(9) %}x{% endfor %}{{ 1 }}",
        "{{ range(99999999) }}",
        "{{ ''.__class__ }}",
        "{{ env.X.y }}",
        "{{ ev.X }}",
    ],
)
def test_a_template_names_values_and_does_nothing_else(
    told: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setenv("X", "x")
    text, _ = file_with(f'description: "{template}"')
    assert "FILE, line 5: description: cannot fill in" in told(text)


def test_what_a_template_gave_is_shown_by_no_error(told: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a secret."""
    monkeypatch.setenv("SECRET", "hunter2")
    fields = ("shards", "projection", "max_pixels", "class_names", "owners", "keep_superseded", "gpu")
    lines = [f"{field}: '{{{{ env.SECRET }}}}'" for field in fields]
    nested = ["backfill: {cron: '{{ env.SECRET }}'}", "partitions: ['{{ env.SECRET }}!']"]
    for line in [*lines, *nested, "root: 'ftp://{{ env.SECRET }}'"]:
        assert "hunter2" not in told(file_with(line)[0]), line


def test_a_variable_that_is_not_set_is_named_with_its_field(told: Callable[[str], str]) -> None:
    said: Any = told(file_with("root: '{{ env.NO_SUCH_VARIABLE }}'")[0])
    assert (
        said == "FILE, line 4: root: the dataset file needs the environment variable NO_SUCH_VARIABLE, which is not set"
    )
