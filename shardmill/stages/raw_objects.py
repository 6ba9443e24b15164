"""Reading raw objects: each at the version at which it was listed, or the true reason why not."""

from __future__ import annotations

import re

from shardmill.errors import ArchivedError, ChangedError, DanglingLinkError, Rejected, UnreadableError
from shardmill.shards.ustar import MAX_MEMBER
from shardmill.sources.manifest import MISSING, RawObject
from shardmill.storage import Storage

VANISHED = "object vanished"
DANGLING = "dangling link"
_NOT_UTF8 = re.compile(r"\\udc[89a-f][0-9a-f]")
"""How a manifest writes what of a name is no UTF-8 (`printable`)."""


def read_object(item: RawObject, storage: Storage) -> bytes:
    """The bytes of an object, at the version at which it was listed.

    Raises:
        Rejected: They cannot be had; some reasons may pass.
        StorageError: A store cannot do what it is asked for.
    """
    if item.version == MISSING:
        raise Rejected("missing object", "the source's table names it, and it does not exist")
    if item.size > MAX_MEMBER:
        raise Rejected("object too large", f"{item.size} bytes; a tar member holds at most {MAX_MEMBER}")
    try:
        data, info = storage.read_version(item.uri)
    except FileNotFoundError:
        if _NOT_UTF8.search(item.uri):
            raise Rejected("name is not UTF-8", "no manifest can hold it: rename the object") from None
        raise Rejected(VANISHED, "it was deleted after it was listed; run again", may_pass=True) from None
    except DanglingLinkError as error:
        raise Rejected(DANGLING, f"{error}; mend it and run again", may_pass=True) from None
    except UnreadableError as error:
        raise Rejected("unreadable object", f"{error}; mend it and run again", may_pass=True) from None
    except ChangedError as error:
        raise Rejected("object changed", f"{error}; run again", may_pass=True) from None
    except ArchivedError as error:
        raise Rejected("object archived", f"{error}; restore it and run again", may_pass=True) from None
    if info.version != item.version:
        raise Rejected("object changed", "it was replaced after it was listed; run again", may_pass=True)
    return data
