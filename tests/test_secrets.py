"""Secrets reach the store that they are for and show nowhere else, whatever succeeds and whatever fails."""

import io
import json
import os
import pickle
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from resources.engine import EngineResource
from resources.storage import GCSCredentialsConfig, S3CredentialsConfig, StorageResource
from shardmill.cli import app
from shardmill.dataset import DatasetSpec
from shardmill.storage import Credentials, GCSCredentials, S3Credentials, Storage
from tests.servers import GCSServer, S3Server, STSServer
from tests.servers.places import NewPlace, Place, named_secrets, secrets_of

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
SAMPLES = 12


def canary(kind: str) -> str:
    """A secret that stands nowhere by chance."""
    return f"canary{kind}{uuid.uuid4().hex}"


def needles(*credentials: Credentials) -> set[bytes]:
    """What to look for: every secret, and of a private key every line."""
    found: set[str] = set()
    for secret in secrets_of(*credentials):
        # In JSON a line ends with a backslash and an n.
        lines = [line for line in secret.replace("\\n", "\n").splitlines() if "PRIVATE KEY" not in line]
        found |= {secret} if len(lines) < 3 else {line for line in lines if len(line) >= 24 and '": "' not in line}
    assert found
    return {needle.encode() for needle in found}


class Searched:
    """Collects everything that could have been told, and looks for secrets in it."""

    def __init__(self) -> None:
        self.places: dict[str, bytes] = {}

    def add(self, where: str, what: object) -> None:
        """Text, bytes, an exception, or anything that has a repr."""
        if isinstance(what, BaseException):
            told = traceback.format_exception(what)
            cause: BaseException | None = what
            chain: list[BaseException] = []
            while cause is not None and cause not in chain:
                chain.append(cause)
                told += [str(cause), repr(cause), repr(cause.args)]
                cause = cause.__cause__ or cause.__context__
            what = "\n".join(told)
        data = what if isinstance(what, bytes) else (what if isinstance(what, str) else repr(what)).encode()
        self.places[f"{where} ({len(self.places)})"] = data

    def add_folder(self, folder: Path) -> None:
        """Every file, as bytes: of SQLite too, which keeps what was deleted."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.add(str(file.relative_to(folder)), file.read_bytes())

    def add_objects(self, place: Place) -> None:
        for info in place.storage.list(place.uri):
            self.add(info.uri, place.storage.read(info.uri))

    def outputs(self) -> str:
        """What the commands printed: why one failed."""
        return "\n".join(data.decode(errors="replace") for name, data in self.places.items() if "output of" in name)

    def where(self, secrets: Iterable[bytes]) -> list[str]:
        """The places where any of them stands, plainly or as text in text."""
        return [name for name, data in self.places.items() for secret in secrets if secret in data]


@pytest.fixture
def searched() -> Searched:
    return Searched()


def test_the_search_finds_what_is_there(tmp_path: Path, place: NewPlace, searched: Searched) -> None:
    home = place("gs")
    secrets = needles(*home.credentials)
    assert len(secrets) > 20
    key = json.loads(secrets_of(*home.credentials)[0])
    line = key["private_key"].splitlines()[7]
    (tmp_path / "below").mkdir()
    (tmp_path / "below/history.db").write_bytes(b"\0\1" + line.encode() + b"\2")
    home.put("d/index.json", json.dumps({"key": key}).encode())
    searched.add("nothing", "nothing")
    searched.add("error", RuntimeError(f"cannot parse {json.dumps(key)!r}"))
    searched.add("pickle", pickle.dumps(secrets_of(*home.credentials)))
    searched.add_folder(tmp_path)
    searched.add_objects(home)
    found = {name.rpartition(" ")[0] for name in searched.where(secrets)}
    assert found == {"error", "pickle", "below/history.db", f"{home.uri}/d/index.json"}


def fill(place: Place) -> None:
    for number in range(SAMPLES):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        place.put(f"{number:02d}.jpg", buffer.getvalue())


def fields_of(source: str, root: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": "d",
        "root": root,
        "source": {"uri": source},
        "partitions": ["p"],
        "shards": {"max_samples": 3},
        "embedder": {},
        "transform": {"operations": [{"operation": "CenterCrop", "arguments": {"size": 48}}]},
        **fields,
    }


def through_hmac(s3_server: S3Server, place: NewPlace) -> Place:
    """A bucket under `gs://` that is reached by HMAC key, through the S3 protocol."""
    given = place("s3")
    assert given.keys is not None
    uri = given.uri.replace("s3://", "gs://")
    credentials = GCSCredentials(
        prefix=uri,
        endpoint=s3_server.url,
        hmac_access_key_id=given.keys.access_key_id,
        hmac_secret=given.keys.secret_access_key,  # type: ignore[arg-type]
    )
    return Place("gs", uri, (credentials,))


def resource_of(variable: str, *credentials: Credentials) -> tuple[StorageResource, dict[str, str]]:
    """The resource as a deployment declares it: secrets are `dg.EnvVar`."""
    fields, environment = named_secrets(variable, *credentials)
    entries: dict[str, list[Any]] = {"gcs": [], "s3": []}
    for given in fields:
        named = {name: dg.EnvVar(value["env"]) if isinstance(value, dict) else value for name, value in given.items()}
        google = given["prefix"].startswith("gs://")
        entries["gcs" if google else "s3"].append((GCSCredentialsConfig if google else S3CredentialsConfig)(**named))
    return StorageResource(**entries), environment


# What succeeds, in processes of their own.

DEFINITIONS = """\
import json, os
import dagster as dg
from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from resources.engine import EngineResource
from resources.storage import GCSCredentialsConfig, S3CredentialsConfig, StorageResource
from shardmill.dataset import DatasetSpec

def named(fields):
    return {name: dg.EnvVar(value["env"]) if isinstance(value, dict) else value for name, value in fields.items()}

declared = json.loads(os.environ["DECLARED"])
storage = StorageResource(
    gcs=[GCSCredentialsConfig(**named(each)) for each in declared["storage"] if each["prefix"].startswith("gs://")],
    s3=[S3CredentialsConfig(**named(each)) for each in declared["storage"] if each["prefix"].startswith("s3://")],
)
overrides = {"storage": storage, "engine": EngineResource(workers=8)}
datasets = [dataset_definitions(DatasetSpec.model_validate(each)) for each in declared["datasets"]]
defs = build_defs(dg.Definitions.merge(*datasets), overrides)
"""

RESOURCE_QUERY = """{
  topLevelResourceDetailsOrError(resourceSelector: {
    repositoryName: "__repository__", repositoryLocationName: "declared", resourceName: "storage"
  }) { __typename ... on ResourceDetails { configuredValues { key value type } } }
}"""


def watched(searched: Searched, command: list[str], environment: dict[str, str], cwd: Path) -> int:
    """Run a command; collect its output and the command lines of all its children. Returns the exit status."""
    output = cwd / f"output-{uuid.uuid4().hex}"
    commands: set[str] = set()
    with output.open("wb") as stream:
        process = psutil.Popen(command, env=environment, cwd=cwd, stdout=stream, stderr=subprocess.STDOUT)
        while process.poll() is None:
            try:
                for each in [process, *process.children(recursive=True)]:
                    commands.add(Path(f"/proc/{each.pid}/cmdline").read_bytes().decode(errors="replace"))
            except (OSError, psutil.Error):
                pass
            time.sleep(0.1)  # workers live for longer
    searched.add(f"command lines of {command[1:3]}", "\n".join(commands))
    searched.add(f"output of {command[1:3]}", output.read_bytes())
    if "materialize" in command or "run" in command:
        assert sum("forkserver" in each or "multiprocessing" in each for each in commands) >= 1  # workers were there
    return int(process.returncode)


def test_a_run_of_dagster_shows_no_secret(
    place: NewPlace, s3_server: S3Server, tmp_path: Path, searched: Searched
) -> None:
    """A service account, an S3 key and an HMAC key, over two datasets; then all that Dagster keeps and serves."""
    source, root, other = place("gs"), place("s3"), through_hmac(s3_server, place)
    fill(source)
    credentials = [*source.credentials, *root.credentials, *other.credentials]
    secrets = needles(*credentials)
    fields, environment = named_secrets("CANARY", *credentials)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    (tmp_path / "declared.py").write_text(DEFINITIONS)
    datasets = [fields_of(source.uri, root.uri), fields_of(source.uri, other.uri, name="e")]
    everything = {
        **os.environ,
        **environment,
        "DAGSTER_HOME": str(home),
        "DECLARED": json.dumps({"storage": fields, "datasets": datasets}),
        "PYTHONPATH": f"{REPOSITORY}:{tmp_path}",
    }
    select = 'group:d or key:"e/raw_images" or key:"e/webdataset_shards" or key:"e/transformed_shards"'
    command = [str(PROGRAMS / "dagster"), "asset", "materialize", "-m", "declared", "--partition", "p"]
    assert watched(searched, [*command, "--select", select], everything, tmp_path) == 0, searched.outputs()
    graphql = [str(PROGRAMS / "dagster-graphql"), "-m", "declared", "-t", RESOURCE_QUERY]
    assert watched(searched, graphql, everything, tmp_path) == 0
    [answer] = [data for name, data in searched.places.items() if "output" in name and b"topLevelResource" in data]
    assert b'"__typename": "ResourceDetails"' in answer or b'"__typename":"ResourceDetails"' in answer, answer
    for name in environment:
        assert name.encode() in answer
    searched.add_folder(tmp_path)
    assert any(".db (" in name for name in searched.places)
    searched.add_objects(root)
    searched.add_objects(other)
    assert sum(".tar" in name for name in searched.places) >= 12
    assert searched.where(secrets) == []


def test_a_run_of_the_command_shows_no_secret(
    place: NewPlace, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, searched: Searched
) -> None:
    """The secrets stand in the credentials file itself, as text."""
    source, root = place("gs"), place("s3")
    fill(source)
    credentials = [*source.credentials, *root.credentials]
    inline = [item.model_dump(exclude_unset=True) for item in credentials]
    for item, text in zip(inline, secrets_of(*credentials), strict=True):
        item["service_account_json" if "service_account_json" in item else "secret_access_key"] = text
    file, dataset = tmp_path / "credentials.yaml", tmp_path / "d.yaml"
    file.write_text(yaml.safe_dump({"gcs": inline[:1], "s3": inline[1:]}))
    dataset.write_text(yaml.safe_dump(fields_of(source.uri, root.uri)))
    arguments = [sys.executable, "-m", "shardmill.cli", "run", str(dataset), "--credentials", str(file)]
    work = tmp_path_factory.mktemp("t")  # short: the path of a socket has at most 107 characters
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(work)}
    assert watched(searched, [*arguments, "--workers", "8"], environment, work) == 0, searched.outputs()
    searched.add_folder(work)
    searched.add_objects(root)
    secrets = needles(*credentials)
    assert searched.where(secrets) == []
    assert any(secret in file.read_bytes() for secret in secrets)


# What fails.


def _update(credentials: tuple[Credentials, ...], **fields: Any) -> tuple[Credentials, ...]:
    [item] = credentials
    return (type(item).model_validate({**item.model_dump(exclude_unset=True), **fields}),)


@pytest.fixture
def failing(
    place: NewPlace, gcs_server: GCSServer, s3_server: S3Server, sts_server: STSServer
) -> dict[str, tuple[str, tuple[Credentials, ...]]]:
    """By name: a place for the root of a dataset, and credentials for it that do not get through."""
    google, amazon = place("gs"), place("s3")
    assert amazon.keys is not None
    key = json.loads(secrets_of(*google.credentials)[0])
    stranger = json.loads(secrets_of(*place("gs").credentials)[0])
    quick = {"deadline_seconds": 0.5}
    dead = {"endpoint": "http://127.0.0.1:9", **quick}
    broken_pem = "-----BEGIN PRIVATE KEY-----\n" + canary("pem") + "\n-----END PRIVATE KEY-----\n"

    def with_key(**fields: Any) -> tuple[Credentials, ...]:
        return _update(google.credentials, service_account_json=json.dumps({**key, **fields}))

    def hmac(secret: str, **fields: Any) -> tuple[Credentials, ...]:
        given = {"prefix": google.uri, "endpoint": s3_server.url, "hmac_access_key_id": amazon.keys.access_key_id}  # type: ignore[union-attr]
        return (GCSCredentials.model_validate({**given, "hmac_secret": secret, **fields}),)

    role = {
        "prefix": f"s3://{sts_server.bucket}",
        "endpoint": sts_server.url,
        "sts_endpoint": sts_server.url,
        "region": sts_server.region,
        "role_arn": sts_server.role_arn,
        "external_id": canary("external"),
    }

    def assuming(**fields: Any) -> tuple[Credentials, ...]:
        keys = sts_server.stranger
        own = {"access_key_id": keys.access_key_id, "secret_access_key": keys.secret_access_key}
        return (S3Credentials.model_validate({**role, **own, **fields}),)

    return {
        "google, wrong key": (google.uri, with_key(private_key=stranger["private_key"])),
        "google, refused write": (google.uri, place("gs", at=google, may="r").credentials),
        "google, dead endpoint": (google.uri, _update(google.credentials, **dead)),
        "google, dead token endpoint": (
            google.uri,
            _update(
                google.credentials,
                service_account_json=json.dumps({**key, "token_uri": "http://127.0.0.1:9/token"}),
                **quick,
            ),
        ),
        "google, malformed PEM": (google.uri, with_key(private_key=broken_pem)),
        "google, no JSON": (google.uri, _update(google.credentials, service_account_json=f'{{"x": {canary("json")}}}')),
        "google, JSON that is no key": (
            google.uri,
            _update(google.credentials, service_account_json=json.dumps({"type": canary("fields")})),
        ),
        "google, odd characters": (google.uri, with_key(client_email=f"a\n{canary('email')}")),
        "hmac, wrong secret": (google.uri, hmac(canary("hmac"))),
        "hmac, dead endpoint": (google.uri, hmac(canary("hmac"), **dead)),
        "amazon, wrong secret": (amazon.uri, _update(amazon.credentials, secret_access_key=canary("secret"))),
        "amazon, refused write": (amazon.uri, place("s3", at=amazon, may="r").credentials),
        "amazon, dead endpoint": (amazon.uri, _update(amazon.credentials, **dead)),
        "amazon, session token": (
            amazon.uri,
            _update(amazon.credentials, session_token=canary("token"), secret_access_key=canary("secret")),
        ),
        "amazon, malformed secret": (amazon.uri, _update(amazon.credentials, secret_access_key=f"ü\n{canary('x')}")),
        "amazon, malformed token": (amazon.uri, _update(amazon.credentials, session_token=f"ü\n{canary('token')}")),
        "role, refused": (f"s3://{sts_server.bucket}/x", assuming()),
        "role, dead endpoint": (f"s3://{sts_server.bucket}/x", assuming(sts_endpoint="http://127.0.0.1:9", **quick)),
        "role, malformed id": (f"s3://{sts_server.bucket}/x", assuming(external_id=f"ü {canary('external')}")),
    }


@pytest.fixture
def raw(tmp_path: Path) -> Place:
    folder = tmp_path / "raw"
    folder.mkdir()
    source = Place("file", f"file://{folder}")
    fill(source)
    return source


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore tries a dead endpoint once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def test_failures_of_dagster_show_no_secret(
    failing: dict[str, tuple[str, tuple[Credentials, ...]]],
    raw: Place,
    tmp_path: Path,
    searched: Searched,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    no_waiting: None,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("CANARY_CONTROL", control := canary("control"))
    everything = needles(*(item for _, credentials in failing.values() for item in credentials))
    with dg.DagsterInstance.get() as instance:
        for number, (name, (root, credentials)) in enumerate(failing.items()):
            resource, environment = resource_of(f"CANARY{number}", *credentials)
            for variable, value in environment.items():
                monkeypatch.setenv(variable, value)
            spec = DatasetSpec.model_validate(fields_of(raw.uri, root))
            job = dg.define_asset_job("chosen", dg.AssetSelection.assets(dg.AssetKey(["d", "raw_images"])))
            defs = build_defs(
                dg.Definitions.merge(dataset_definitions(spec), dg.Definitions(jobs=[job])),
                {"storage": resource, "engine": EngineResource(workers=1)},
            )
            result = defs.resolve_job_def("chosen").execute_in_process(
                instance=instance, partition_key="p", raise_on_error=False
            )
            assert not result.success, name
            [event] = [event for event in result.all_events if event.is_step_failure]
            assert event.step_failure_data.user_failure_data is not None, (name, event.step_failure_data.error)
            searched.add(f"{name}: description", event.step_failure_data.user_failure_data.description or "")
            searched.add(f"{name}: events", "\n".join(map(repr, result.all_events)))
            searched.add(f"{name}: resource", resource)
            with resource.process_config_and_initialize_cm() as initialized:
                opened: Storage = initialized.open()
            searched.add(f"{name}: storage", opened)
            searched.add(f"{name}: pickle", pickle.dumps(opened))
    out, err = capfd.readouterr()
    searched.add("stdout", out)
    searched.add("stderr", err)
    assert "lacks the permission" in out + err
    searched.add_folder(home)
    assert any(".db" in name for name in searched.places)
    assert searched.where(everything) == []
    assert searched.where([b"lacks the permission s3:PutObject"]) != []
    searched.add("control", control)
    assert searched.where([control.encode()]) != []


@pytest.mark.slow
def test_failures_of_the_command_and_the_library_show_no_secret(
    failing: dict[str, tuple[str, tuple[Credentials, ...]]],
    raw: Place,
    tmp_path: Path,
    searched: Searched,
    no_waiting: None,
) -> None:
    everything = needles(*(item for _, credentials in failing.values() for item in credentials))
    for name, (root, credentials) in failing.items():
        file, dataset = tmp_path / "credentials.yaml", tmp_path / "d.yaml"
        inline = []
        for item in credentials:
            given = item.model_dump(exclude_unset=True)
            inline.append({k: v.get_secret_value() if hasattr(v, "get_secret_value") else v for k, v in given.items()})
        file.write_text(yaml.safe_dump({"gcs" if root.startswith("gs://") else "s3": inline}))
        dataset.write_text(yaml.safe_dump(fields_of(raw.uri, root)))
        for arguments in (["run", str(dataset), "--workers", "1"], ["check-storage", root]):
            result = CliRunner().invoke(app, [*arguments, "--credentials", str(file)])
            assert result.exit_code == 1, (name, result.output)
            assert result.exception is None or isinstance(result.exception, SystemExit), (name, result.exception)
            searched.add(f"{name}: output of {arguments[0]}", result.output)
        storage = Storage(credentials)
        searched.add(f"{name}: repr", storage)
        searched.add(f"{name}: repr of the store", repr(storage.credentials) + str(storage.credentials))
        acts: list[Callable[[], object]] = [
            lambda storage=storage, root=root: list(storage.list(root)),
            lambda storage=storage, root=root: storage.read(f"{root}/nothing"),
            lambda storage=storage, root=root: storage.replace(f"{root}/x", b"1", None),
        ]
        if name != "google, dead endpoint":  # gcsfs tries again for half a minute
            acts.append(lambda storage=storage, root=root: storage.filesystem(root).ls(root))
        for act in acts:
            try:
                act()
            except Exception as error:
                searched.add(f"{name}: error", error)
        if name.split(", ")[1] not in ("refused write",):
            assert any(place.startswith(f"{name}: error") for place in searched.places)
    assert searched.where(everything) == []


@pytest.mark.slow
def test_a_stage_that_raises_shows_no_secret(
    place: NewPlace, tmp_path: Path, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that there is in its hands: in a worker process, whose exceptions are pickled."""
    source, root = place("gs"), place("s3")
    fill(source)
    credentials = (*source.credentials, *root.credentials)
    (tmp_path / "raising.py").write_text("def fail(sample):\n    raise RuntimeError('as custom code does')\n")
    operations = {"operations": [{"operation": "raising:fail"}]}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(fields_of(source.uri, root.uri, transform=operations)))
    fields, environment = named_secrets("CANARY_STAGE", *credentials)
    (tmp_path / "credentials.yaml").write_text(yaml.safe_dump({"gcs": fields[:1], "s3": fields[1:]}))
    arguments = [sys.executable, "-m", "shardmill.cli", "run", "d.yaml", "--credentials", "credentials.yaml"]
    paths = {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    status = watched(searched, [*arguments, "--workers", "8"], {**os.environ, **environment, **paths}, tmp_path)
    assert status == 1
    assert "as custom code does" in searched.outputs()
    searched.add_folder(tmp_path)
    assert searched.where(needles(*credentials)) == []
