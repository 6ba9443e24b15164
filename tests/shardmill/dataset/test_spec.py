import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shardmill.dataset import DatasetSpec, load_dataset
from shardmill.devices import GPUSpec
from shardmill.durations import seconds_of
from shardmill.errors import ConfigurationError
from shardmill.graph import build_graph
from shardmill.stages.embed import EmbedStage
from tests.small import ASSETS

MINIMAL = """
name: pets
root: /data/out
source: {uri: "/data/raw/{partition}"}
partitions: ["2026-01", "2026-02"]
"""
WriteYaml = Callable[[str], Path]


@pytest.fixture
def yaml_file(tmp_path: Path) -> WriteYaml:
    def make(content: str) -> Path:
        file = tmp_path / "defs.yaml"
        file.write_text(content)
        return file

    return make


def with_lines(*lines: str, without: str = "") -> str:
    """The minimal file with these top-level lines, each in place of the one of the same name."""
    names = [line.partition(":")[0] for line in lines] + [without]
    kept = [line for line in MINIMAL.strip().splitlines() if line.partition(":")[0] not in names]
    return "\n".join([*kept, *lines])


def test_bare_attributes_are_a_dataset(yaml_file: WriteYaml) -> None:
    spec = load_dataset(yaml_file(MINIMAL)).spec
    assert (spec.name, spec.root, spec.source.uri) == ("pets", "/data/out", "/data/raw/{partition}")
    assert spec.partitions == ["2026-01", "2026-02"]


def test_a_component_s_defs_yaml_is_the_same_dataset(yaml_file: WriteYaml) -> None:
    bare = load_dataset(yaml_file(MINIMAL)).spec
    indented = MINIMAL.replace("\n", "\n  ")
    assert load_dataset(yaml_file(f"type: orchestration.component.ImageDataset\nattributes:{indented}")).spec == bare


def test_the_demo_s_defs_yaml_is_a_dataset() -> None:
    project = Path(__file__).parents[3]
    spec = load_dataset(project / "orchestration" / "defs" / "demo" / "defs.yaml").spec
    assert spec.root == f"{project}/data/assets"


def test_the_environment_s_default_is_filled_in(yaml_file: WriteYaml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETS_MAX", "7")
    monkeypatch.delenv("PETS_RAW", raising=False)
    content = with_lines(
        "source: {uri: \"{{ env('PETS_RAW', '/mnt/raw') }}/{partition}\"}",
        "shards: {max_samples: \"{{ env('PETS_MAX') }}\"}",
    )
    spec = load_dataset(yaml_file(content)).spec
    assert (spec.source.uri, spec.shards.max_samples) == ("/mnt/raw/{partition}", 7)


def test_the_environment_is_filled_in(yaml_file: WriteYaml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETS_ROOT", "/mnt/pets")
    monkeypatch.setenv("PETS_MAX", "7")
    content = with_lines('root: "{{ env.PETS_ROOT }}/out"', 'shards: {max_samples: "{{ env.PETS_MAX }}"}')
    spec = load_dataset(yaml_file(content)).spec
    assert (spec.root, spec.shards.max_samples) == ("/mnt/pets/out", 7)


def test_templates_are_filled_in_within_lists(yaml_file: WriteYaml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAY", "2026-03")
    assert load_dataset(yaml_file(with_lines('partitions: ["{{ env.DAY }}"]'))).spec.partitions == ["2026-03"]


def test_the_project_root_is_the_nearest_folder_above_with_a_pyproject(tmp_path: Path) -> None:
    folder = tmp_path / "project" / "defs" / "pets"
    folder.mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "project" / "pyproject.toml").touch()
    file = folder / "defs.yaml"
    file.write_text(with_lines('root: "{{ context.project_root }}/data"'))
    assert load_dataset(file).spec.root == f"{tmp_path}/project/data"


def test_without_a_pyproject_the_project_root_is_the_file_s_folder(tmp_path: Path) -> None:
    if any((folder / "pyproject.toml").exists() for folder in tmp_path.parents):
        pytest.skip("there is a pyproject.toml above the temporary folder")
    file = tmp_path / "pets.yaml"
    file.write_text(with_lines('root: "{{ context.project_root }}"'))
    assert load_dataset(file).spec.root == str(tmp_path)


def test_folders_are_below_the_root_by_dataset_asset_and_partition(yaml_file: WriteYaml) -> None:
    dataset = load_dataset(yaml_file(MINIMAL))
    assert dataset.folder("embeddings", "2026-01") == "file:///data/out/pets/embeddings/2026-01"
    assert dataset.home == "file:///data/out/pets"
    assert dataset.name("raw_images", "2026-02") == "pets/raw_images/2026-02"
    folders = {dataset.folder(asset, partition) for asset in ASSETS for partition in dataset.spec.partitions}
    assert len(folders) == 2 * len(ASSETS)


def test_a_partition_that_is_not_declared_is_a_configuration_error(yaml_file: WriteYaml) -> None:
    with pytest.raises(ConfigurationError, match=r"no partition '2026-09'; there are 2026-01, 2026-02"):
        load_dataset(yaml_file(MINIMAL)).folder("embeddings", "2026-09")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_lines("shard: {max_samples: 3}"), "shard: is no field"),
        (with_lines("shards: {max_sample: 3}"), r"shards\.max_sample: is no field"),
        (with_lines("shards: {max_samples: many}"), r"shards\.max_samples: must be a whole number"),
        (with_lines("shards: {max_samples: 0}"), r"shards\.max_samples: must be more than 0"),
        (with_lines("shards: {order: random}"), r"shards\.order: must be hash or key"),
        (with_lines(without="partitions"), "partitions: is missing"),
        (with_lines("partitions: []"), "partitions: must not be empty"),
        (with_lines("partitions: [a, a]"), "partitions: .*different from each other"),
        (with_lines("partitions: [2026-01-01]"), r"partitions\.0: must be text"),
        (with_lines('partitions: ["a/b", "c"]'), "partitions: .*'a/b'"),
        (with_lines('partitions: ["..", "c"]'), r"partitions: .*'\.\.'"),
        (with_lines('partitions: ["a...b", "c"]'), r"partitions: .*'a\.\.\.b'"),
        (with_lines('partitions: ["a,b", "c"]'), "partitions: .*'a,b'"),
        (with_lines('partitions: ["a\\n", "c"]'), r"partitions: .*'a\\n'"),
        (with_lines('name: "my pets"'), "name: "),
        (with_lines('name: "pets\\n"'), "name: "),
        (with_lines('name: ""'), "name: "),
        (with_lines(without="root"), "root: is missing"),
        (with_lines(without="source"), "source: is missing"),
        (with_lines("source: {}"), "source: .*either `uri`"),
        (with_lines("source: {uri: 'a/{partition}', table: b.csv}"), "source: .*either `uri`"),
        (with_lines("source: {uri: /data/raw}"), r"/data/raw.*\{partition\}"),
        (with_lines("source: {uri: 'a/{partition}', components: {jpg: a.jpg}}"), r"source\.components: .*'a\.jpg'"),
        (with_lines("embedder: {}", "columns: {width: integer}"), r"columns\.width: .*'integer' .* mean int64\?"),
        (with_lines("embedder: {}", "columns: {tags: list<str>}"), r"columns\.tags: .*did you mean list<string>\?"),
        (
            with_lines("embedder: {}", "columns: {x: box}"),
            r"columns\.x: .*'box' is no type of a column\. There are string",
        ),
        (with_lines("embedder: {}", "columns: {model: string}"), r"columns\.model: .*a column of its own"),
        (
            with_lines("columns: {width: int32}"),
            "columns: they go into the table of embeddings, and there is no embedder",
        ),
        (
            with_lines("source: {uri: 'a/{partition}', allow: [/b]}"),
            "source: .*`allow`, `delimiter` and `rows` are of a source",
        ),
        (with_lines("source: {table: a.csv, delimiter: ';;'}"), r"source\.delimiter: "),
        (
            with_lines("source: {uri: 'a/{partition}', metadata: {table: b.csv, key_column: id}}"),
            r"source\.metadata: it is a table of `columns`: declare which",
        ),
        (with_lines("gpu: true", "embedder: {runtime: openvino}"), "gpu asks.*openvino"),
        (with_lines("embedder: {decode: cuda}"), "decode.*only where the vectors are computed on CUDA"),
        (with_lines("gpu: {count: 0}"), r"gpu.*count: must be more than 0"),
        (with_lines("gpu: {memory: 16GB}"), r"gpu.*memory: must be a whole number"),
        (with_lines("gpu: {accelerator: 'an l4'}"), r"gpu.*accelerator: .*is no label"),
        (with_lines("gpu: {kind: l4}"), r"gpu.*kind: is no field"),
        (with_lines("embedder: {batch_size: 0}"), r"embedder\.batch_size: "),
        (with_lines("max_reject_ratio: 1.5"), "max_reject_ratio: "),
        (with_lines("projection: tsne"), "projection: "),
        (with_lines("transform: {operations: [{arguments: {size: 3}}]}"), r"operations\.0\.operation: is missing"),
        ("type: x\nattributes: [1, 2]", "dataset: has fields of its own"),
        ("type: x\nattributes:", "dataset: is empty"),
    ],
    ids=lambda value: value.splitlines()[-1] if "\n" in value else "",
)
def test_a_mistake_is_a_configuration_error_that_names_the_file_and_the_field(
    yaml_file: WriteYaml, content: str, message: str
) -> None:
    file = yaml_file(content)
    with pytest.raises(ConfigurationError, match=f"(?s){re.escape(str(file))} declares no valid dataset.*{message}"):
        load_dataset(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "declares no dataset"),
        ("just text", "declares no dataset"),
        ("- a\n- b", "declares no dataset"),
        ("name: [unclosed", "is no YAML"),
        ("name: a\n---\nname: b", "is no YAML"),
        ("x: !!python/object:os.system {}", "is no YAML"),
        (with_lines('root: "{{ nothing.here }}"'), r"cannot fill in .*nothing\.here"),
        (with_lines('root: "{{ unclosed"'), "cannot fill in"),
        (with_lines("root: \"{{ ''.__class__.__mro__ }}\""), "cannot fill in"),
    ],
)
def test_what_is_no_dataset_file_is_a_configuration_error_that_names_it(
    yaml_file: WriteYaml, content: str, message: str
) -> None:
    file = yaml_file(content)
    with pytest.raises(ConfigurationError, match=f"(?s){re.escape(str(file))}.*{message}"):
        load_dataset(file)


@pytest.mark.parametrize("template", ["{{ env.PETS_MISSING }}", pytest.param("{{ env('PETS_MISSING') }}")])
def test_a_missing_environment_variable_is_a_configuration_error_that_names_it(
    yaml_file: WriteYaml, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.delenv("PETS_MISSING", raising=False)
    with pytest.raises(ConfigurationError, match="PETS_MISSING, which is not set"):
        load_dataset(yaml_file(with_lines(f'root: "{template}"')))


def test_several_mistakes_are_all_named(yaml_file: WriteYaml) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)max_reject_ratio.*colour"):
        load_dataset(yaml_file(with_lines("max_reject_ratio: 2", "colour: red")))


@pytest.mark.parametrize("name", ["missing.yaml", "folder"])
def test_a_file_that_cannot_be_read_is_a_configuration_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match=f"cannot read the dataset file {tmp_path / name}"):
        load_dataset(tmp_path / name)


def test_a_file_that_is_not_utf_8_is_a_configuration_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "defs.yaml"
    file.write_bytes(b"name: \xff")
    with pytest.raises(ConfigurationError, match=str(file)):
        load_dataset(file)


def test_a_gpu_goes_with_the_runtimes_that_use_one(yaml_file: WriteYaml) -> None:
    for runtime in ("auto", "cuda"):
        content = with_lines("gpu: true", f"embedder: {{runtime: {runtime}}}")
        assert load_dataset(yaml_file(content)).spec.gpu


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", None),
        ("gpu: false", None),
        ("gpu: true", GPUSpec()),
        ("gpu: {}", GPUSpec()),
        ("gpu: {count: 2, memory: 16, accelerator: nvidia-l4}", GPUSpec(count=2, memory=16, accelerator="nvidia-l4")),
    ],
)
def test_gpu_says_how_many_devices_and_which_will_do(yaml_file: WriteYaml, line: str, expected: GPUSpec | None) -> None:
    spec = load_dataset(yaml_file(with_lines(line, "embedder: {}"))).spec
    assert spec.gpu == expected
    stage = build_graph(spec)["embeddings"].stage
    assert isinstance(stage, EmbedStage)
    assert stage.spec.runtime == ("auto" if expected is None else "cuda")
    assert DatasetSpec.model_validate(spec.model_dump(exclude_unset=True)) == spec


def test_one_partition_needs_no_place_in_the_source(yaml_file: WriteYaml) -> None:
    content = with_lines("partitions: [all]", "source: {uri: /data/raw}")
    assert load_dataset(yaml_file(content)).spec.partitions == ["all"]


@pytest.mark.parametrize(
    ("uri", "partitions", "root", "is_within"),
    [
        ("/data/{partition}", "{by: prefix}", "/data/made", True),
        ("/data/{partition}/images", "{by: prefix}", "/data/made", False),
        ("/data/raw/{partition}", "{by: prefix}", "/data/made", False),
        ("/data", "{by: batch}", "/data/made", True),
        ("gs://b/{partition}", "{by: prefix}", "gs://b/made", True),
        ("gs://b/{partition}", "{by: prefix}", "gs://other/made", False),
        ("/data", "[all]", "/data/made", True),
        ("/data/{partition}", "[raw, more]", "/data/made", False),
        ("/data/{partition}", "[raw, made]", "/data/made", True),
    ],
)
def test_a_root_within_the_source_is_a_mistake(
    yaml_file: WriteYaml, uri: str, partitions: str, root: str, is_within: bool
) -> None:
    file = yaml_file(f"name: d\nsource: {{uri: '{uri}'}}\npartitions: {partitions}\nroot: '{root}'\n")
    if not is_within:
        assert load_dataset(file).spec.root == root
        return
    with pytest.raises(ConfigurationError, match="lies within the source"):
        load_dataset(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("backfill: {cron: '61 3 * * *'}", "its minute is '61'"),
        ("backfill: {cron: '3 * * *'}", "give five fields"),
        ("backfill: {cron: '0 3 * * *', timezone: Europe/Berlim}", "'Europe/Berlim' is no time zone"),
        ("sensor: {notifications: {sqs_queue: 'https://sqs.example.org/1/q'}}", "buckets under s3://"),
        ("sensor: {notifications: {pubsub_subscription: 'projects/p/subscriptions/s'}}", "buckets under gs://"),
    ],
)
def test_a_mistake_in_what_keeps_a_dataset_up_to_date_is_told_plainly(
    yaml_file: WriteYaml, line: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        load_dataset(yaml_file(with_lines(line)))


@pytest.mark.parametrize("cron", ["*/5 8-18 * * MON-FRI", "0 0 1,15 * *", "@daily", "30 3 * JAN 7"])
def test_what_cron_knows_is_taken(yaml_file: WriteYaml, cron: str) -> None:
    assert load_dataset(yaml_file(with_lines(f"backfill: {{cron: '{cron}'}}"))).spec.backfill is not None


@pytest.mark.parametrize(
    ("given", "seconds"), [("7d", 604800.0), ("12h", 43200.0), ("30 m", 1800.0), (90, 90.0), ("5s", 5)]
)
def test_a_duration_is_a_number_of_seconds_or_has_a_unit(given: object, seconds: float) -> None:
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", ["soon", "7", "-1d", -1, True, None, "1w", float("nan"), float("inf")])
def test_what_is_no_duration_is_refused_with_what_is_one(given: object) -> None:
    with pytest.raises(ValueError, match="such as 7d"):
        seconds_of(given)
