"""What one look found, and how it reads in a log."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardmill.watch.walks import Outside

NAMED = 5
"""Partitions that a look names."""


@dataclass(frozen=True)
class Due:
    """A partition that is to be run."""

    partition: str
    reason: str
    """The same whenever the same change is asked for again: also by a look that is taken again because it died. What
    changes back, and then again, is another change; and so is all that is found after the cursor was lost.
    """


@dataclass
class Found:
    """What one look found."""

    cursor: str
    due: list[Due] = field(default_factory=list)
    partitions: list[str] = field(default_factory=list)
    """In which objects were listed."""
    known: int = 0
    """Partitions that the source is known to hold objects of."""
    scanned: int = 0
    """Objects listed."""
    outside: Outside = field(default_factory=Outside)
    """Of them in no partition."""
    new: int = 0
    """Partitions that had never been seen."""
    changed: int = 0
    """Partitions with other objects than when they were last listed."""
    deleted: int = 0
    """Partitions that were seen before and have no object left."""
    announced: int = 0
    """Notifications of objects."""
    unread: int = 0
    """Messages that are no notifications."""
    refused: str | None = None
    """Why notifications could not be acknowledged, None if they could. They will come again."""
    pending: int = 0
    """Partitions that wait: to be quiet, for their marker, for a run that is under way, or for the next look."""
    waits: list[str] = field(default_factory=list)
    """The first few of them, each with what it waits for."""
    waiting: int = 0
    """New objects that wait for their batch to be sealed."""
    kept: list[str] = field(default_factory=list)
    """Why partitions of which nothing is found any more are left as they are."""
    listing: str | None = None
    """URI at which the listing of everything goes on, None if it is done."""
    reconciled: str | None = None
    """Why everything is compared with what is committed, None if it is not."""
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = [
            f"{self.scanned:,} objects scanned",
            f"partitions: {self.new} new, {self.changed} changed, {self.deleted} deleted, {self.pending} pending, "
            f"{len(self.due)} due",
        ]
        if self.due:
            more = ", …" if len(self.due) > NAMED else ""
            parts.append(f"due: {', '.join(item.partition for item in self.due[:NAMED])}{more}")
        if self.waits:
            more = ", …" if self.pending > len(self.waits) else ""
            parts.append(f"pending: {', '.join(self.waits)}{more}")
        if self.outside.objects:
            more = ", …" if self.outside.objects > len(self.outside.names) else ""
            parts.append(f"{self.outside.objects:,} objects in no partition: {', '.join(self.outside.names)}{more}")
        if self.announced or self.unread:
            parts.append(f"{self.announced:,} notifications")
        if self.unread:
            parts.append(f"{self.unread:,} messages that are none, ignored")
        if self.refused:
            parts.append(f"notifications could not be acknowledged and will come again: {self.refused}")
        if self.kept:
            parts.append(f"{len(self.kept):,} partitions of which nothing is found are left alone: {self.kept[0]}")
        if self.waiting:
            parts.append(f"{self.waiting:,} new objects wait for their batch")
        if self.reconciled:
            parts.append(f"comparing everything with what is committed ({self.reconciled})")
        if self.listing:
            parts.append(f"the listing goes on after {self.listing}")
        return f"{'; '.join(parts)}; {self.seconds:.1f} s"
