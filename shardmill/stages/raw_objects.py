"""Reading the objects of the source, and why one cannot be had."""

from __future__ import annotations

import re

from shardmill.errors import (
    ArchivedError,
    ChangedError,
    DanglingLinkError,
    EncryptedError,
    Rejected,
    UnreadableError,
)
from shardmill.images import LONGEST_HEAD, verify_head
from shardmill.samples import image_format
from shardmill.shards.ustar import MAX_MEMBER
from shardmill.sources.manifest import MISSING, NOT_A_FILE, NOT_ALLOWED, UNSUPPORTED, RawObject
from shardmill.storage import Storage, unsupported

_VANISHED = "object vanished"
_DANGLING = "dangling link"
GONE = (_VANISHED, _DANGLING)
"""The reasons that an object is not there any more; if none of many is, the source is not."""
_NOT_UTF8 = re.compile(r"\\udc[89a-f][0-9a-f]")
"""How a manifest writes what of a name is no UTF-8 (`printable`)."""
_LARGE = 64 << 20
"""Bytes of an image above which its beginning is looked at before the rest is read."""


def read_object(item: RawObject, storage: Storage) -> bytes:
    """The bytes of an object, if they are those that were listed.

    Raises:
        Rejected: They cannot be had; says whether that may pass.
        StorageError: The store cannot give them.
    """
    if item.version == NOT_ALLOWED:
        folder = item.uri.rpartition("/")[0]
        raise Rejected("not allowed", f"the source's table must not lead there; add {folder} to `allow` if it may")
    if item.version == UNSUPPORTED:
        raise Rejected("unsupported store", f"the source's table names it: {unsupported(item.uri)}")
    if item.version == NOT_A_FILE:
        raise Rejected("not a file", "the source's table names it, and it is a folder, a pipe or a device")
    if item.version == MISSING:
        raise Rejected("missing object", "the source's table names it, and it does not exist")
    if item.size > MAX_MEMBER:
        raise Rejected("object too large", f"{item.size} bytes; a tar member holds at most {MAX_MEMBER}")
    try:
        if item.size > _LARGE and image_format(item.component):
            verify_head(storage.read_range(item.uri, 0, LONGEST_HEAD), item.component)
        data, info = storage.read_version(item.uri)
    except FileNotFoundError:
        if _NOT_UTF8.search(item.uri):
            raise Rejected("name is not UTF-8", "no manifest can hold it: rename the object") from None
        raise Rejected(_VANISHED, "it was deleted after it was listed; run again", may_pass=True) from None
    except DanglingLinkError as error:
        raise Rejected(_DANGLING, f"{error}; mend it and run again", may_pass=True) from None
    except UnreadableError as error:
        raise Rejected("unreadable object", f"{error}; mend it and run again", may_pass=True) from None
    except ChangedError as error:
        raise Rejected("object changed", f"{error}; run again", may_pass=True) from None
    except ArchivedError as error:
        raise Rejected("object archived", f"{error}; restore it and run again", may_pass=True) from None
    except EncryptedError as error:
        raise Rejected("object encrypted", f"{error}; make its key usable and run again", may_pass=True) from None
    if info.version != item.version:
        raise Rejected("object changed", "it was replaced after it was listed; run again", may_pass=True)
    return data
