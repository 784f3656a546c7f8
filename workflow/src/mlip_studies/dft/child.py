"""Worker processes for calculations that may hang, crash or take too much memory.

Each worker is a fresh interpreter with one thread that is sent one task at a time over a pipe. A worker that exceeds
the time or the memory of a task is killed and replaced, and one that dies takes nothing with it but its task. Workers
end with the process that started them, however that ends, and their scratch files are removed.

A worker is not a child of :mod:`multiprocessing`, which would run the main script again in each.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import mlip_studies

#: seconds between two looks at time, memory and the wish to stop
TICK_SECONDS = 0.2
#: seconds that a worker may take to import what it needs
START_SECONDS = 600.0
#: tries of a task whose worker dies; a machine may be to blame once
ATTEMPTS = 2
#: workers that may die one after another before they were ready
FAILED_STARTS = 4
#: share of the memory limit from which the death of a worker is laid to its memory
NEAR_LIMIT = 0.9
#: address space beyond the memory limit, MiB: integral codes reserve arrays of gigabytes of which they use little
RESERVED_MB = 16 * 1024.0
#: libraries that start threads read these when they are loaded
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PR_SET_PDEATHSIG = 1
_MB = 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        key: the task's key.
        status: ``done``, ``failed`` (the function raised), ``timeout``, ``out_of_memory`` or ``crashed`` (the worker
            died, at each of several tries).
        value: what the function returned, None unless ``done``.
        detail: one line about what went wrong.
        seconds: wall time of the last try, s.
        cpu_seconds: its processor time, s; of a killed worker up to the last look.
        max_rss_mb: largest resident memory during it, MiB; of a killed worker up to the last look.
        attempts: number of tries.
    """

    key: Any
    status: str
    value: Any = None
    detail: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    max_rss_mb: float = 0.0
    attempts: int = 1


@dataclass
class _Task:
    key: Any
    payload: Any
    attempts: int = 0


class _Worker:
    """One process with the task that it works on."""

    def __init__(self, target: str, address_space_mb: float, scratch: Path) -> None:
        self.scratch = Path(tempfile.mkdtemp(dir=scratch))
        self.log = self.scratch / "output.log"
        self.connection, theirs = Pipe()
        root = str(Path(mlip_studies.__file__).parents[1])
        present = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, "1"),
            "PYTHONPATH": os.pathsep.join([root, *([present] if present else [])]),
            "PYSCF_TMPDIR": str(self.scratch),
            "TMPDIR": str(self.scratch),
        }
        command = [sys.executable, "-m", "mlip_studies.dft.child"]
        command += [str(theirs.fileno()), str(os.getpid()), str(address_space_mb), target]
        with theirs, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.ready = False
        self.task: _Task | None = None
        self.began = time.monotonic()
        self.cpu_before = self.cpu_now = self.rss_mb = self.peak_mb = 0.0

    def give(self, task: _Task) -> None:
        """Send a task.

        Raises:
            OSError: the process is gone.
        """
        self.look()
        self.cpu_before, self.peak_mb = self.cpu_now, self.rss_mb
        self.connection.send(task.payload)
        self.task, self.began = task, time.monotonic()

    def look(self) -> None:
        """Note the memory and processor time of the process."""
        usage = _usage(self.process.pid)
        if usage is not None:
            self.rss_mb, self.cpu_now = usage
            self.peak_mb = max(self.peak_mb, self.rss_mb)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def outcome(self, status: str, detail: str) -> Outcome:
        """Of a task that the process did not finish."""
        assert self.task is not None
        cpu = max(0.0, self.cpu_now - self.cpu_before)
        return Outcome(self.task.key, status, None, detail, self.elapsed, cpu, self.peak_mb, self.task.attempts)

    def end(self) -> int:
        """Kill the process and what it started, remove its scratch files and return its exit status."""
        code = self.process.poll()
        if code is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        self.connection.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        return code

    def last_line(self) -> str:
        """The last line that the process printed."""
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return lines[-1].strip() if lines else ""
        return ""


class WorkerPool:
    """Runs tasks in worker processes; use as a context manager.

    A target is ``module:function``; the function takes a task's payload and returns what can be pickled. If the module
    has a function ``warm_up``, workers call it before their first task.
    """

    def __init__(
        self,
        target: str,
        workers: int,
        time_limit_s: float,
        memory_limit_mb: float,
        state: Path | None = None,
        limit_address_space: bool = True,
    ) -> None:
        """Workers start when there is work.

        Args:
            target: what to call, ``module:function``.
            workers: number of processes.
            time_limit_s: wall time of a task, s.
            memory_limit_mb: resident memory of a worker, MiB, including some 150 for its libraries.
            state: folder that remembers where the scratch files lie, so that those of a run that was killed are removed
                by the next one.
            limit_address_space: also refuse a worker address space far beyond that, so that a request out of all bounds
                fails at once; not for GPUs, whose drivers reserve all there is.
        """
        self.target, self.workers = target, workers
        self.time_limit_s, self.memory_limit_mb = time_limit_s, memory_limit_mb
        self._state = state
        self._address_space_mb = memory_limit_mb + RESERVED_MB if limit_address_space else 0.0
        self._scratch: Path | None = None
        self._all: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> WorkerPool:
        """Make the scratch folder."""
        note = self._state / "scratch.json" if self._state is not None else None
        if note is not None:
            _remove_left_over(note)
        self._scratch = Path(tempfile.mkdtemp(prefix="mlip-studies-"))
        if note is not None:
            note.write_text(json.dumps({"host": socket.gethostname(), "folder": str(self._scratch)}))
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all workers and remove their files."""
        for worker in self._all:
            worker.end()
        self._all = []
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if self._state is not None:
            (self._state / "scratch.json").unlink(missing_ok=True)

    def run(self, tasks: Iterable[tuple[Any, Any]], stopped: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Work on tasks in their order and yield their outcomes as they come.

        Args:
            tasks: (key, payload) of each.
            stopped: asked now and then; once it says yes, no more outcomes come.

        Raises:
            RuntimeError: workers die before they can take a task.
        """
        todo = deque(_Task(key, payload) for key, payload in tasks)
        while todo or any(worker.task is not None for worker in self._all):
            if stopped():
                return
            self._hire(todo)
            self._hand_out(todo)
            outcomes = list(self._listen(todo))
            # A signal to the whole job reaches the workers too: what they died of then says nothing about the task.
            if stopped():
                outcomes = [each for each in outcomes if each.status in ("done", "failed")]
            yield from outcomes

    def _hire(self, todo: deque[_Task]) -> None:
        assert self._scratch is not None
        busy = sum(worker.task is not None for worker in self._all)
        while len(self._all) < min(self.workers, busy + len(todo)):
            self._all.append(_Worker(self.target, self._address_space_mb, self._scratch))

    def _hand_out(self, todo: deque[_Task]) -> None:
        for worker in list(self._all):
            if todo and worker.ready and worker.task is None:
                task = todo.popleft()
                try:
                    worker.give(task)
                except OSError:
                    todo.appendleft(task)
                    self._dismiss(worker)
                else:
                    task.attempts += 1

    def _listen(self, todo: deque[_Task]) -> Iterator[Outcome]:
        said = wait([worker.connection for worker in self._all], timeout=TICK_SECONDS)
        for worker in list(self._all):
            message = None
            if worker.connection in said:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    yield from self._mourn(worker, todo)
                    continue
            if message == "ready":
                worker.ready, self._failed_starts = True, 0
            elif message is not None:
                task, worker.task = worker.task, None
                assert task is not None
                status, value, detail, seconds, cpu_seconds, peak_mb = message
                yield Outcome(task.key, status, value, detail, seconds, cpu_seconds, peak_mb, task.attempts)
            elif worker.task is not None:
                yield from self._watch(worker)
            elif not worker.ready and worker.elapsed > START_SECONDS:
                self._start_failed(worker, f"not ready after {START_SECONDS:.0f} s")

    def _watch(self, worker: _Worker) -> Iterator[Outcome]:
        """End a worker that is over its limits."""
        worker.look()
        over_time = worker.elapsed > self.time_limit_s
        if worker.rss_mb > self.memory_limit_mb:
            outcome = worker.outcome("out_of_memory", f"more than {self.memory_limit_mb:g} MB")
        elif over_time:
            outcome = worker.outcome("timeout", f"more than {self.time_limit_s:g} s")
        else:
            return
        self._dismiss(worker)
        yield outcome

    def _mourn(self, worker: _Worker, todo: deque[_Task]) -> Iterator[Outcome]:
        """A worker closed its pipe: it died."""
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=10.0)
        text = worker.last_line()
        task = worker.task
        if task is None and not worker.ready:
            self._start_failed(worker, text)
            return
        status, detail = "crashed", ""
        if task is not None:
            code = worker.process.returncode
            by_signal = code is not None and code < 0
            detail = f"ended by {_signal_name(-code)}" if by_signal else f"ended with status {code}"
            detail += f": {text}" if text else ""
            if worker.peak_mb > NEAR_LIMIT * self.memory_limit_mb:
                status = "out_of_memory"
            if task.attempts >= ATTEMPTS or status == "out_of_memory":
                yield worker.outcome(status, detail)
            else:
                todo.appendleft(task)
        self._dismiss(worker)

    def _start_failed(self, worker: _Worker, text: str) -> None:
        code = self._dismiss(worker)
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            raise RuntimeError(f"worker processes end before their first task (status {code}): {text}")

    def _dismiss(self, worker: _Worker) -> int:
        self._all.remove(worker)
        return worker.end()


def _remove_left_over(note: Path) -> None:
    """The scratch folder of a run that was killed, if it was on this host."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        left = json.loads(note.read_text())
        if left["host"] == socket.gethostname() and Path(left["folder"]).name.startswith("mlip-studies-"):
            shutil.rmtree(left["folder"], ignore_errors=True)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _usage(pid: int) -> tuple[float, float] | None:
    """Resident memory (MiB) and processor time (s) of a process, None if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        # The name, in parentheses, may hold anything; user and system time are fields 14 and 15.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, IndexError):
        return None
    ticks = int(fields[11]) + int(fields[12])
    return pages * resource.getpagesize() / _MB, ticks / os.sysconf("SC_CLK_TCK")


def _forget_peak() -> None:
    """Let the largest resident memory of this process count anew."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _limit_address_space(more_mb: float) -> None:
    """Allow this process so much more address space than it has."""
    with suppress(OSError, ValueError, IndexError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = now + int(more_mb * _MB)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _tidy(libc: ctypes.CDLL) -> None:
    """Give memory back, so that one large molecule does not count against the next."""
    gc.collect()
    with suppress(AttributeError):
        libc.malloc_trim(0)


def _work(function: Callable[[Any], Any], payload: Any) -> tuple[str, Any, str]:
    try:
        return "done", function(payload), ""
    except MemoryError as error:
        return "out_of_memory", None, " ".join(f"MemoryError: {error}".split())
    except Exception as error:
        return "failed", None, " ".join(f"{type(error).__name__}: {error}".split())


def main(arguments: list[str]) -> None:
    """The worker process: ready, then task by task until the pipe closes."""
    descriptor, parent, limit, target = int(arguments[0]), int(arguments[1]), float(arguments[2]), arguments[3]
    # These go to all processes of a job at its end; what to do then is for the one that started us to say.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    connection = Connection(descriptor)
    module_name, _, name = target.partition(":")
    module = import_module(module_name)
    function = getattr(module, name)
    warm_up = getattr(module, "warm_up", None)
    if warm_up is not None:
        warm_up()
    if limit > 0:
        _limit_address_space(limit)
    connection.send("ready")
    while True:
        try:
            payload = connection.recv()
        except EOFError:
            return
        _forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        result = _work(function, payload)
        costs = time.perf_counter() - wall, time.process_time() - cpu, _peak_mb()
        connection.send((*result, *costs))
        del payload, result
        _tidy(libc)


if __name__ == "__main__":
    main(sys.argv[1:])
