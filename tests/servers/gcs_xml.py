"""The XML API of the gate, over fake-gcs-server's JSON API: obstore's dialect of GCS."""

import re
import secrets
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, unquote, urlencode

from aiohttp import web
from multidict import CIMultiDict

from tests.servers.gcs_backend import (
    Backend,
    Preconditions,
    Resource,
    Version,
    check_digests,
    digests,
    stream,
    xml_etag,
)
from tests.servers.gcs_errors import Refusal, bad_request, no_such_bucket

NAMESPACE = 'xmlns="http://doc.s3.amazonaws.com/2006-03-01"'
LONGEST_PAGE = 1000
# Of an object's bytes, what fake-gcs-server says right.
MEDIA_HEADERS = (
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Range",
    "Content-Type",
    "Last-Modified",
    "x-goog-generation",
    "x-goog-hash",
    "x-goog-stored-content-encoding",
)
FIELD_HEADERS = {
    "contentType": "Content-Type",
    "contentEncoding": "Content-Encoding",
    "contentDisposition": "Content-Disposition",
    "contentLanguage": "Content-Language",
    "cacheControl": "Cache-Control",
}
META = "x-goog-meta-"

Authorize = Callable[[str, str], None]


@dataclass
class Parts:
    """A multipart upload under way."""

    bucket: str
    name: str
    fields: Resource
    data: dict[int, bytes] = field(default_factory=dict)


class XMLAPI:
    """`authorize(bucket, permission)` raises where the caller lacks it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._uploads: dict[str, Parts] = {}

    async def handle(self, request: web.Request, bucket: str, name: str, authorize: Authorize) -> web.StreamResponse:
        """Answer one request."""
        if not name:
            if request.method not in ("GET", "HEAD"):
                raise Refusal(405, "The method is not allowed.", "methodNotAllowed", "MethodNotAllowed")
            authorize(bucket, "storage.objects.list")
            return await self._list(request, bucket)
        permission = {"GET": "get", "HEAD": "get", "DELETE": "delete"}.get(request.method, "create")
        if "uploadId" in request.query:
            permission = "create"
        authorize(bucket, f"storage.objects.{permission}")
        if "uploads" in request.query or "uploadId" in request.query:
            return await self._multipart(request, bucket, name)
        match request.method:
            case "GET":
                return await self._get(request, bucket, name)
            case "HEAD":
                return await self._head(request, bucket, name)
            case "PUT" if "x-goog-copy-source" in request.headers:
                return await self._copy(request, bucket, name, authorize)
            case "PUT":
                return await self._put(request, bucket, name)
            case "DELETE":
                preconditions = Preconditions.from_headers(request.headers)
                await self._backend.delete(bucket, name, preconditions, request.query.get("generation"))
                return web.Response(status=204)
        raise Refusal(405, "The method is not allowed.", "methodNotAllowed", "MethodNotAllowed")

    async def _get(self, request: web.Request, bucket: str, name: str) -> web.StreamResponse:
        preconditions = Preconditions.from_headers(request.headers)
        async with self._backend.media(request, bucket, name, preconditions) as (media, current):
            headers = CIMultiDict((key, media.headers[key]) for key in MEDIA_HEADERS if key in media.headers)
            headers.extend({key: value for key, value in media.headers.items() if key.lower().startswith(META)})
            headers.update({"ETag": current.etag, "Accept-Ranges": "bytes", "x-goog-metageneration": "1"})
            return await stream(request, media, headers)

    async def _head(self, request: web.Request, bucket: str, name: str) -> web.Response:
        resource = await self._backend.existing(bucket, name, request.query.get("generation"))
        Preconditions.from_headers(request.headers).check(Version.of(resource), reading=True)
        headers = _object_headers(resource)
        headers |= {header: resource[key] for key, header in FIELD_HEADERS.items() if resource.get(key)}
        headers |= {META + key: value for key, value in resource.get("metadata", {}).items()}
        headers["Last-Modified"] = format_datetime(datetime.fromisoformat(resource["updated"]), usegmt=True)
        headers["Accept-Ranges"] = "bytes"
        headers["Content-Length"] = resource["size"]
        return web.Response(headers=headers)

    async def _put(self, request: web.Request, bucket: str, name: str) -> web.Response:
        data = await request.read()
        _check_promised(request, data)
        preconditions = Preconditions.from_headers(request.headers)
        resource = await self._backend.insert(bucket, name, data, _fields(request), preconditions)
        return web.Response(headers=_object_headers(resource))

    async def _copy(self, request: web.Request, bucket: str, name: str, authorize: Authorize) -> web.Response:
        source = unquote(request.headers["x-goog-copy-source"].removeprefix("/"))
        source_bucket, _, source_name = source.partition("/")
        authorize(source_bucket, "storage.objects.get")
        preconditions = Preconditions.from_headers(request.headers)
        resource = await self._backend.copy((source_bucket, source_name), (bucket, name), preconditions)
        etag, updated = xml_etag(resource["md5Hash"]), resource["updated"]
        text = f"<CopyObjectResult><ETag>{escape(etag)}</ETag><LastModified>{updated}</LastModified></CopyObjectResult>"
        return _xml(text, _object_headers(resource))

    async def _list(self, request: web.Request, bucket: str) -> web.Response:
        query = request.query
        size = min(int(query.get("max-keys", LONGEST_PAGE)), LONGEST_PAGE)
        wanted = {"prefix": query.get("prefix", ""), "maxResults": str(size)}
        if query.get("delimiter"):
            wanted["delimiter"] = query["delimiter"]
        after = query.get("start-after") or query.get("marker")
        if after:
            wanted["startOffset"] = after + "\0"  # the JSON API's offset is inclusive
        if query.get("continuation-token"):
            wanted["pageToken"] = query["continuation-token"]
        target = f"/storage/v1/b/{quote(bucket, safe='')}/o?{urlencode(wanted, quote_via=quote)}"
        async with await self._backend.request("GET", target) as answer:
            if answer.status != 200:
                raise no_such_bucket()
            page = await answer.json()
        encode = (lambda name: quote(name, safe="/")) if query.get("encoding-type") == "url" else escape
        return _xml(_listing(bucket, query, page, encode))

    async def _multipart(self, request: web.Request, bucket: str, name: str) -> web.Response:
        if request.method == "POST" and "uploads" in request.query:
            upload_id = secrets.token_hex(16)
            self._uploads[upload_id] = Parts(bucket, name, _fields(request))
            return _xml(
                f"<InitiateMultipartUploadResult {NAMESPACE}><Bucket>{bucket}</Bucket><Key>{escape(name)}</Key>"
                f"<UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        upload_id = request.query.get("uploadId", "")
        upload = self._uploads.get(upload_id)
        if upload is None or (upload.bucket, upload.name) != (bucket, name):
            raise Refusal(404, "The requested upload was not found.", "notFound", "NoSuchUpload")
        match request.method:
            case "PUT":
                return await self._part(request, upload)
            case "POST":
                return await self._complete(request, upload_id, upload)
            case "DELETE":
                del self._uploads[upload_id]
                return web.Response(status=204)
        raise Refusal(405, "The method is not allowed.", "methodNotAllowed", "MethodNotAllowed")

    async def _part(self, request: web.Request, upload: Parts) -> web.Response:
        data = await request.read()
        _check_promised(request, data)
        upload.data[int(request.query["partNumber"])] = data
        found = digests(data)
        hashes = f"crc32c={found['crc32c']},md5={found['md5']}"
        return web.Response(headers={"ETag": xml_etag(found["md5"]), "x-goog-hash": hashes})

    async def _complete(self, request: web.Request, upload_id: str, upload: Parts) -> web.Response:
        data = b"".join(_listed_parts(await request.read(), upload))
        preconditions = Preconditions.from_headers(request.headers)
        resource = await self._backend.insert(upload.bucket, upload.name, data, upload.fields, preconditions)
        self._uploads.pop(upload_id, None)
        etag = escape(xml_etag(resource["md5Hash"]))
        return _xml(
            f"<CompleteMultipartUploadResult {NAMESPACE}><Bucket>{upload.bucket}</Bucket>"
            f"<Key>{escape(upload.name)}</Key><ETag>{etag}</ETag></CompleteMultipartUploadResult>",
            _object_headers(resource),
        )


def escape(text: str) -> str:
    """Text as XML content. Control characters become references, so that a parser doesn't normalize them."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]", lambda match: f"&#{ord(match[0])};", text)


def _listing(bucket: str, query: Mapping[str, str], page: dict[str, Any], encode: Callable[[str], str]) -> str:
    contents = "".join(
        f"<Contents><Key>{encode(item['name'])}</Key><Generation>{item['generation']}</Generation>"
        f"<MetaGeneration>1</MetaGeneration><LastModified>{item['updated']}</LastModified>"
        f"<ETag>{escape(xml_etag(item['md5Hash']))}</ETag><Size>{item['size']}</Size></Contents>"
        for item in page.get("items") or []
    )
    prefixes = "".join(
        f"<CommonPrefixes><Prefix>{encode(prefix)}</Prefix></CommonPrefixes>" for prefix in page.get("prefixes") or []
    )
    token = page.get("nextPageToken")
    following = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    encoding = "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""
    count = len(page.get("items") or []) + len(page.get("prefixes") or [])
    return (
        f"<ListBucketResult {NAMESPACE}><Name>{bucket}</Name><Prefix>{encode(query.get('prefix', ''))}</Prefix>"
        f"<KeyCount>{count}</KeyCount>{encoding}<IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
        f"{following}{contents}{prefixes}</ListBucketResult>"
    )


def _listed_parts(document: bytes, upload: Parts) -> list[bytes]:
    """The parts that the client lists, in its order; 400 where one is missing or another than the client means."""
    parts = []
    for element in ElementTree.fromstring(document):
        found = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in element}
        data = upload.data.get(int(found.get("PartNumber", "0")))
        if data is None or found.get("ETag", "").strip('"') != xml_etag(digests(data)["md5"]).strip('"'):
            raise bad_request("One or more of the specified parts could not be found.", code="InvalidPart")
        parts.append(data)
    return parts


def _check_promised(request: web.Request, data: bytes) -> None:
    hashes = request.headers.getall("x-goog-hash", [])
    promised = dict(pair.strip().split("=", 1) for line in hashes for pair in line.split(",") if "=" in pair)
    md5 = request.headers.get("Content-MD5", promised.get("md5"))
    check_digests(data, {"crc32c": promised.get("crc32c"), "md5": md5})


def _fields(request: web.Request) -> Resource:
    """The object's fields that the request's headers set."""
    headers = request.headers
    fields: Resource = {key: headers[header] for key, header in FIELD_HEADERS.items() if header in headers}
    fields.setdefault("contentType", "application/octet-stream")
    fields["metadata"] = {
        key.lower().removeprefix(META): value for key, value in headers.items() if key.lower().startswith(META)
    }
    return fields


def _object_headers(resource: Resource) -> dict[str, str]:
    return {
        "ETag": xml_etag(resource["md5Hash"]),
        "x-goog-generation": resource["generation"],
        "x-goog-metageneration": resource.get("metageneration", "1"),
        "x-goog-hash": f"crc32c={resource['crc32c']},md5={resource['md5Hash']}",
        "x-goog-stored-content-length": resource["size"],
    }


def _xml(text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    text = "<?xml version='1.0' encoding='UTF-8'?>" + text
    return web.Response(text=text, content_type="application/xml", headers=headers)
