"""What the gate asks of fake-gcs-server, and the preconditions that it checks in its stead."""

import asyncio
import base64
import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import quote

import google_crc32c
from aiohttp import ClientResponse, ClientSession, web
from yarl import URL

from tests.servers.gcs_errors import Refusal, bad_request, no_such_object, not_modified, precondition_failed

LONGEST_NAME = 1024
# The fields of an object that a client may set.
SETTABLE = (
    "contentType",
    "contentEncoding",
    "contentDisposition",
    "contentLanguage",
    "cacheControl",
    "customTime",
    "storageClass",
    "metadata",
)

Resource = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """One generation of an object, as far as preconditions look at it."""

    generation: int
    metageneration: int
    etag: str
    updated: datetime

    @classmethod
    def of(cls, resource: Resource | None) -> Self | None:
        """The version that a JSON resource describes."""
        if resource is None:
            return None
        updated = datetime.fromisoformat(resource["updated"]).replace(microsecond=0)
        metageneration = int(resource.get("metageneration", 1))
        return cls(int(resource["generation"]), metageneration, xml_etag(resource["md5Hash"]), updated)

    @classmethod
    def of_media(cls, headers: Mapping[str, str]) -> Self:
        """The version that the headers of fake-gcs-server's bytes describe."""
        etag = xml_etag(headers["ETag"].strip('"'))
        return cls(int(headers["x-goog-generation"]), 1, etag, parsedate_to_datetime(headers["Last-Modified"]))


@dataclass(frozen=True)
class Preconditions:
    """What must hold of the current version. Generation 0 stands for no object."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None
    etags: str | None = None
    not_etags: str | None = None
    modified_since: datetime | None = None
    unmodified_since: datetime | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """The JSON API's."""
        return cls(
            _number(query.get("ifGenerationMatch")),
            _number(query.get("ifGenerationNotMatch")),
            _number(query.get("ifMetagenerationMatch")),
            _number(query.get("ifMetagenerationNotMatch")),
        )

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        """The XML API's."""
        return cls(
            generation=_number(headers.get("x-goog-if-generation-match")),
            metageneration=_number(headers.get("x-goog-if-metageneration-match")),
            etags=headers.get("If-Match"),
            not_etags=headers.get("If-None-Match"),
            modified_since=_date(headers.get("If-Modified-Since")),
            unmodified_since=_date(headers.get("If-Unmodified-Since")),
        )

    def check(self, current: Version | None, *, reading: bool = False) -> None:
        """Raise 412 where a condition does not hold; 304 where a reader already has this version."""
        generation = current.generation if current else 0
        metageneration = current.metageneration if current else 0
        if self.generation not in (None, generation) or self.metageneration not in (None, metageneration):
            raise precondition_failed()
        if self.etags is not None and not _matches(self.etags, current):
            raise precondition_failed()
        if current and self.etags is None and self.unmodified_since and current.updated > self.unmodified_since:
            raise precondition_failed()
        known = generation == self.not_generation or metageneration == self.not_metageneration
        known = known or (self.not_etags is not None and _matches(self.not_etags, current))
        if reading and current and self.not_etags is None and self.modified_since:
            known = known or current.updated <= self.modified_since
        if known:
            raise not_modified() if reading else precondition_failed()


def xml_etag(md5: str) -> str:
    """The XML API's ETag of an object: its MD5 in hexadecimal, quoted. The JSON API writes base64."""
    return f'"{base64.b64decode(md5).hex()}"'


def digests(data: bytes) -> dict[str, str]:
    """CRC32C and MD5 of some bytes, as both APIs write them."""
    crc32c = google_crc32c.value(data).to_bytes(4, "big")
    return {
        "crc32c": base64.b64encode(crc32c).decode(),
        "md5": base64.b64encode(hashlib.md5(data).digest()).decode(),
    }


def check_digests(data: bytes, promised: Mapping[str, str | None]) -> None:
    """Raise 400 if the client promised another CRC32C or MD5 than the bytes have."""
    actual = digests(data)
    for kind, value in promised.items():
        if value and value != actual[kind]:
            message = f'Provided {kind.upper()} "{value}" doesn\'t match calculated {kind.upper()} "{actual[kind]}".'
            raise bad_request(message, code="BadDigest")


class Backend:
    """fake-gcs-server. Whoever writes an object holds its lock from the check of preconditions to the effect."""

    def __init__(self, url: str, session: ClientSession) -> None:
        self.url = url
        self._session = session
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    def lock(self, bucket: str, name: str) -> asyncio.Lock:
        """The lock of one object."""
        return self._locks[bucket, name]

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> ClientResponse:
        """One request, its target sent as it is written."""
        url = URL(self.url + target, encoded=True)
        skip = ("Accept-Encoding", "User-Agent")
        return await self._session.request(
            method, url, headers=headers, data=data, allow_redirects=False, skip_auto_headers=skip
        )

    async def metadata(self, bucket: str, name: str) -> Resource | None:
        """The object's resource, or None."""
        async with await self.request("GET", object_path(bucket, name)) as answer:
            return await answer.json() if answer.status == 200 else None

    async def existing(self, bucket: str, name: str, generation: str | None = None) -> Resource:
        """The object's resource, or 404; also where another generation is asked for."""
        resource = await self.metadata(bucket, name)
        if resource is None or generation not in (None, "", resource["generation"]):
            raise no_such_object(bucket, name)
        return resource

    @asynccontextmanager
    async def media(
        self, request: web.Request, bucket: str, name: str, preconditions: Preconditions
    ) -> AsyncIterator[tuple[ClientResponse, Version]]:
        """The bytes that a GET asks for, and the one version that they and the preconditions belong to."""
        passed = {key: request.headers[key] for key in ("Range", "Accept-Encoding") if key in request.headers}
        async with await self.request("GET", object_path(bucket, name) + "?alt=media", passed) as answer:
            if answer.status == 404:
                raise no_such_object(bucket, name)
            current = Version.of_media(answer.headers)
            if request.query.get("generation") not in (None, str(current.generation)):
                raise no_such_object(bucket, name)
            preconditions.check(current, reading=True)
            if answer.status == 416:
                raise Refusal(416, "Request range not satisfiable", "requestedRangeNotSatisfiable", "InvalidRange")
            yield answer, current

    async def insert(
        self, bucket: str, name: str, data: bytes, fields: Resource, preconditions: Preconditions
    ) -> Resource:
        """Write an object whole, if the preconditions hold, and return its resource."""
        if not 0 < len(name.encode()) <= LONGEST_NAME:
            raise bad_request(f"The maximum object length is {LONGEST_NAME} bytes, got {len(name.encode())}.")
        resource = {key: fields[key] for key in SETTABLE if fields.get(key)} | {"name": name}
        boundary = secrets.token_hex(16)
        body = multipart_related(resource, data, boundary)
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        target = f"/upload/storage/v1/b/{quote(bucket, safe='')}/o?uploadType=multipart"
        async with self.lock(bucket, name):
            preconditions.check(Version.of(await self.metadata(bucket, name)))
            async with await self.request("POST", target, headers, body) as answer:
                if answer.status != 200:
                    raise bad_request(await answer.text())
                return await answer.json()

    async def delete(self, bucket: str, name: str, preconditions: Preconditions, generation: str | None = None) -> None:
        """Remove an object, or 404."""
        async with self.lock(bucket, name):
            preconditions.check(Version.of(await self.existing(bucket, name, generation)))
            async with await self.request("DELETE", object_path(bucket, name)) as answer:
                if answer.status not in (200, 204):
                    raise no_such_object(bucket, name)

    async def copy(self, source: tuple[str, str], target: tuple[str, str], preconditions: Preconditions) -> Resource:
        """Copy an object inside the store and return the new resource."""
        path = f"{object_path(*source)}/rewriteTo/b/{quote(target[0], safe='')}/o/{quote(target[1], safe='')}"
        async with self.lock(*target):
            await self.existing(*source)
            preconditions.check(Version.of(await self.metadata(*target)))
            async with await self.request("POST", path) as answer:
                if answer.status != 200:
                    raise no_such_object(*source)
                return (await answer.json())["resource"]


async def stream(request: web.Request, media: ClientResponse, headers: Mapping[str, str]) -> web.StreamResponse:
    """Pass an object's bytes on as they come."""
    answer = web.StreamResponse(status=media.status, headers=headers)
    answer.content_length = media.content_length
    await answer.prepare(request)
    async for piece in media.content.iter_chunked(1 << 18):
        await answer.write(piece)
    await answer.write_eof()
    return answer


def object_path(bucket: str, name: str) -> str:
    """The JSON API's path of an object."""
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"


def multipart_related(resource: Resource, data: bytes, boundary: str) -> bytes:
    """An upload's body: the resource, then the bytes."""
    content_type = resource.get("contentType") or "application/octet-stream"
    mark = b"--" + boundary.encode()
    head = b"Content-Type: application/json\r\n\r\n" + json.dumps(resource).encode()
    content = f"Content-Type: {content_type}\r\n\r\n".encode() + data
    return b"\r\n".join((mark, head, mark, content, mark + b"--", b""))


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise bad_request(f"Invalid generation: {text}") from None


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _matches(etags: str, current: Version | None) -> bool:
    if current is None:
        return False
    return etags.strip() == "*" or current.etag in [etag.strip().removeprefix("W/") for etag in etags.split(",")]
