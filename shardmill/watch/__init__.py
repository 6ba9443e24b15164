"""Watching a source: which partitions have new, changed or deleted objects, and are to be run.

A look (`look`) is one tick of a sensor: it lists a part of the source, compares what it finds with what is committed,
and says which partitions are due. All that it remembers is a state in the dataset's folder, which a cursor points to;
what is lost of it is found again by listing.
"""

from shardmill.watch.found import Due, Found
from shardmill.watch.look import look

__all__ = ["Due", "Found", "look"]
