"""Objects that the server reads itself: below the dataset's source, and the shards in its root. Nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from shardmill.dataset import Dataset
from shardmill.errors import StorageError
from shardmill.serving.limits import CHUNK, Spool
from shardmill.serving.names import below_the_scheme, is_shard
from shardmill.serving.refusals import Refusal
from shardmill.storage import join_uri

_FOLDER = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
"""How a folder is opened to open what is in it: it need not be readable."""


class DatasetObjects:
    """What a dataset has of its own, by paths without the scheme of the URI."""

    def __init__(self, dataset: Dataset) -> None:
        self._storage = dataset.storage
        self._source = dataset.partitioning.base
        self._home = dataset.home

    def read_into(self, path: str, spool: Spool) -> None:
        """Read the object at `<bucket>/<object>`, or at a local path without its first slash.

        Raises:
            Refusal: It is not the dataset's, it is not there, or it is too large.
        """
        folder, uri = self._located(path)
        try:
            if uri.startswith("file://"):
                stream = _opened(_followed(folder, uri))
                size = os.fstat(stream.fileno()).st_size
            else:
                stream, info = self._storage.open(uri)
                size = info.size
        except FileNotFoundError as error:
            raise Refusal(404, "not found", f"there is no {path}") from error
        except StorageError as error:
            raise Refusal(502, "storage failed", str(error)) from error
        with stream:
            spool.expect(size)
            self._copy(stream, spool, path)

    def _copy(self, stream: BinaryIO, spool: Spool, path: str) -> None:
        try:
            while data := stream.read(CHUNK):
                spool.write(data)
        except FileNotFoundError as error:
            raise Refusal(404, "not found", f"{path} went while it was read") from error
        except (OSError, StorageError) as error:
            raise Refusal(502, "storage failed", str(error)) from error

    def _located(self, path: str) -> tuple[str, str]:
        """The folder of the dataset's that the object is in, and the object's URI."""
        for folder in (self._home, self._source):
            below = f"{below_the_scheme(folder)}/"
            if path.startswith(below) and (folder == self._source or is_shard(path)):
                return folder, join_uri(folder, path.removeprefix(below))
        read = (
            "only objects of the dataset's source, and shards in its root, are read here, by their URIs without scheme"
        )
        raise Refusal(403, "not served", read)


def _followed(folder: str, uri: str) -> Path:
    """A local file behind its links.

    Raises:
        Refusal: A link leads out of the folder.
        FileNotFoundError: There is no such regular file.
    """
    place, file = Path(folder.removeprefix("file://")), Path(uri.removeprefix("file://"))
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(place.resolve()):
            raise Refusal(403, "not served", "a link leads out of what is served")
        if not stat.S_ISREG(real.stat().st_mode):
            raise FileNotFoundError(uri)
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a circle of links
        raise FileNotFoundError(uri) from error
    return real


def _opened(file: Path) -> BinaryIO:
    """A file by a path without links. What has become a link since the path was looked at is not followed.

    Raises:
        Refusal: A part of the path is a link by now, or the file may not be read.
        FileNotFoundError: There is no such regular file.
    """
    folder = os.open("/", _FOLDER)
    try:
        for part in file.parts[1:-1]:
            following = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = following
        stream = os.fdopen(os.open(file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb")
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise Refusal(502, "storage failed", f"cannot read {file.name}: {error.strerror}") from error
    except OSError as error:  # a link, or what was a folder is none
        raise Refusal(403, "not served", "what is served is being replaced by links") from error
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise FileNotFoundError(file)
    return stream
