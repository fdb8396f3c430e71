"""A session as LoadGen's system under test. LoadGen makes the queries, takes the times, and gives its own verdict."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np

from bench.clock import cpu_ns, now_ns
from bench.worker.messages import LoadReply
from bench.worker.process import NotReadyError, involuntary_switches, peak_memory_bytes, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from backends.protocol import AsynchronousSession, Session
    from bench.worker.messages import RunLoad

    # Called with the ids of a query's samples, and their places in the data set.
    Issue: TypeAlias = Callable[[list[int], list[int]], None]
    # The id of a query, the place of its sample, and when it was issued.
    Query: TypeAlias = tuple[int, int, int]

ACCURACY_ONLY = "AccuracyOnly"
# LoadGen writes its files under names that begin with this.
PREFIX = "loadgen_"
# LoadGen reads settings from this file if it exists, and they replace those of the caller.
NO_AUDIT = "no-audit.config"
PR_SET_TIMERSLACK = 29
SWITCH_INTERVAL_S = 0.0001


class Images(Protocol):
    """The test images as batches of a size."""

    @property
    def images(self) -> NDArray[np.uint8]: ...
    @property
    def size(self) -> int: ...
    def of(self, indices: Sequence[int]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Served:
    """A session, and the images in batches of its size."""

    session: Session
    images: Images

    def batch(self, indices: Sequence[int]) -> Any:
        """Return a prepared batch of samples; one that is not full is filled up with its first sample."""
        missing = self.images.size - len(indices)
        return self.session.prepare(self.images.of([*indices, *[indices[0]] * missing]))


def runs_of(indices: Sequence[int], size: int, stride: int) -> dict[int, list[int]]:
    """Return the samples of each batch by the first of them; behind the last sample, the first ones follow."""
    following, runs = [*indices, *indices[:size]], dict[int, list[int]]()
    for start in range(0, len(indices), stride):
        # For multi-stream LoadGen itself lets the first samples follow the last one.
        runs.setdefault(indices[start], following[start : start + size])
    return runs


class Library:
    """The samples that LoadGen has loaded, as batches that are ready for the session.

    A batch starts at every `stride`-th loaded sample. `run` holds the samples of a batch by the first of them.
    """

    def __init__(self, served: Served, stride: int) -> None:
        self.batches: dict[int, Any] = {}
        self.run: dict[int, list[int]] = {}
        self._served, self._stride = served, stride

    def load(self, indices: Sequence[int]) -> None:
        self.run.update(runs_of(indices, self._served.images.size, self._stride))
        self.batches.update((first, self._served.batch(run)) for first, run in self.run.items())

    def unload(self, _: Sequence[int]) -> None:
        self.batches.clear()
        self.run.clear()


def guarded(issue: Issue) -> Issue:
    """Return a function that ends the process after an error: LoadGen can neither be stopped nor raise it."""

    def guarded_issue(ids: list[int], indices: list[int]) -> None:
        try:
            issue(ids, indices)
        except BaseException:  # noqa: BLE001 - nothing may unwind through C++
            # The last line of the worker's log becomes the reason of the failure.
            traceback.print_exc()
            os._exit(1)

    return guarded_issue


def run_load(served: Sequence[Served], request: RunLoad) -> LoadReply:
    """Let LoadGen send its queries to a session, or to one of several that differ by batch size.

    Raises NotReadyError where LoadGen is not installed.
    """
    module, images = loadgen_module(), served[0].images
    library = Library(served[0], images.size if request.scenario == "Offline" else 1)
    server = Server(module, served, library, request) if _serves(request) else None
    issue = server.issue if server else SystemUnderTest(module, served[-1], library).issuer(request)
    meter = Meter()

    def load(indices: list[int]) -> None:
        if server:
            server.load(indices)
        elif request.mode != ACCURACY_ONLY:
            library.load(indices)
        meter.start()

    def unload(indices: list[int]) -> None:
        meter.stop()
        library.unload(indices)

    with load_test(module, request, len(images.images), issue, load, unload) as start:
        if server:
            server.run(start, request.cores)
        else:
            start()
    return meter.reply(server.mean_served_ns if server else None)


def loadgen_module() -> Any:
    """Return LoadGen's module; raises NotReadyError where it is not installed."""
    try:
        import mlperf_loadgen as module
    except ImportError as error:
        raise NotReadyError(f"mlcommons-loadgen can't be imported ({error})") from error
    return module


@contextmanager
def load_test(
    module: Any,
    request: RunLoad,
    total: int,
    issue: Issue,
    load: Callable[[list[int]], None],
    unload: Callable[[list[int]], None],
) -> Iterator[Callable[[], None]]:
    """Yield a function that lets LoadGen run its test, with the garbage collector off meanwhile."""
    settings, logs = module.TestSettings(), module.LogSettings()
    settings.scenario = getattr(module.TestScenario, request.scenario)
    settings.mode = getattr(module.TestMode, request.mode)
    for name, value in request.settings.items():
        # Integers and other numbers are different types for LoadGen.
        setattr(settings, name, type(getattr(settings, name))(value))
    logs.enable_trace = False
    logs.log_output.outdir, logs.log_output.prefix = request.folder, PREFIX
    logs.log_output.copy_summary_to_stdout = False
    under_test = module.ConstructFastSUT(guarded(issue), lambda: None)
    samples = module.ConstructQSL(total, min(request.samples, total), load, unload)

    def start() -> None:
        audit = str(Path(request.folder, NO_AUDIT))
        module.StartTestWithLogSettings(under_test, samples, settings, logs, audit)

    gc.collect()
    gc.disable()
    try:
        yield start
    finally:
        gc.enable()
        module.DestroyQSL(samples)
        module.DestroyFastSUT(under_test)


def _serves(request: RunLoad) -> bool:
    """Return whether queries are due at times of their own, whether or not earlier ones are answered."""
    return request.scenario == "Server" and request.mode != ACCURACY_ONLY


class Meter:
    """What the process uses from when LoadGen's samples are loaded until they are unloaded, over all of their sets."""

    def __init__(self) -> None:
        self._wall_ns = self._cpu_ns = self._switches = self._memory_bytes = 0
        self._begin = (0, 0, 0, 0)

    def start(self) -> None:
        with suppress(OSError):
            # The kernel forgets the peak of memory so far: proc_pid_clear_refs(5).
            Path("/proc/self/clear_refs").write_text("5")
        self._begin = now_ns(), cpu_ns(), involuntary_switches(), resident_bytes()

    def stop(self) -> None:
        wall_ns, cpu, switches, resident = self._begin
        self._wall_ns += now_ns() - wall_ns
        self._cpu_ns += cpu_ns() - cpu
        self._switches += involuntary_switches() - switches
        self._memory_bytes = max(self._memory_bytes, peak_memory_bytes() - resident)

    def reply(self, served_ns: float | None) -> LoadReply:
        return LoadReply(self._wall_ns, self._cpu_ns, self._switches, max(0, self._memory_bytes), served_ns)


class SystemUnderTest:
    """The functions that LoadGen calls with the ids of a query's samples, and their places in the data set."""

    def __init__(self, module: Any, served: Served, library: Library) -> None:
        self._served, self._session, self._size, self._library = served, served.session, served.images.size, library
        self._response, self._complete = module.QuerySampleResponse, module.QuerySamplesComplete

    def issuer(self, request: RunLoad) -> Issue:
        if request.mode == ACCURACY_ONLY:
            return self._with_labels
        if request.scenario == "Offline":
            return self._everything_queued if request.asynchronous else self._everything
        return self._one() if self._size == 1 else self._several

    def _one(self) -> Issue:
        # Without an attribute of an object, because this is the shortest query.
        response, complete, step = self._response, self._complete, self._session.step
        batches = self._library.batches

        def one(ids: list[int], indices: list[int]) -> None:
            step(batches[indices[0]])
            complete([response(ids[0], 0, 0)])

        return one

    def _several(self, ids: list[int], indices: list[int]) -> None:
        first = indices[0]
        # LoadGen takes samples that follow each other in the order in which they were loaded.
        if self._library.run[first] != indices:
            raise NotReadyError("LoadGen's samples are not in the order in which it loaded them")
        self._session.step(self._library.batches[first])
        self._answer(ids)

    def _everything(self, ids: list[int], indices: list[int]) -> None:
        for first, queries in by_batch(ids, indices, self._library.run):
            self._session.step(self._library.batches[first])
            self._answer(queries)

    def _everything_queued(self, ids: list[int], indices: list[int]) -> None:
        queue = cast("AsynchronousSession", self._session)
        for first, queries in by_batch(ids, indices, self._library.run):
            queue.submit(self._library.batches[first], partial(self._answer, queries))
        queue.drain()

    def _with_labels(self, ids: list[int], indices: list[int]) -> None:
        session, response = self._session, self._response
        for start in range(0, len(ids), self._size):
            part = indices[start : start + self._size]
            logits = session.to_numpy(session.step(self._served.batch(part)))[: len(part)]
            labels = logits.argmax(axis=1).astype(np.uint8)
            # LoadGen copies the labels before it returns.
            address = labels.ctypes.data
            queries = ids[start : start + self._size]
            self._complete([response(query, address + place, 1) for place, query in enumerate(queries)])

    def _answer(self, ids: Sequence[int]) -> None:
        response = self._response
        self._complete([response(query, 0, 0) for query in ids])


def wake_on_time() -> None:
    """Let this thread be woken when it asked for it: by default the kernel may be 50 µs late."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)


class Server:
    """Answers queries in the order in which they come, in the thread that has built the sessions.

    LoadGen has a thread of its own: it must never wait for an answer, because the next query may be due.
    """

    def __init__(self, module: Any, served: Sequence[Served], library: Library, request: RunLoad) -> None:
        self._served, self._library, self._wait_ns = served, library, request.wait_ns
        # Queries, or None at the end; before them, the samples to load.
        self._queue: SimpleQueue[Query | None] = SimpleQueue()
        self._samples: SimpleQueue[list[int]] = SimpleQueue()
        self._loaded = Event()
        self._response, self._complete = module.QuerySampleResponse, module.QuerySamplesComplete
        self._asynchronous = request.asynchronous
        # From the issue of each query to its answer.
        self._times_ns: list[int] = []

    @property
    def mean_served_ns(self) -> float:
        return sum(self._times_ns) / max(1, len(self._times_ns))

    def load(self, indices: list[int]) -> None:
        """Let the other thread load the samples, and wait for it.

        PyTorch's modes belong to a thread: a tensor that this one makes would let compiled code be compiled again.
        """
        self._samples.put(indices)
        self._loaded.wait()

    def issue(self, ids: list[int], indices: list[int]) -> None:
        self._queue.put((ids[0], indices[0], now_ns()))

    def run(self, start: Callable[[], None], cores: Sequence[int]) -> None:
        """Answer queries until LoadGen, which `start` runs, has no more."""
        errors: list[BaseException] = []

        def run_loadgen() -> None:
            try:
                # The thread inherits the one core to which a framework may have bound this one.
                os.sched_setaffinity(0, cores)
                wake_on_time()
                start()
            except BaseException as error:  # noqa: BLE001 - raised again in the other thread
                errors.append(error)
                self._samples.put([])
            finally:
                self._queue.put(None)

        interval = sys.getswitchinterval()
        # How long LoadGen's thread waits at most for the interpreter, where a framework does not release it.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        thread = Thread(target=run_loadgen)
        thread.start()
        try:
            self._serve()
        except BaseException:  # noqa: BLE001 - LoadGen would wait for ever for the answer
            traceback.print_exc()
            os._exit(1)
        thread.join()
        sys.setswitchinterval(interval)
        if errors:
            raise errors[0]

    def _serve(self) -> None:
        self._library.load(self._samples.get())
        self._loaded.set()
        largest = self._served[-1].images.size
        while query := self._queue.get():
            batch = [query]
            if largest > 1:
                self._gather(batch, largest)
            if len(batch) == 1:
                session, prepared = self._served[0].session, self._library.batches[query[1]]
            else:
                served = next(served for served in self._served if served.images.size >= len(batch))
                session, prepared = served.session, served.batch([index for _, index, _ in batch])
            if self._asynchronous:
                cast("AsynchronousSession", session).submit(prepared, partial(self._answer, batch))
            else:
                session.step(prepared)
                self._answer(batch)

    def _gather(self, batch: list[Query], largest: int) -> None:
        """Add the queries that come while the first one may wait, until the batch is full."""
        deadline = now_ns() + self._wait_ns
        while len(batch) < largest:
            with suppress(Empty):
                query = self._queue.get(timeout=max(0, deadline - now_ns()) / 1e9)
                if query is None:
                    # For the next round, which ends with it.
                    self._queue.put(None)
                    return
                batch.append(query)
                continue
            return

    def _answer(self, batch: Sequence[Query]) -> None:
        response = self._response
        self._complete([response(query, 0, 0) for query, _, _ in batch])
        end_ns = now_ns()
        self._times_ns += [end_ns - issued_ns for _, _, issued_ns in batch]


def by_batch(ids: Sequence[int], indices: Sequence[int], run: dict[int, list[int]]) -> list[tuple[int, list[int]]]:
    """Return the first sample of each prepared batch, with the ids of the queries that it answers.

    Samples of an offline query may be answered in any order. Each batch is used as often as the samples in it are asked
    for. The last batch may have samples of the first one as well, whose queries that one has answered.
    """
    waiting: dict[int, list[int]] = {}
    for query, index in zip(ids, indices, strict=True):
        waiting.setdefault(index, []).append(query)
    uses: list[tuple[int, list[int]]] = []
    for first, samples in run.items():
        while queries := [waiting[index].pop() for index in samples if waiting.get(index)]:
            uses.append((first, queries))
    return uses
