"""The gate before fake-gcs-server, as a process: `python -m tests.servers.gcs_gate PORT UPSTREAM TOKEN_SECONDS`.

It decides who may do what, answers the XML API, and does what fake-gcs-server leaves out: preconditions on every
verb, uploads that survive lost answers, batches. `gcs.GCSServer` starts it and talks to `/_lab/...`.
"""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

from tests.servers.gcs_backend import Backend, Preconditions, Resource, Version, stream
from tests.servers.gcs_errors import Refusal, bad_request
from tests.servers.gcs_identity import Account, Anonymous, Bucket, Directory, Identity
from tests.servers.gcs_uploads import Uploads
from tests.servers.gcs_xml import XMLAPI

LAB = "/_lab/"
BATCH = "/batch/storage/v1"
BUCKETS = re.compile(r"/(?:upload/|download/|resumable/upload/)?storage/v1/b(?:/([^/]+))?(?:/(.*))?$")
OBJECT = re.compile(r"o(?:/([^/]+)(?:/(.+))?)?$")
COPY = re.compile(r"(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)$")
MOVE = re.compile(r"moveTo/o/([^/]+)$")
IMPERSONATE = re.compile(r"/v1/projects/-/serviceAccounts/([^/:]+):generateAccessToken$")
NOT_PASSED = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})


class Gate:
    """Routes a request, checks it, and answers it from fake-gcs-server."""

    def __init__(self, port: int, backend: Backend, session: ClientSession, token_seconds: int) -> None:
        self._port = port
        self._backend = backend
        self._session = session
        self._directory = Directory(token_seconds)
        self._uploads = Uploads(backend)
        self._xml = XMLAPI(backend)
        self._operations: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._tokens = 0
        self._denied = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        path = request.raw_path.partition("?")[0]
        if path.startswith(LAB):
            return await self._lab(request, path.removeprefix(LAB))
        self._paths[f"{request.method} {path}"] += 1
        json_path = BUCKETS.match(path)
        impersonation = IMPERSONATE.match(unquote(path))
        is_json = bool(json_path or impersonation or path == BATCH)
        try:
            if path == "/token":
                return await self._token(request)
            identity = self._directory.identify(request.headers.get("Authorization"))
            if impersonation:
                return await self._impersonate(request, identity, impersonation[1])
            if path == BATCH:
                return await self._batch(request)
            if json_path:
                return await self._json(request, identity, unquote(json_path[1] or ""), json_path[2] or "")
            bucket, _, name = path[1:].partition("/")
            return await self._answer_xml(request, identity, unquote(bucket), unquote(name))
        except Refusal as refusal:
            self._denied += refusal.status in (401, 403)
            if isinstance(refusal, Anonymous) and not is_json:
                refusal.status = 403
            return refusal.as_json() if is_json else refusal.as_xml()

    # Identity.

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        own_url = f"http://{request.host}/token"
        try:
            token = self._directory.grant(str(form.get("grant_type")), str(form.get("assertion")), own_url)
        except ValueError as error:
            self._denied += 1
            body = {"error": "invalid_grant", "error_description": str(error)}
            return web.json_response(body, status=400)
        self._tokens += 1
        seconds = self._directory.token_seconds
        return web.json_response({"access_token": token, "expires_in": seconds, "token_type": "Bearer"})

    async def _impersonate(self, request: web.Request, identity: Identity, target: str) -> web.Response:
        self._operations["iam.generateAccessToken"] += 1
        body = await request.json()
        seconds = float(str(body.get("lifetime", "3600s")).removesuffix("s"))
        token = self._directory.impersonate(identity, target, body.get("scope", []), seconds)
        self._tokens += 1
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        return web.json_response({"accessToken": token, "expireTime": expires})

    def _authorize(self, request: web.Request, identity: Identity, bucket: str, permission: str) -> None:
        self._directory.check(identity, bucket, permission)
        project = request.query.get("userProject") or request.headers.get("x-goog-user-project")
        self._directory.check_payer(bucket, project)

    # The two APIs.

    async def _answer_xml(self, request: web.Request, identity: Identity, bucket: str, name: str) -> web.StreamResponse:
        self._operations[f"xml.{request.method.lower()}.{'object' if name else 'bucket'}"] += 1

        def authorize(bucket: str, permission: str) -> None:
            self._authorize(request, identity, bucket, permission)

        return await self._xml.handle(request, bucket, name, authorize)

    async def _json(self, request: web.Request, identity: Identity, bucket: str, rest: str) -> web.StreamResponse:
        def authorize(bucket: str, permission: str) -> None:
            self._operations[f"json.{permission.removeprefix('storage.')}"] += 1
            self._authorize(request, identity, bucket, permission)

        target = OBJECT.match(rest)
        if target is None:
            return await self._json_bucket(request, identity, bucket, rest)
        name, action = unquote(target[1] or ""), target[2] or ""
        if not name:
            if request.method == "GET":
                authorize(bucket, "storage.objects.list")
                return await self._forward(request)
            authorize(bucket, "storage.objects.create")
            return self._resource(request, await self._uploads.receive(request, bucket))
        if action:
            return await self._json_action(request, authorize, (bucket, name), action)
        return await self._json_object(request, authorize, bucket, name)

    async def _json_bucket(
        self, request: web.Request, identity: Identity, bucket: str, rest: str
    ) -> web.StreamResponse:
        if rest == "iam/testPermissions":
            asked = request.query.getall("permissions", [])
            held = [each for each in asked if self._directory.permitted(identity, bucket, each)]
            return web.json_response({"kind": "storage#testIamPermissionsResponse", "permissions": held})
        self._operations[f"json.buckets.{request.method.lower()}"] += 1
        wanted = "storage.buckets.get" if bucket else "storage.buckets.list"
        if request.method != "GET":
            wanted = "storage.buckets.update" if bucket else "storage.buckets.create"
        if not bucket:
            caller = identity.email or "Anonymous caller"
            message = f"{caller} does not have {wanted} access to the Google Cloud project."
            raise Refusal(403, message, "forbidden", "AccessDenied") if identity.email else Anonymous(message)
        self._authorize(request, identity, bucket, wanted)
        return await self._forward(request)

    async def _json_object(self, request: web.Request, authorize: Any, bucket: str, name: str) -> web.StreamResponse:
        preconditions = Preconditions.from_query(request.query)
        generation = request.query.get("generation")
        match request.method:
            case "GET" | "HEAD":
                authorize(bucket, "storage.objects.get")
                if request.query.get("alt") == "media":
                    async with self._backend.media(request, bucket, name, preconditions) as (media, _):
                        return await stream(request, media, _passed(media.headers))
                resource = await self._backend.existing(bucket, name, generation)
                preconditions.check(Version.of(resource), reading=True)
                return self._resource(request, resource)
            case "DELETE":
                authorize(bucket, "storage.objects.delete")
                await self._backend.delete(bucket, name, preconditions, generation)
                return web.Response(status=204)
            case "PATCH" | "PUT":
                authorize(bucket, "storage.objects.update")
                body = await request.read()
                async with self._backend.lock(bucket, name):
                    preconditions.check(Version.of(await self._backend.existing(bucket, name, generation)))
                    async with await self._backend.request(
                        "PATCH", request.raw_path, {"Content-Type": "application/json"}, body
                    ):
                        pass
                    return self._resource(request, await self._backend.existing(bucket, name))
        raise Refusal(405, "The method is not allowed.", "methodNotAllowed", "MethodNotAllowed")

    async def _json_action(
        self, request: web.Request, authorize: Any, source: tuple[str, str], action: str
    ) -> web.StreamResponse:
        preconditions = Preconditions.from_query(request.query)
        copy = COPY.match(action)
        if copy and request.method == "POST":
            target = unquote(copy[1]), unquote(copy[2])
            authorize(source[0], "storage.objects.get")
            authorize(target[0], "storage.objects.create")
            resource = await self._backend.copy(source, target, preconditions)
            if action.startswith("copyTo"):
                return self._resource(request, resource)
            done = {"kind": "storage#rewriteResponse", "done": True, "resource": resource}
            size = {"totalBytesRewritten": resource["size"], "objectSize": resource["size"]}
            return self._resource(request, done | size)
        move = MOVE.match(action)
        if move and request.method == "POST":
            for permission in ("get", "create", "delete"):
                authorize(source[0], f"storage.objects.{permission}")
            resource = await self._backend.copy(source, (source[0], unquote(move[1])), preconditions)
            await self._backend.delete(*source, Preconditions())
            return self._resource(request, resource)
        if action == "compose" and request.method == "POST":
            bucket, name = source
            authorize(bucket, "storage.objects.get")
            authorize(bucket, "storage.objects.create")
            body = await request.read()
            async with self._backend.lock(bucket, name):
                preconditions.check(Version.of(await self._backend.metadata(bucket, name)))
                return await self._forward(request, body)
        raise Refusal(501, f"The lab does not know {action}.", "notImplemented", "NotImplemented")

    async def _forward(self, request: web.Request, body: bytes | None = None) -> web.Response:
        """Pass a request on whole, and its answer with our own address in place of fake-gcs-server's."""
        headers = {key: request.headers[key] for key in ("Content-Type",) if key in request.headers}
        data = body if body is not None else await request.read() or None
        async with await self._backend.request(request.method, request.raw_path, headers, data) as answer:
            text = await answer.read()
            return web.Response(
                status=answer.status, headers=_passed(answer.headers), body=self._readdress(request, text)
            )

    def _resource(self, request: web.Request, resource: Resource | web.Response) -> web.Response:
        if isinstance(resource, web.Response):
            return resource
        body = self._readdress(request, json.dumps(resource).encode())
        return web.Response(body=body, content_type="application/json")

    def _readdress(self, request: web.Request, body: bytes) -> bytes:
        return body.replace(self._backend.url.encode(), f"http://{request.host}".encode())

    # Batches.

    async def _batch(self, request: web.Request) -> web.Response:
        self._operations["json.batch"] += 1
        head = f"Content-Type: {request.headers.get('Content-Type', '')}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + await request.read())
        if not message.is_multipart():
            raise bad_request("A batch is multipart/mixed.")
        boundary = "batch_lab"
        answers = [await self._batch_part(request, part) for part in message.iter_parts()]
        body = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), answer) for answer in answers)
        headers = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
        return web.Response(body=body + f"--{boundary}--\r\n".encode(), headers=headers)

    async def _batch_part(self, request: web.Request, part: Message) -> bytes:
        """One inner request, sent to ourselves with the outer credentials, and its answer as a part."""
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        line, _, rest = payload.lstrip().partition(b"\n")
        method, target, *_ = line.decode().split()
        inner = BytesParser(policy=HTTP).parsebytes(rest)
        headers = {
            key: request.headers[key] for key in ("Authorization", "x-goog-user-project") if key in request.headers
        }
        headers |= {key: inner[key] for key in ("Authorization", "Content-Type") if inner[key]}
        content = inner.get_payload(decode=True) or None
        target = re.sub(r"^https?://[^/]+", "", target)
        url = URL(f"http://127.0.0.1:{self._port}{target}", encoded=True)
        async with self._session.request(method, url, headers=headers, data=content) as answer:
            body = await answer.read()
        content_id = str(part.get("Content-ID", "<0>")).strip("<>")
        lines = [
            "Content-Type: application/http",
            f"Content-ID: <response-{content_id}>",
            "",
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            f"Content-Type: {answer.headers.get('Content-Type', 'application/json')}",
            f"Content-Length: {len(body)}",
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + body

    # The lab's own controls.

    async def _lab(self, request: web.Request, operation: str) -> web.Response:
        body = await request.json() if request.method == "POST" else {}
        directory = self._directory
        match operation:
            case "requests":
                return web.json_response(self._counters())
            case "reset":
                self._operations.clear()
                self._paths.clear()
                self._tokens = self._denied = 0
            case "bucket":
                directory.buckets[body["name"]] = Bucket(**body)
            case "account":
                directory.accounts[body["email"]] = Account(**body)
            case "roles":
                directory.accounts[body["email"]].roles = body["roles"]
            case "revoked":
                directory.accounts[body["email"]].revoked = body["revoked"]
            case "expire_tokens":
                directory.expire_tokens()
            case "token_seconds":
                directory.token_seconds = body["seconds"]
            case "impersonation":
                directory.impersonations.add((body["source"], body["target"]))
            case _:
                return web.Response(status=404)
        return web.json_response({})

    def _counters(self) -> dict[str, Any]:
        return {
            "operations": self._operations,
            "paths": self._paths,
            "tokens": self._tokens,
            "denied": self._denied,
        }


def _passed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((key, value) for key, value in headers.items() if key.lower() not in NOT_PASSED)


async def serve(port: int, upstream: str, token_seconds: int) -> None:
    """Listen until the process is ended."""
    connector = TCPConnector(limit=64)
    timeout = ClientTimeout(total=300)
    async with ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        gate = Gate(port, Backend(upstream, session), session, token_seconds)
        application = web.Application(client_max_size=1 << 31)
        application.router.add_route("*", r"/{path:[\s\S]*}", gate.handle)
        runner = web.AppRunner(application, access_log=None, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=512).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
