"""Overlapping parts of a text, and what is known of each; see `defs.yaml` beside this file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from shardmill import FileStage, InputFile, OutputFile, Rejected, Resources


@dataclass(frozen=True)
class Parts(FileStage):
    """Parts of so many words, each beginning with the last words of the one before."""

    words: int = 200
    overlap: int = 50

    name = "parts"
    version = 1  # raise it when the code changes: what this version made of a text is not made again
    resources = Resources(threads=1)  # Python is busy here, not a library: a process a core, each on a shard of its own
    columns: ClassVar = {"text": "string", "number": "int32", "first_word": "int32", "words": "int32"}

    def process(self, file: InputFile) -> Iterator[OutputFile]:
        """A file a part: its text, and what is known of it."""
        try:
            words = file.data.decode().split()
        except UnicodeDecodeError as error:
            raise Rejected("not UTF-8", str(error)) from error
        starts = range(0, max(1, len(words) - self.overlap), self.words - self.overlap)
        for number, start in enumerate(starts):
            part = words[start : start + self.words]
            metadata = {"text": file.key, "number": number, "first_word": start, "words": len(part)}
            yield OutputFile(f"{number:04}.txt", " ".join(part).encode(), metadata)
