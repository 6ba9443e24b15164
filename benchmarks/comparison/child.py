"""The process that a variant runs in: `python -m benchmarks.comparison.child ERRAND READY GO`.

It does the work on a few samples first (imports, models, clusters), then on the same few again and on all samples, by
the clock. It says when it is about to begin and when it is done, and waits each time until its CPU time has been read.
Then it looks at what came out. Orphans of the variant stay its descendants, so that their CPU time is counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.comparison.usage import adopt_orphans, end_with_parent
from benchmarks.comparison.variants import Errand


def main() -> None:
    """Run one errand."""
    errand, say, hear = Errand.from_json(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    adopt_orphans()
    end_with_parent()
    for descriptor in (say, hear):
        os.set_inheritable(descriptor, False)
    torchvision_imports()
    if errand.prepare:
        for source in (errand.few, errand.source):
            function(errand.prepare)(source, errand.workers)
    run = function(errand.run)
    run(errand.few, errand.folder / "warm", errand.workers, **errand.options)
    for source, name in ((errand.few, "few"), (errand.source, "made")):
        tell(say, hear, {})
        started = time.perf_counter()
        run(source, errand.folder / name, errand.workers, **errand.options)
        tell(say, hear, {"wall": time.perf_counter() - started})
    if errand.read:
        import numpy as np

        keys, values = function(errand.read)(errand.folder / "made")
        np.savez(errand.folder / "made.npz", keys=np.array(keys), values=np.array(values))


def tell(say: int, hear: int, message: dict[str, float]) -> None:
    """Send a line, and wait for the answer."""
    os.write(say, json.dumps(message).encode() + b"\n")
    if not os.read(hear, 1):
        raise SystemExit("nobody is listening any more")


def function(path: str) -> Callable[..., Any]:
    """The function at `module:name`."""
    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def torchvision_imports() -> None:
    """See that peers can import torchvision beside a CPU build of torch, where both are installed."""
    from shardmill.torchvision_compat import import_torchvision

    try:
        import_torchvision()
    except ImportError:
        return


if __name__ == "__main__":
    main()
