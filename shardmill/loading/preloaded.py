"""What the fork server imports once, so that its workers start with it: they then take no seconds each."""

import pyarrow.compute  # noqa: TID253
import pyarrow.parquet  # noqa: F401, TID253
import simplejpeg  # noqa: F401, TID253

import shardmill.loading.workers
import shardmill.storage
import shardmill.transforms.kernels  # noqa: F401
