"""What a store means when it refuses, where that is no missing permission: by the code or the words of its answer.

S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. Google Cloud Storage:
https://cloud.google.com/storage/docs/json_api/v1/status-codes and the messages of its XML API.
"""

from __future__ import annotations

import re

from shardmill.errors import AccessDeniedError, ArchivedError, EncryptedError, StorageError

_DISABLED = "disabled|destroyed|pending deletion|not enabled"
_MEANINGS: tuple[tuple[str, type[StorageError], str], ...] = (
    ("InvalidObjectState", ArchivedError, "the object is archived (InvalidObjectState)"),
    (
        rf"KMS\.\w*(Disabled|State|NotFound)|(KMS key|CryptoKeyVersion)[^<]*\b({_DISABLED})",
        EncryptedError,
        "the object is encrypted, and its key (KMS) is disabled or deleted",
    ),
    (
        r"KMS\.\w+|(perform: |the )kms:\w+|cloudkms\.|Cloud KMS key",
        EncryptedError,
        "the object is encrypted, and {identity} may not use its key (KMS)",
    ),
    (
        "customer-supplied encryption key|CustomerEncryptionKey|stored using a form of Server Side Encryption",
        EncryptedError,
        "the object is encrypted with a key that whoever wrote it keeps (SSE-C, CSEK)",
    ),
    (
        "AllAccessDisabled|AccountProblem|NotSignedUp|accountDisabled|[Bb]illing account",
        StorageError,
        "the account behind the bucket is disabled, or has a problem with its bill",
    ),
    (
        "vpcServiceControls|SECURITY_POLICY_VIOLATED|prohibited by organization's policy",
        AccessDeniedError,
        "a perimeter of the organization (VPC Service Controls) keeps out callers from here",
    ),
    (
        "retentionPolicyNotMet|UnderActiveHold|under active .*hold|protected by object lock|retention polic",
        StorageError,
        "the object is locked, by a hold or for a retention period",
    ),
    ("with an explicit deny", AccessDeniedError, "a policy forbids it to {identity} (an explicit deny)"),
    ("RequestTimeTooSkewed", StorageError, "this machine's clock is wrong by more than the store allows"),
    ("[qQ]uotaExceeded|dailyLimitExceeded", StorageError, "a quota of the project is exhausted"),
)
_PARTS = re.compile(r"<(?:Code|Message|Details)>(.*?)</|\"(?:reason|message)\": ?\"(.*?)\"", re.DOTALL)


def answer_in(text: str) -> str:
    """The codes and messages of a store's answer in an error's text: object names stand beside them, and may be any."""
    return "\n".join(code or message for code, message in _PARTS.findall(text))


def meaning_of_refusal(answer: str, cannot: str, identity: str) -> StorageError | None:
    """The error that says what a refusal is about; None where it may be a missing permission."""
    for words, kind, meaning in _MEANINGS:
        if re.search(words, answer):
            return kind(f"{cannot}: {meaning.format(identity=identity)}")
    return None


def asks_for_patience(answer: str) -> bool:
    """Whether Google's JSON API refuses, with status 403, what it would do later."""
    return bool(re.search("[rR]ateLimitExceeded", answer))
