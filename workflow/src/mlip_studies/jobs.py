"""What every job of the workflow does around its work: a log file, one-line errors, a record of the code that ran."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn, TextIO

from mlip_studies.errors import InputError, NoRoom, no_room_reason


@contextmanager
def job(log: str | os.PathLike[str] | None = None, code: str = "", code_folder: str | None = None) -> Iterator[None]:
    """Run a job's body.

    Output goes to ``log``. An :class:`InputError` ends the process with its one line, in the log and on the terminal,
    and exit status 1, and so does a full disk, wherever it was met; any other error also prints its traceback to the
    log.

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
    except InputError as error:
        _end(error, stream, terminal)
    except Exception as error:
        if (reason := no_room_reason(error)) is not None:
            # Where nothing said which file it was, the log's folder tells the disk at least.
            where = getattr(error, "filename", None) or (Path(log).parent if log is not None else Path())
            _end(NoRoom(where, reason), stream, terminal)
        if stream is not None:
            traceback.print_exc(file=stream)
            print(f"error: {type(error).__name__}: {error}; the traceback is in {log}", file=terminal)
            sys.exit(1)
        raise
    finally:
        if stream is not None:
            with suppress(OSError):  # a full disk, of which the line was said
                stream.close()
    if code and code_folder:
        entries, value = code.rsplit("=", 1)
        folder = Path(code_folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{entries}.{os.getpid()}"
        temporary.write_text(value)
        os.replace(temporary, folder / entries)


def _end(error: InputError, stream: TextIO | None, terminal: TextIO) -> NoReturn:
    """Say the line of an error in the log, as far as there is room, and on the terminal, and end the process."""
    line = f"error: {error}"
    if stream is not None:
        with suppress(OSError):
            print(line, file=stream)
    print(line, file=terminal)
    sys.exit(1)


def add_to_python_path(folder: str | os.PathLike[str]) -> None:
    """Put a folder first on the module path of all processes started from here."""
    present = os.environ.get("PYTHONPATH")
    parts = [str(folder), *(present.split(os.pathsep) if present else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(parts))
