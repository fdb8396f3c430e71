"""A session as LoadGen's system under test. LoadGen makes the queries, takes the times, and gives its own verdict."""

from __future__ import annotations

import gc
import os
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np

from bench.clock import cpu_ns, now_ns
from bench.worker.messages import LoadReply
from bench.worker.process import NotReadyError, involuntary_switches, peak_memory_bytes, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from backends.protocol import AsynchronousSession, Session
    from bench.worker.messages import RunLoad

    # Called with the ids of a query's samples, and their places in the data set.
    Issue: TypeAlias = Callable[[list[int], list[int]], None]

ACCURACY_ONLY = "AccuracyOnly"
# LoadGen writes its files under names that begin with this.
PREFIX = "loadgen_"
# LoadGen reads settings from this file if it exists, and they replace those of the caller.
NO_AUDIT = "no-audit.config"


class Images(Protocol):
    """The test images as batches of a size."""

    @property
    def images(self) -> NDArray[np.uint8]: ...
    @property
    def size(self) -> int: ...
    def of(self, indices: Sequence[int]) -> NDArray[np.float32]: ...


class Library:
    """The samples that LoadGen has loaded, as batches that are ready for the session.

    A batch starts at every `stride`-th loaded sample. `run` holds the samples of a batch by the first of them.
    """

    def __init__(self, session: Session, images: Images, stride: int) -> None:
        self.batches: dict[int, Any] = {}
        self.run: dict[int, list[int]] = {}
        self._session, self._images, self._stride = session, images, stride

    def load(self, indices: Sequence[int]) -> None:
        """Prepare the batches; behind the last sample, the first ones follow."""
        size, following = self._images.size, [*indices, *indices[: self._images.size]]
        for start in range(0, len(indices), self._stride):
            # For multi-stream LoadGen itself lets the first samples follow the last one.
            if indices[start] not in self.batches:
                run = following[start : start + size]
                self.batches[run[0]], self.run[run[0]] = self.batch(run), run

    def unload(self, _: Sequence[int]) -> None:
        self.batches.clear()
        self.run.clear()

    def batch(self, indices: Sequence[int]) -> Any:
        """Return a prepared batch of samples; one that is not full is filled up with its first sample."""
        missing = self._images.size - len(indices)
        return self._session.prepare(self._images.of([*indices, *[indices[0]] * missing]))


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


def run_load(session: Session, images: Images, request: RunLoad) -> LoadReply:
    """Let LoadGen send its queries to a session; raises NotReadyError where LoadGen is not installed."""
    try:
        import mlperf_loadgen as module
    except ImportError as error:
        raise NotReadyError(f"mlcommons-loadgen can't be imported ({error})") from error
    total, stride = len(images.images), images.size if request.scenario == "Offline" else 1
    library = Library(session, images, stride)
    issue = guarded(SystemUnderTest(module, session, images, library).issuer(request))
    meter = Meter()
    settings, logs = module.TestSettings(), module.LogSettings()
    settings.scenario = getattr(module.TestScenario, request.scenario)
    settings.mode = getattr(module.TestMode, request.mode)
    for name, value in request.settings.items():
        # Integers and other numbers are different types for LoadGen.
        setattr(settings, name, type(getattr(settings, name))(value))
    logs.enable_trace = False
    logs.log_output.outdir, logs.log_output.prefix = request.folder, PREFIX
    logs.log_output.copy_summary_to_stdout = False

    def load(indices: list[int]) -> None:
        if request.mode != ACCURACY_ONLY:
            library.load(indices)
        meter.start()

    def unload(indices: list[int]) -> None:
        meter.stop()
        library.unload(indices)

    under_test = module.ConstructFastSUT(issue, lambda: None)
    samples = module.ConstructQSL(total, min(request.samples, total), load, unload)
    gc.collect()
    gc.disable()
    try:
        module.StartTestWithLogSettings(under_test, samples, settings, logs, str(Path(request.folder, NO_AUDIT)))
    finally:
        gc.enable()
        module.DestroyQSL(samples)
        module.DestroyFastSUT(under_test)
    return meter.reply(None)


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

    def __init__(self, module: Any, session: Session, images: Images, library: Library) -> None:
        self._session, self._size, self._library = session, images.size, library
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
            logits = session.to_numpy(session.step(self._library.batch(part)))[: len(part)]
            labels = logits.argmax(axis=1).astype(np.uint8)
            # LoadGen copies the labels before it returns.
            address = labels.ctypes.data
            queries = ids[start : start + self._size]
            self._complete([response(query, address + place, 1) for place, query in enumerate(queries)])

    def _answer(self, ids: Sequence[int]) -> None:
        response = self._response
        self._complete([response(query, 0, 0) for query in ids])


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
