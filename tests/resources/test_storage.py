"""`StorageResource`: credentials as Dagster's configuration, and other deployments' own resources."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from resources.storage import GCSCredentialsConfig, S3CredentialsConfig, StorageResource
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import AccessDeniedError
from shardmill.shards.verify import verify
from shardmill.storage import GCSCredentials, S3Credentials, Storage
from shardmill.storage.credentials import reveal
from tests.servers import GCSServer
from tests.servers.places import BUCKETS, Kind, NewPlace, Place, credentials_file

Environment = Callable[[str, str], dg.EnvVar]


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """`secret("NAME", value)` sets a variable and returns the `dg.EnvVar` that names it."""

    def make(name: str, value: str) -> dg.EnvVar:
        monkeypatch.setenv(name, value)
        return dg.EnvVar(name)

    return make


def opened(resource: StorageResource) -> Storage:
    """What a step gets: environment variables are looked up when a run begins."""
    with resource.process_config_and_initialize_cm() as initialized:
        storage: Storage = initialized.open()
        return storage


def configured(place: Place, secret: Environment, prefix: str | None = None) -> dict[str, Any]:
    """The resource's arguments for a place."""
    [given] = place.credentials
    if isinstance(given, GCSCredentials):
        assert given.service_account_json is not None
        key = secret(f"KEY_{abs(hash(place.uri))}", reveal(given.service_account_json))
        entry = GCSCredentialsConfig(prefix=prefix or given.prefix, endpoint=given.endpoint, service_account_json=key)
        return {"gcs": [entry]}
    assert isinstance(given, S3Credentials)
    assert given.secret_access_key is not None
    return {
        "s3": [
            S3CredentialsConfig(
                prefix=given.prefix,
                endpoint=given.endpoint,
                region=given.region,
                access_key_id=given.access_key_id,
                secret_access_key=secret(f"KEY_{abs(hash(place.uri))}", reveal(given.secret_access_key)),
            )
        ]
    }


@pytest.mark.parametrize("kind", BUCKETS)
def test_secrets_are_read_from_the_environment_when_a_run_begins(
    place: NewPlace, secret: Environment, kind: Kind
) -> None:
    home = place(kind)
    home.put("a", b"1")
    assert opened(StorageResource(**configured(home, secret))).read(f"{home.uri}/a") == b"1"


def test_the_longest_prefix_counts(place: NewPlace, secret: Environment) -> None:
    ours, partner = place("gs"), place("gs")
    partner.put("a", b"1")
    reader = place("gs", at=partner, may="r")
    entries = [*configured(ours, secret, "gs://")["gcs"], *configured(reader, secret)["gcs"]]
    storage = opened(StorageResource(gcs=entries))
    assert storage.read(f"{partner.uri}/a") == b"1"
    storage.replace(f"{ours.uri}/b", b"2", None)
    with pytest.raises(AccessDeniedError, match=f"{reader.email} lacks the permission storage.objects.create"):
        storage.check_writable(partner.uri)


def test_a_credentials_file_is_read_and_entries_add_to_it(
    place: NewPlace, secret: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = place("gs"), place("s3")
    file, environment = credentials_file(tmp_path / "credentials.yaml", ours)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    storage = opened(StorageResource(credentials_file=str(file), **configured(other, secret)))
    for home in (ours, other):
        storage.replace(f"{home.uri}/a", b"1", None)
    monkeypatch.setenv("SHARDMILL_CREDENTIALS", str(file))
    assert opened(StorageResource.from_environment()).read(f"{ours.uri}/a") == b"1"


def test_a_dagster_aws_resource_is_accepted(place: NewPlace, secret: Environment) -> None:
    from dagster_aws.s3 import S3Resource

    home = place("s3")
    [given] = home.credentials
    assert isinstance(given, S3Credentials)
    assert given.secret_access_key is not None
    resource = S3Resource(
        endpoint_url=given.endpoint,
        region_name=given.region,
        aws_access_key_id=given.access_key_id,
        aws_secret_access_key=secret("AWS_CANARY", reveal(given.secret_access_key)),
    )
    storage = opened(StorageResource(s3_resource=resource))
    storage.replace(f"{home.uri}/a", b"1", None)
    assert home.storage.read(f"{home.uri}/a") == b"1"
    # Beside an entry with a prefix of its own.
    other = place("s3")
    both = opened(StorageResource(s3_resource=resource, **configured(other, secret)))
    both.replace(f"{other.uri}/a", b"2", None)
    assert both.read(f"{home.uri}/a") == b"1"


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE"])
def test_a_dagster_gcp_resource_is_accepted_with_the_environment_that_it_lives_on(
    place: NewPlace, gcs_server: GCSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Google's own client knows both variables; whatever lists and whatever reads must go to the same place."""
    from dagster_gcp.gcs import GCSResource

    home = place("gs")
    [given] = home.credentials
    assert isinstance(given, GCSCredentials)
    assert given.service_account_json is not None
    key = tmp_path / "key.json"
    key.write_text(reveal(given.service_account_json))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv(variable, gcs_server.url)
    from shardmill.storage.stores import _object_store

    _object_store.cache_clear()  # the clients of this process, which were made in another environment
    try:
        storage = opened(StorageResource(gcs_resource=GCSResource(project=gcs_server.project)))
        storage.replace(f"{home.uri}/a", b"1", None)
        assert [info.uri for info in storage.list(home.uri)] == [f"{home.uri}/a"]
        assert storage.read(f"{home.uri}/a") == b"1"
    finally:
        _object_store.cache_clear()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance"), {"telemetry": {"enabled": False}}) as made:
        yield made


@pytest.fixture
def spec(place: NewPlace) -> tuple[Place, Place, DatasetSpec]:
    """A source on Google's store, a root on S3, and the dataset from one to the other."""
    source, root = place("gs"), place("s3")
    for number in range(6):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        source.put(f"{number}.jpg", buffer.getvalue())
    fields = {
        "name": "d",
        "root": root.uri,
        "source": {"uri": source.uri},
        "partitions": ["p"],
        "transform": {"operations": [{"operation": "CenterCrop", "arguments": {"size": 48}}]},
        "embedder": {},
    }
    return source, root, DatasetSpec.model_validate(fields)


def materialize(
    spec: DatasetSpec, storage: StorageResource, instance: dg.DagsterInstance, *names: str
) -> dg.ExecuteInProcessResult:
    chosen = dg.AssetSelection.assets(*(dg.AssetKey(["d", name]) for name in names))
    job = dg.define_asset_job("chosen", chosen if names else dg.AssetSelection.all())
    defs = build_defs(dg.Definitions.merge(dataset_definitions(spec), dg.Definitions(jobs=[job])), {"storage": storage})
    return defs.resolve_job_def("chosen").execute_in_process(instance=instance, partition_key="p", raise_on_error=False)


def test_a_materialization_from_one_cloud_to_the_other(
    spec: tuple[Place, Place, DatasetSpec], secret: Environment, instance: dg.DagsterInstance
) -> None:
    source, root, declared = spec
    resource = StorageResource(**configured(source, secret), **configured(root, secret))
    result = materialize(declared, resource, instance)
    assert result.success
    assert all(check.passed for check in result.get_asset_check_evaluations())
    dataset = Dataset(declared, Storage((*source.credentials, *root.credentials)))
    for asset in ("raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map"):
        shards = dataset.stored(asset, "p")  # type: ignore[arg-type]
        assert shards is not None
        assert list(verify(shards)) == []
        assert shards.commit.total_samples == 6


def said(result: dg.ExecuteInProcessResult) -> tuple[str, int]:
    """What the one failed step says, and how often it was tried again."""
    [event] = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None, event.step_failure_data.error
    again = sum(event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY for event in result.all_events)
    return data.description or "", again


@pytest.fixture
def retrying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every asset may be retried once."""
    import assets.common

    given = assets.common.asset_options
    monkeypatch.setattr(
        "assets.build.asset_options",
        lambda *arguments: {**given(*arguments), "retry_policy": dg.RetryPolicy(max_retries=1)},
    )


def test_a_refused_identity_is_one_plain_failure(
    spec: tuple[Place, Place, DatasetSpec],
    place: NewPlace,
    secret: Environment,
    instance: dg.DagsterInstance,
    retrying: None,
) -> None:
    source, root, declared = spec
    reader = place("s3", at=root, may="r")
    resource = StorageResource(**configured(source, secret), **configured(reader, secret))
    text, again = said(materialize(declared, resource, instance, "raw_images"))
    assert text.startswith(f"cannot write {root.uri}")
    assert text.endswith(f"{reader.identity} lacks the permission s3:PutObject")
    assert again == 0
    assert root.contents() == {}


def test_a_variable_that_a_credentials_file_names_and_nobody_set_is_one_plain_failure(
    spec: tuple[Place, Place, DatasetSpec], tmp_path: Path, instance: dg.DagsterInstance, retrying: None
) -> None:
    source, root, declared = spec
    file, environment = credentials_file(tmp_path / "credentials.yaml", source, root)
    resource = StorageResource(credentials_file=str(file))
    text, again = said(materialize(declared, resource, instance, "raw_images"))
    said_of = [f"the credentials need the environment variable {name}, which is not set" for name in environment]
    assert text in said_of  # the root's or the source's, whichever is looked at first
    assert again == 0


def test_a_variable_that_dagster_does_not_find_is_named(
    spec: tuple[Place, Place, DatasetSpec], instance: dg.DagsterInstance
) -> None:
    """Dagster looks before the run begins, and says so itself."""
    _, _, declared = spec
    resource = StorageResource(gcs=[GCSCredentialsConfig(service_account_json=dg.EnvVar("NOBODY_SET_THIS"))])
    with pytest.raises(dg.DagsterInvalidConfigError, match="NOBODY_SET_THIS"):
        materialize(declared, resource, instance, "raw_images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gcs": [GCSCredentialsConfig(prefix="s3://x")]}, "prefix"),
        ({"s3": [S3CredentialsConfig(secret_access_key="canary-1234")]}, "belong together"),
        ({"s3": [S3CredentialsConfig(addressing="canary-1234")]}, "addressing"),
        ({"gcs": [GCSCredentialsConfig(anonymous=True, service_account_json="canary-1234")]}, "give one of them"),
        ({"credentials_file": "/nowhere/credentials.yaml"}, "cannot read the credentials file /nowhere"),
    ],
)
def test_credentials_that_are_none_are_a_final_failure_that_shows_no_value(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(dg.Failure, match=message) as caught:
        StorageResource(**arguments).open()
    assert caught.value.allow_retries is False
    assert "canary" not in str(caught.value.description)
