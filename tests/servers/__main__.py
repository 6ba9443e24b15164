"""`python -m tests.servers`: a GCS and an S3 to play with, until Ctrl-C."""

import json
import signal
import tempfile
import threading
from pathlib import Path

from tests.servers.gcs import GCSServer
from tests.servers.processes import CLIENT_ENVIRONMENT
from tests.servers.seaweedfs import S3Keys, S3Server

BUCKET = "photos"
STORAGE_YAML = """\
# credentials.yaml
gcs:
  - prefix: gs://{bucket}
    endpoint: {gcs}
    iam_endpoint: {gcs}
    service_account_file: {key_file}
s3:
  - prefix: s3://{bucket}
    endpoint: {s3}
    region: {region}
    access_key_id: {access_key_id}
    secret_access_key: {{env: AWS_SECRET_ACCESS_KEY}}
"""


def main() -> None:
    """Start both servers, print how to reach them, and wait."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with tempfile.TemporaryDirectory(prefix="shardmill-keys-") as folder, GCSServer() as gcs, S3Server() as s3:
        gcs.make_bucket(BUCKET)
        s3.make_bucket(BUCKET)
        print(f"GCS  {gcs.url}  bucket {BUCKET}\nS3   {s3.url}  bucket {BUCKET}\n")
        for name, roles, keys in (("reader", "r", s3.reader), ("writer", "rw", s3.writer)):
            key_file = Path(folder) / f"{name}.json"
            key_file.touch(mode=0o600)
            key_file.write_text(json.dumps(gcs.account(name, {BUCKET: roles}), indent=1))
            print(f"---- {name}\n{settings(gcs, s3, key_file, keys)}")
        print("Ctrl-C ends both; nothing is kept.", flush=True)
        stopped.wait()


def settings(gcs: GCSServer, s3: S3Server, key_file: Path, keys: S3Keys) -> str:
    """A credentials.yaml and the environment of one identity."""
    document = STORAGE_YAML.format(
        bucket=BUCKET,
        gcs=gcs.url,
        key_file=key_file,
        s3=s3.url,
        region=s3.region,
        access_key_id=keys.access_key_id,
    )
    environment = {
        **CLIENT_ENVIRONMENT,
        "GOOGLE_APPLICATION_CREDENTIALS": str(key_file),
        "API_ENDPOINT_OVERRIDE": gcs.url,
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_REGION": s3.region,
        "AWS_ENDPOINT_URL": s3.url,
    }
    exports = "".join(f"export {name}={value}\n" for name, value in environment.items())
    return f"{document}\n{exports}"


if __name__ == "__main__":
    main()
