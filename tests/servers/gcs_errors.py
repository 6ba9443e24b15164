"""The gate's refusals, as the JSON API and the XML API write them."""

from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web


class Refusal(Exception):
    """An answer that is not a success. `reason` is for the JSON API, `code` for the XML API."""

    def __init__(self, status: int, message: str, reason: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.code = code

    def as_json(self) -> web.Response:
        """The refusal in the JSON API."""
        detail = {"message": self.message, "domain": "global", "reason": self.reason}
        error: dict[str, Any] = {"code": self.status, "message": self.message, "errors": [detail]}
        return self._without_body() or web.json_response({"error": error}, status=self.status, headers=self._headers())

    def as_xml(self) -> web.Response:
        """The refusal in the XML API."""
        text = (
            "<?xml version='1.0' encoding='UTF-8'?>"
            f"<Error><Code>{self.code}</Code><Message>{escape(self.message)}</Message></Error>"
        )
        return self._without_body() or web.Response(
            status=self.status, headers=self._headers(), content_type="application/xml", text=text
        )

    def _without_body(self) -> web.Response | None:
        return web.Response(status=304) if self.status == 304 else None

    def _headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/"'} if self.status == 401 else {}


def invalid_credentials() -> Refusal:
    return Refusal(401, "Invalid Credentials", "authError", "AuthenticationRequired")


def forbidden(message: str) -> Refusal:
    return Refusal(403, message, "forbidden", "AccessDenied")


def bad_request(message: str, reason: str = "invalid", code: str = "InvalidArgument") -> Refusal:
    return Refusal(400, message, reason, code)


def no_such_bucket() -> Refusal:
    return Refusal(404, "The specified bucket does not exist.", "notFound", "NoSuchBucket")


def no_such_object(bucket: str, name: str) -> Refusal:
    return Refusal(404, f"No such object: {bucket}/{name}", "notFound", "NoSuchKey")


def precondition_failed() -> Refusal:
    message = "At least one of the pre-conditions you specified did not hold."
    return Refusal(412, message, "conditionNotMet", "PreconditionFailed")


def not_modified() -> Refusal:
    return Refusal(304, "Not Modified", "notModified", "NotModified")
