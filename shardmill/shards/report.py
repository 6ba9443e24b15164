"""What a stage says about the shard that it made: counts, bytes, rejects, time."""

from collections import Counter
from typing import Self

from pydantic import BaseModel, ConfigDict

from shardmill.errors import Rejected


class Reject(BaseModel):
    """A sample that could not be processed."""

    model_config = ConfigDict(frozen=True)

    key: str
    reason: str
    """One of a few short phrases."""
    detail: str = ""
    source_uri: str = ""
    """The raw object at fault, or the first of the sample's."""
    may_pass: bool = False
    """Whether the same sample may be processed another time, although nothing of it has changed."""
    fingerprint: str = ""
    """Of the sample that was refused, like `IndexRow.fingerprint`; empty where another try may end otherwise."""

    @classmethod
    def of(cls, key: str, why: Rejected, source_uri: str, fingerprint: str = "") -> Self:
        """The reject of a sample that was refused."""
        return cls(
            key=key,
            reason=_text(why.reason),
            detail=_text(why.detail),
            source_uri=source_uri,
            may_pass=why.may_pass,
            fingerprint="" if why.may_pass else fingerprint,
        )

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


def _text(said: object) -> str:
    """As a table can hold it: what code of the user's own says may be names of files, which need not be UTF-8."""
    return str(said).encode(errors="backslashreplace").decode()


class ShardReport(BaseModel):
    """Counts of one shard. `samples_in == kept + filtered + len(rejects)`, always."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")  # JSON has no NaN, and null is no number

    samples_in: int
    kept: int
    """Samples of the input that gave at least one sample of the output."""
    filtered: int = 0
    """Samples that the transform left out on purpose."""
    samples: int
    """Samples in the output; differs from `kept` only where one sample gives several."""
    rows: int | None = None
    """Of a table that has another number of them than of samples."""
    bytes_in: int = 0
    bytes: int = 0
    """Size of the data file; 0 if no sample was left, so that there is none."""
    sha256: str = ""
    """Of the data file, in hexadecimal; empty if there is none."""
    seconds: float = 0.0
    """Time that the stage took."""
    runtime: str = ""
    """What computed it, where there is a choice. Like `seconds` for the record: not part of the shard's identity."""
    copied: int = 0
    """Samples of the input of which nothing was computed anew: copied from an earlier commit. For the record."""
    rejects: list[Reject] = []
    filtered_fingerprints: list[str] = []
    """Of the samples that were left out on purpose, like `IndexRow.fingerprint`."""
    components: dict[str, int] = {}
    """How many samples of a tar have which components (`cls jpg`), the most frequent first; rare ones as `other`."""
    picture: bool = False
    """Whether a picture was made of it."""
    objects: int = 0
    """Raw objects in the samples of the output, where it is made of such."""
    rejected_objects: int = 0
    """Raw objects in the rejects."""
    summary: dict[str, float | str] = {}
    """Figures of the stage's own, for people."""

    @property
    def reasons(self) -> dict[str, int]:
        """How many rejects there are of each reason, most frequent first."""
        return dict(Counter(reject.reason for reject in self.rejects).most_common())

    @property
    def may_pass(self) -> list[Reject]:
        """The rejects of samples that are tried again."""
        return [reject for reject in self.rejects if reject.may_pass]

    def checked(self, shard: str) -> Self:
        """Itself, if every sample is accounted for.

        Raises:
            AssertionError: One is not, which is a defect of the stage.
        """
        if self.samples_in != self.kept + self.filtered + len(self.rejects):
            raise AssertionError(
                f"shard {shard}: {self.samples_in} samples in, but {self.kept} kept, {self.filtered} filtered "
                f"and {len(self.rejects)} rejected"
            )
        return self
