"""Who calls the gate, and what they may do: accounts, tokens, roles, impersonation."""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jwt

from tests.servers.gcs_errors import Refusal, bad_request, forbidden, invalid_credentials, no_such_bucket

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"
STORAGE_AUDIENCE = "https://storage.googleapis.com/"
LONGEST_ASSERTION_SECONDS = 3660

SCOPE = "https://www.googleapis.com/auth/"
EVERYTHING = SCOPE + "cloud-platform"
WRITE_SCOPES = frozenset({EVERYTHING, SCOPE + "devstorage.read_write", SCOPE + "devstorage.full_control"})
READ_SCOPES = WRITE_SCOPES | {SCOPE + "devstorage.read_only", SCOPE + "cloud-platform.read-only"}
IAM_SCOPES = frozenset({EVERYTHING, SCOPE + "iam"})

READ_PERMISSIONS = frozenset({"storage.objects.get", "storage.objects.list"})
# Letters of a role. As with Google's objectViewer and objectUser, none of r and w may read the bucket's own metadata.
ROLE_PERMISSIONS = {
    "r": READ_PERMISSIONS,
    "w": frozenset({"storage.objects.create", "storage.objects.delete", "storage.objects.update"}),
    "b": frozenset({"storage.buckets.get"}),
}


@dataclass
class Account:
    """A service account: its public key and its roles, a bucket each."""

    email: str
    public_key: str
    roles: dict[str, str] = field(default_factory=dict)
    revoked: bool = False


@dataclass
class Bucket:
    """What the gate knows of a bucket."""

    name: str
    requester_pays: bool = False
    public: bool = False


@dataclass(frozen=True)
class Identity:
    """A caller. No email means anonymous."""

    email: str = ""
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Token:
    """A token that the gate issued."""

    identity: Identity
    expires: float


class Directory:
    """Accounts, buckets, tokens and the rules between them."""

    def __init__(self, token_seconds: int) -> None:
        self.token_seconds = token_seconds
        self.accounts: dict[str, Account] = {}
        self.buckets: dict[str, Bucket] = {}
        self.impersonations: set[tuple[str, str]] = set()
        self._tokens: dict[str, Token] = {}

    def issue(self, identity: Identity, seconds: float) -> str:
        """A new opaque access token."""
        token = "ya29.lab-" + secrets.token_urlsafe(32)
        self._tokens[token] = Token(identity, time.time() + seconds)
        return token

    def expire_tokens(self) -> None:
        """Forget every token issued so far. Self-signed JWTs, which nobody issued, live on."""
        self._tokens.clear()

    def grant(self, grant_type: str, assertion: str, own_url: str) -> str:
        """The token endpoint: an access token for a service account's signed assertion, or ValueError."""
        if grant_type != GRANT:
            raise ValueError("unsupported grant type")
        claims = self._verify(assertion, audience=[GOOGLE_TOKEN_URI, own_url])
        scopes = frozenset(str(claims.get("scope", "")).split())
        return self.issue(Identity(claims["iss"], scopes), self.token_seconds)

    def identify(self, authorization: str | None) -> Identity:
        """Who sends this Authorization header: nobody, the holder of a token, or the signer of a JWT."""
        if authorization is None:
            return Identity()
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise invalid_credentials()
        token = self._tokens.get(credential.strip())
        if token is not None:
            if token.expires <= time.time() or self._revoked(token.identity.email):
                raise invalid_credentials()
            return token.identity
        try:
            claims = self._verify(credential.strip(), audience=None)
        except ValueError:
            raise invalid_credentials() from None
        default = EVERYTHING if claims.get("aud") == STORAGE_AUDIENCE else ""
        return Identity(claims["iss"], frozenset(str(claims.get("scope", default)).split()))

    def check(self, identity: Identity, bucket: str, permission: str) -> None:
        """Raise unless the caller holds `permission` on the bucket."""
        known = self.buckets.get(bucket)
        if known is None and identity.email:
            raise no_such_bucket()
        if self.permitted(identity, bucket, permission):
            return
        caller = identity.email or "Anonymous caller"
        resource = "bucket" if permission.startswith("storage.buckets.") else "object"
        message = (
            f"{caller} does not have {permission} access to the Google Cloud Storage {resource}. "
            f"Permission '{permission}' denied on resource (or it may not exist)."
        )
        if not identity.email:
            raise Anonymous(message)
        if not self._in_scope(identity, permission):
            raise Refusal(
                403, "Request had insufficient authentication scopes.", "insufficientPermissions", "AccessDenied"
            )
        raise forbidden(message)

    def permitted(self, identity: Identity, bucket: str, permission: str) -> bool:
        """Whether role and scope, or the bucket being public, allow it."""
        known = self.buckets.get(bucket)
        if known is None:
            return False
        if known.public and permission in READ_PERMISSIONS and (not identity.email or identity.scopes & READ_SCOPES):
            return True
        account = self.accounts.get(identity.email)
        roles = account.roles.get(bucket, "") if account else ""
        held = frozenset[str]().union(*(ROLE_PERMISSIONS[letter] for letter in roles))
        return permission in held and self._in_scope(identity, permission)

    def check_payer(self, bucket: str, project: str | None) -> None:
        """Raise if the bucket's requester pays and none is named."""
        known = self.buckets.get(bucket)
        if known is not None and known.requester_pays and not project:
            message = "Bucket is a requester pays bucket but no user project provided."
            raise bad_request(message, "required", "UserProjectMissing")

    def impersonate(self, identity: Identity, target: str, scopes: Iterable[str], seconds: float) -> str:
        """The IAM credentials endpoint: a token of `target` for a caller who may impersonate it."""
        if not identity.email:
            raise Refusal(
                401, "Request is missing required authentication credential.", "required", "AuthenticationRequired"
            )
        allowed = (identity.email, target) in self.impersonations and identity.scopes & IAM_SCOPES
        if not allowed or target not in self.accounts or self._revoked(target):
            message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
            raise forbidden(message)
        return self.issue(Identity(target, frozenset(scopes)), seconds)

    def _in_scope(self, identity: Identity, permission: str) -> bool:
        reading = permission in READ_PERMISSIONS or permission.endswith(".get")
        return bool(identity.scopes & (READ_SCOPES if reading else WRITE_SCOPES))

    def _revoked(self, email: str) -> bool:
        account = self.accounts.get(email)
        return account is None or account.revoked

    def _verify(self, assertion: str, audience: list[str] | None) -> dict[str, Any]:
        """The claims of a JWT signed by a known account that isn't revoked, or ValueError."""
        try:
            email = str(jwt.decode(assertion, options={"verify_signature": False}).get("iss"))
            account = self.accounts.get(email)
            if account is None or account.revoked:
                raise ValueError("account not found")
            claims: dict[str, Any] = jwt.decode(
                assertion,
                account.public_key,
                algorithms=["RS256"],
                audience=audience,
                options={"require": ["exp", "iat", "iss"], "verify_aud": audience is not None},
                leeway=10,
            )
        except jwt.PyJWTError as error:
            raise ValueError(f"Invalid JWT Signature ({type(error).__name__}).") from None
        if claims["exp"] - claims["iat"] > LONGEST_ASSERTION_SECONDS:
            raise ValueError("Invalid JWT: it must be a short-lived token (60 minutes).")
        return claims


class Anonymous(Refusal):
    """Nobody was refused. The JSON API says 401, the XML API 403."""

    def __init__(self, message: str) -> None:
        super().__init__(401, message, "required", "AccessDenied")
