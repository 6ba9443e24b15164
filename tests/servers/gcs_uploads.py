"""Uploads of the JSON API: one request, two parts, or a resumable session that survives lost answers."""

import json
import re
import secrets
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from aiohttp import web

from tests.servers.gcs_backend import Backend, Preconditions, Resource, check_digests
from tests.servers.gcs_errors import Refusal, bad_request

CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")


@dataclass
class Session:
    """A resumable upload: what was asked for at its start, and the bytes so far."""

    bucket: str
    name: str
    fields: Resource
    preconditions: Preconditions
    data: bytearray = field(default_factory=bytearray)
    finished: Resource | None = None


class Uploads:
    """Receives uploads and writes each as one object, under its preconditions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sessions: dict[str, Session] = {}

    async def receive(self, request: web.Request, bucket: str) -> Resource | web.Response:
        """An upload's answer: the new object's resource, or a session's next step."""
        if "upload_id" in request.query:
            return await self._continue(request, bucket)
        preconditions = Preconditions.from_query(request.query)
        kind = request.query.get("uploadType", "media")
        if kind == "resumable":
            return await self._begin(request, bucket, preconditions)
        if kind == "multipart":
            fields, data = parse_related(await request.read(), request.headers.get("Content-Type", ""))
        else:
            fields, data = {"contentType": _content_type(request)}, await request.read()
        name = fields.get("name") or request.query.get("name", "")
        return await self._store(bucket, name, fields, data, preconditions)

    async def _store(
        self, bucket: str, name: str, fields: Resource, data: bytes, preconditions: Preconditions
    ) -> Resource:
        check_digests(data, {"crc32c": fields.get("crc32c"), "md5": fields.get("md5Hash")})
        return await self._backend.insert(bucket, name, data, fields, preconditions)

    async def _begin(self, request: web.Request, bucket: str, preconditions: Preconditions) -> web.Response:
        body = await request.read()
        fields: Resource = json.loads(body) if body.strip() else {}
        name = fields.get("name") or request.query.get("name", "")
        if not name:
            raise bad_request("Required", "required")
        fields.setdefault("contentType", request.headers.get("X-Upload-Content-Type"))
        upload_id = secrets.token_urlsafe(16)
        self._sessions[upload_id] = Session(bucket, name, fields, preconditions)
        query = f"uploadType=resumable&upload_id={upload_id}"
        location = f"http://{request.host}/upload/storage/v1/b/{bucket}/o?{query}"
        return web.Response(headers={"Location": location, "X-GUploader-UploadID": upload_id})

    async def _continue(self, request: web.Request, bucket: str) -> Resource | web.Response:
        upload_id = request.query["upload_id"]
        session = self._sessions.get(upload_id)
        if session is None or session.bucket != bucket:
            raise Refusal(404, "No such upload.", "notFound", "NoSuchUpload")
        if request.method == "DELETE":
            del self._sessions[upload_id]
            return web.Response(status=499)
        data = await request.read()
        if session.finished is not None:
            return session.finished  # its answer was lost, or this is a question about the state
        last = self._append(session, data, request.headers.get("Content-Range"))
        if not last:
            held = len(session.data)
            return web.Response(status=308, headers={"Range": f"bytes=0-{held - 1}"} if held else {})
        whole = bytes(session.data)
        session.finished = await self._store(session.bucket, session.name, session.fields, whole, session.preconditions)
        session.data.clear()
        return session.finished

    def _append(self, session: Session, data: bytes, content_range: str | None) -> bool:
        """Take a chunk; whether it was the last. What is held already is not taken twice."""
        if content_range is None:
            session.data[:] = data
            return True
        match = CONTENT_RANGE.match(content_range)
        if match is None:
            raise bad_request(f"Invalid Content-Range: {content_range}")
        total = None if match[3] == "*" else int(match[3])
        if match[1] is not None:
            start = int(match[1])
            if start > len(session.data):
                raise Refusal(503, "The chunk starts after what was received.", "backendError", "ServiceUnavailable")
            session.data[start:] = data
        return total is not None and len(session.data) == total


def parse_related(body: bytes, content_type: str) -> tuple[Resource, bytes]:
    """The resource and the bytes of a multipart/related upload. Newlines are the client's, CRLF or LF."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str):
        raise bad_request("An upload without a boundary.")
    mark = b"--" + boundary.encode()
    start = body.find(mark) + len(mark)
    newline = b"\r\n" if body[start : start + 2] == b"\r\n" else b"\n"
    second = body.find(newline + mark, start)
    end = body.rfind(newline + mark + b"--")
    if second < 0 or end <= second:
        raise bad_request("An upload that lacks a part.")
    _, _, document = body[start:second].partition(newline * 2)
    content_head, _, data = body[second + len(newline + mark) : end].partition(newline * 2)
    fields: dict[str, Any] = json.loads(document)
    match = re.search(rb"(?im)^content-type:\s*([^\r\n]+)", content_head)
    if match and not fields.get("contentType"):
        fields["contentType"] = match[1].decode()
    return fields, data


def _content_type(request: web.Request) -> str:
    return request.headers.get("Content-Type", "application/octet-stream")
