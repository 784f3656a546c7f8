"""Errors that a user can cause; each is one line that says what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

#: full disk, quota, limit on the size of files, read-only file system
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# Libraries that write by themselves put the number or the words into their message, or only say how little they wrote.
_IN_WORDS = re.compile(
    rf"(?:os error |errno = |errno )(?P<number>{'|'.join(map(str, NO_ROOM))})\b"
    rf"|(?P<words>{'|'.join(re.escape(os.strerror(number)) for number in NO_ROOM)})"
    r"|(?P<short>\d+ requested and \d+ written|PytorchStreamWriter failed writing|unexpected pos \d+)"
)


class InputError(Exception):
    """Bad input: the message names the file or key, what was expected, and what to do."""


class NoRoom(InputError):
    """A file cannot be written because the disk is full, over its quota or read-only.

    Attributes:
        where: the file or folder.
        reason: what the system says.
    """

    def __init__(self, where: str | os.PathLike[str], reason: str, kept: str = "") -> None:
        """Put the line together.

        Args:
            where: the file or folder.
            reason: what the system says.
            kept: what the next run goes on from, in words.
        """
        self.where, self.reason = os.fspath(where), reason
        advice = f"and run again, {kept}" if kept else "or set another `results`, and run again"
        super().__init__(f"{self.where}: cannot write ({reason}); make room on the disk {advice}")


def no_room_reason(error: BaseException) -> str | None:
    """What the system says if an error, or one that it came from, is about room on the disk; else None.

    h5py, safetensors, torch and numpy report a full disk each in its own way, some only in the words of the message.

    Args:
        error: any error.
    """
    for found in _chain(error):
        if isinstance(found, NoRoom):
            return found.reason
        if isinstance(found, OSError) and found.errno in NO_ROOM:
            return os.strerror(found.errno)
        if match := _IN_WORDS.search(str(found)):
            if match["number"]:
                return os.strerror(int(match["number"]))
            return match["words"] or "the file was cut short; the disk is full"
    return None


def is_guess(error: BaseException) -> bool:
    """Whether :func:`no_room_reason` has only words to go by: no error behind it has the number of one about room.

    Words can mean something else (a disk that fails also cuts files short), so that the traceback is worth keeping.

    Args:
        error: any error.
    """
    guessed = False
    for found in _chain(error):
        if isinstance(found, OSError) and found.errno in NO_ROOM:
            return False
        # The line of a NoRoom repeats what was read from the error that it came from.
        if not isinstance(found, NoRoom) and (match := _IN_WORDS.search(str(found))):
            if match["number"]:
                return False
            guessed = True
    return guessed


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
