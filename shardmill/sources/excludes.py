"""Objects that are left out by their names: globs of the dataset file, and the litter of operating systems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from shardmill.errors import ConfigurationError

LITTER: tuple[str, ...] = (
    # macOS: resource forks and extended attributes on file systems that have none, folders' looks, volumes' services
    "._*",
    ".DS_Store",
    ".localized",
    ".apdisk",
    ".VolumeIcon.icns",
    "Icon\r",
    "__MACOSX/",
    ".AppleDouble/",
    ".AppleDB/",
    ".AppleDesktop/",
    ".DocumentRevisions-V100/",
    ".Spotlight-V100/",
    ".TemporaryItems/",
    ".Trashes/",
    ".fseventsd/",
    "Network Trash Folder/",
    "Temporary Items/",
    # Windows
    "Thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "$RECYCLE.BIN/",
    "System Volume Information/",
    # Linux: trash, what fsck found, folders' looks, files that are deleted and still open
    ".Trash-*/",
    "lost+found/",
    ".directory",
    ".nfs*",
    ".fuse_hidden*",
    # network storage: Synology's and QNAP's thumbnails, trash and snapshots
    "@eaDir/",
    "#recycle/",
    "#snapshot/",
    "@Recycle/",
    "@Recently-Snapshot/",
    ".@__thumb/",
    # programs: locks of office programs, downloads and uploads that are under way, checkpoints, version control
    ".~lock.*#",
    "~$*",
    "*.crdownload",
    "*.filepart",
    ".picasa.ini",
    ".ipynb_checkpoints/",
    ".git/",
    ".svn/",
    ".gitattributes",
    ".gitignore",
    ".gitkeep",
    # marks in buckets: a job of Spark's or Hadoop's that is done, Hadoop's folders
    "_SUCCESS",
    "*_$folder$",
)
"""Names that are never anybody's data, as the globs that find them."""

FOLDER_MARKER = "folder marker"
"""The rule for objects whose names end with a slash: consoles of buckets show them as folders."""


class Excludes:
    """Which names are left out, and by which rule. Case is ignored.

    A glob without a slash fits the last part of a name in any folder, one that ends with its only slash fits all that
    is in folders of that name, and any other fits the whole name. `**` fits slashes, too.
    """

    def __init__(self, globs: Sequence[str] = (), defaults: bool = True) -> None:
        """`globs` are the dataset file's; with `defaults`, `LITTER` is left out as well. Folder markers always are.

        Raises:
            ConfigurationError: A glob is none.
        """
        self._defaults = defaults
        rules = [(f"exclude: {glob}", check_glob(glob)) for glob in globs]
        if defaults:
            rules += [(f"default: {_printable(glob)}", glob) for glob in LITTER]
        self._rules = [rule for rule, _ in rules]
        numbered = [(number, glob) for number, (_, glob) in enumerate(rules)]
        files = [each for each in numbered if "/" not in each[1]]
        self._names = {glob.lower(): number for number, glob in reversed(files) if not _SPECIAL.search(glob)}
        self._files = _any_of([each for each in files if _SPECIAL.search(each[1])])
        folders = [(n, glob[:-1]) for n, glob in numbered if glob.find("/") == len(glob) - 1 > 0]
        self._folders = _any_of(folders)
        paths = [each for each in numbered if "/" in each[1].rstrip("/")]
        self._paths = _any_of(paths) if paths else None
        self.expression = _any_rule(files, folders, paths)
        """Fits, as RE2 reads it, every name in lower-case ASCII that a rule leaves out; None if there is no rule."""
        self._in_folder = lru_cache(1024)(self._by_folder)  # a listing comes to a folder's objects one after the other

    @property
    def litter(self) -> Excludes:
        """Those of them that are no globs of the dataset file."""
        return Excludes((), self._defaults)

    def rule(self, name: str) -> str | None:
        """The rule by which the object with this name is left out; None if it is not."""
        name = name.lower()
        folder, _, last = name.rpartition("/")
        if last in self._names:
            return self._rules[self._names[last]]
        found = self._files.fullmatch(last) or (self._in_folder(folder) if folder else None)
        if found or (self._paths and (found := self._paths.fullmatch(name))):
            return self._rules[int(str(found.lastgroup)[1:])]
        return None if last else FOLDER_MARKER

    def needs(self, folder: str) -> bool:
        """Whether something in the folder with this name, which ends with a slash, may not be left out."""
        return self.rule(folder) in (None, FOLDER_MARKER)

    def _by_folder(self, folder: str) -> re.Match[str] | None:
        return next(filter(None, map(self._folders.fullmatch, folder.split("/"))), None)


def check_glob(glob: str) -> str:
    """The glob, if it is one.

    Raises:
        ConfigurationError: It is none, or means something else than elsewhere.
    """
    if not glob.strip("/"):
        raise ConfigurationError(f"the glob {glob!r} fits nothing: give names such as '*.txt', 'thumbs/', 'a/**/b.jpg'")
    if glob.startswith("!"):
        raise ConfigurationError(f"the glob {glob!r}: nothing is taken back with `!`; a name's own `!` is written `?`")
    if re.search(r"[\[\]{}\\]", glob):
        raise ConfigurationError(
            f"the glob {glob!r}: only `*`, `**` and `?` have a meaning. Give a glob for each of several endings, and "
            "`?` for a bracket in a name"
        )
    return glob


def _any_of(globs: Iterable[tuple[int, str]]) -> re.Pattern[str]:
    """Fits what one of the globs fits, in lower case; the group that matched is called by the glob's number."""
    choices = "|".join(f"(?P<r{number}>{_expression(glob.lower())})" for number, glob in globs)
    return re.compile(choices or r"(?!)", re.DOTALL)


def _any_rule(*kinds: Sequence[tuple[int, str]]) -> str | None:
    """The globs over the last part of a name, over folders and over whole names, as one expression."""
    files, folders, paths = (
        "|".join(_expression(glob.lower()) for _, glob in globs) if globs else None for globs in kinds
    )
    choices = [
        *([f"(?:.*/)?(?:{files})"] if files is not None else []),
        *([f"(?:.*/)?(?:{folders})/.*"] if folders is not None else []),
        *([paths] if paths is not None else []),
    ]
    return f"(?s)^(?:{'|'.join(choices)})$" if choices else None


_SPECIAL = re.compile(r"(\*\*+/|/\*\*+$|\*+|\?)")


def _expression(glob: str) -> str:
    text = glob.removeprefix("/") + ("**" if glob.endswith("/") else "")
    parts = (re.sub(r"\*\*+", "**", part) for part in _SPECIAL.split(text) if part)
    return "".join(_MEANING.get(part) or re.escape(part) for part in parts)


_MEANING = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode()
