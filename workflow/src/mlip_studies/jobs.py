"""What every job of the workflow does around its work: a log file, one-line errors, a record of the code that ran."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn, TextIO

from mlip_studies.artifacts import remove_leftovers, temporary_path
from mlip_studies.errors import InputError, NoRoom, is_guess, no_room_reason


@contextmanager
def job(log: str | os.PathLike[str] | None = None, code: str = "", code_folder: str | None = None) -> Iterator[None]:
    """Run a job's body.

    Output goes to ``log``. An :class:`InputError` ends the process with its one line, in the log and on the terminal,
    and exit status 1, and so does a full disk, wherever it was met; any other error also prints its traceback to the
    log, and so does one that only its words make a full disk.

    Args:
        log: log file of the job.
        code: the rule's code parameter, ``entries=hash``; recorded in ``code_folder`` when the body succeeds.
        code_folder: where such records are kept.
    """
    terminal = sys.stderr
    stream = None
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        stream = open(log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed below)
    try:
        if stream is None:
            yield
        else:
            with redirect_stdout(stream), redirect_stderr(stream):
                yield
        if code and code_folder:
            _record_code(code, Path(code_folder))
    except InputError as error:
        _end(error, stream, terminal, error if isinstance(error, NoRoom) and is_guess(error) else None)
    except Exception as error:
        if (reason := no_room_reason(error)) is not None:
            # Where nothing said which file it was, the log's folder tells the disk at least.
            where = getattr(error, "filename", None) or (Path(log).parent if log is not None else Path())
            _end(NoRoom(where, reason), stream, terminal, error if is_guess(error) else None)
        if stream is not None:
            traceback.print_exc(file=stream)
            print(f"error: {type(error).__name__}: {error}; the traceback is in {log}", file=terminal)
            sys.exit(1)
        raise
    finally:
        if stream is not None:
            with suppress(OSError):  # a full disk, of which the line was said
                stream.close()


def _record_code(code: str, folder: Path) -> None:
    """Keep the hash of ``entries=hash`` in the file ``entries``, or nothing at all."""
    entries, value = code.rsplit("=", 1)
    target = folder / entries
    temporary = temporary_path(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        temporary.write_text(value)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        if (reason := no_room_reason(error)) is not None:
            raise NoRoom(target, reason) from error
        raise InputError(f"{target}: cannot write ({error.strerror}); remove what is in its way") from error


def _end(error: InputError, stream: TextIO | None, terminal: TextIO, traced: BaseException | None = None) -> NoReturn:
    """Say the line of an error in the log, as far as there is room, and on the terminal, and end the process.

    Args:
        error: what to say.
        stream: the log.
        terminal: standard error.
        traced: error whose traceback follows in the log, or on the terminal if there is no log.
    """
    line = f"error: {error}"
    if stream is not None:
        with suppress(OSError):
            print(line, file=stream)
    print(line, file=terminal)
    if traced is not None:
        with suppress(OSError):
            traceback.print_exception(traced, file=stream or terminal)
    sys.exit(1)


def add_to_python_path(folder: str | os.PathLike[str]) -> None:
    """Put a folder first on the module path of all processes started from here."""
    present = os.environ.get("PYTHONPATH")
    parts = [str(folder), *(present.split(os.pathsep) if present else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(parts))
