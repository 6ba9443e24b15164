"""Dagster's own programs accept deploy/dagster.yaml with each of its sections, and keep there what they should."""

import json
from pathlib import Path

from tests.deploy.conftest import Instance, MakeInstance
from tests.servers import GCSServer, PostgresServer, S3Server

GREETING = """\
import dagster as dg


@dg.asset(pool="gpu")
def greeting():
    print("hello from a step")


defs = dg.Definitions(assets=[greeting], executor=dg.in_process_executor)
"""


def materialize(instance: Instance) -> None:
    file = instance.home / "greeting.py"
    file.write_text(GREETING)
    instance.run("dagster", "asset", "materialize", "--python-file", str(file), "--select", "greeting")


def test_a_run_lands_in_postgres_and_outlives_its_crash(
    make_instance: MakeInstance, postgres_server: PostgresServer
) -> None:
    instance = make_instance()
    described = instance.run("dagster", "instance", "info")
    assert "PostgresEventLogStorage" in described
    assert instance.database.password not in described
    materialize(instance)
    postgres_server.kill()
    postgres_server.restart()
    assert instance.rows("SELECT status FROM runs") == [("SUCCESS",)]
    assert instance.rows("SELECT asset_key FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'") == [
        ('["greeting"]',)
    ]
    assert "Job: __ASSET_JOB" in instance.run("dagster", "run", "list")
    assert not list(instance.home.rglob("*.db"))


def test_the_pool_of_gpus_has_one_slot_until_it_is_told_more(make_instance: MakeInstance) -> None:
    instance = make_instance()
    materialize(instance)
    slots = "SELECT \"limit\", using_default_limit FROM concurrency_limits WHERE concurrency_key = 'gpu'"
    assert instance.rows(slots) == [(1, True)]
    instance.run("dagster", "instance", "concurrency", "set", "gpu", "4")
    instance.run("dagster", "instance", "migrate")  # as after an upgrade of Dagster
    assert instance.rows(slots) == [(4, False)]


def test_steps_print_into_s3(make_instance: MakeInstance, s3_server: S3Server, s3_bucket: str) -> None:
    instance = make_instance(
        "compute_logs/s3.yaml",
        DAGSTER_LOGS_BUCKET=s3_bucket,
        AWS_ENDPOINT_URL_S3=s3_server.url,
        AWS_REGION=s3_server.region,
        AWS_ACCESS_KEY_ID=s3_server.writer.access_key_id,
        AWS_SECRET_ACCESS_KEY=s3_server.writer.secret_access_key,
    )
    materialize(instance)
    client = s3_server.client()
    names = [each["Key"] for each in client.list_objects_v2(Bucket=s3_bucket, Prefix="dagster/")["Contents"]]
    printed = [client.get_object(Bucket=s3_bucket, Key=name)["Body"].read() for name in names if name.endswith(".out")]
    assert printed == [b"hello from a step\n"]


def test_steps_print_into_gcs(
    make_instance: MakeInstance, gcs_server: GCSServer, gcs_bucket: str, tmp_path: Path
) -> None:
    from google.cloud import storage

    key = gcs_server.account(f"logs-{gcs_bucket}", {gcs_bucket: "rwb"})
    key_file = tmp_path / "key.json"
    key_file.write_text(json.dumps(key))
    instance = make_instance(
        "compute_logs/gcs.yaml",
        DAGSTER_LOGS_BUCKET=gcs_bucket,
        API_ENDPOINT_OVERRIDE=gcs_server.url,
        GOOGLE_APPLICATION_CREDENTIALS=str(key_file),
    )
    materialize(instance)
    client = storage.Client.from_service_account_info(key, client_options={"api_endpoint": gcs_server.url})
    blobs = [blob for blob in client.list_blobs(gcs_bucket, prefix="dagster/") if blob.name.endswith(".out")]
    assert [blob.download_as_bytes() for blob in blobs] == [b"hello from a step\n"]


def test_a_missing_variable_is_named(make_instance: MakeInstance) -> None:
    instance = make_instance()
    del instance.environment["DAGSTER_POSTGRES_PASSWORD"]
    assert "DAGSTER_POSTGRES_PASSWORD" in instance.run("dagster", "run", "list", fails=True)
