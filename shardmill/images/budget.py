"""How many pixels are in work at once, over all threads of the process: images at the limit go one at a time."""

import threading

MAX_PIXELS = 178_956_970
"""Width times height above which an image is refused: where Pillow too stops, half a gigabyte as RGB."""


class PixelBudget:
    """Threads wait while others hold too many pixels. Nobody waits who holds some, so that none wait for each other."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._held = 0
        self._changed = threading.Condition()
        self._mine = threading.local()

    def __enter__(self) -> None:
        """What is taken within it is given back at its end. Of nested ones, the outermost counts."""
        mine = self._mine.__dict__
        mine["depth"] = mine.get("depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        mine = self._mine.__dict__
        mine["depth"] -= 1
        if mine["depth"] == 0 and (held := mine.pop("held", 0)):
            with self._changed:
                self._held -= held
                self._changed.notify_all()

    def take(self, pixels: int) -> None:
        """Wait until so many fit, or nobody holds any."""
        mine = self._mine.__dict__
        held = mine.get("held", 0)
        with self._changed:
            if not held:
                self._changed.wait_for(lambda: self._held == 0 or self._held + pixels <= self._pixels)
            self._held += pixels
        mine["held"] = held + pixels


in_work = PixelBudget(MAX_PIXELS)
"""The process's own. A caller that goes on working with what it decoded enters it around both."""
