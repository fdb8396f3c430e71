"""LoadGen in a process of its own, which hands the queries to workers over sockets."""

from __future__ import annotations

import gc
import os
import socket
import time
import traceback
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.clock import cpu_ns, now_ns
from bench.worker.loadgen import Library, Meter, by_batch, load_test, loadgen_module, runs_of, wake_on_time
from bench.worker.messages import AnswerReply
from bench.worker.process import NotReadyError, involuntary_switches
from models.timeouts import LONGER, timeout_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.worker.loadgen import Served
    from bench.worker.messages import AnswerLoad, LoadReply, RunLoad

    # The first sample of a batch, the ids of its queries, and when they were issued.
    Work = tuple[int, Sequence[int], int]

# A message keeps its bounds: the samples to load, or the first sample of a batch. The answer is one byte.
KIND = socket.SOCK_SEQPACKET
MOST_MESSAGE_BYTES, DONE = 1 << 18, b"."
LISTEN_TIMEOUT_S, CONNECT_STEP_S = 60.0, 0.01


def answer_load(served: Served, request: AnswerLoad) -> AnswerReply:
    """Load the samples of the first message, then answer one batch for each further message."""
    library, cpu_before, switches = Library(served, request.stride), 0, 0
    with socket.socket(socket.AF_UNIX, KIND) as listener:
        listener.bind(request.address)
        listener.listen(1)
        connection, _ = listener.accept()
    Path(request.address).unlink()
    gc.collect()
    gc.disable()
    try:
        with connection:
            while message := connection.recv(MOST_MESSAGE_BYTES):
                numbers = np.frombuffer(message, np.int32)
                if library.batches:
                    served.session.step(library.batches[int(numbers[0])])
                else:
                    library.load(numbers.tolist())
                    cpu_before, switches = cpu_ns(), involuntary_switches()
                connection.send(DONE)
    finally:
        gc.enable()
    return AnswerReply(cpu_ns() - cpu_before, involuntary_switches() - switches)


def run_load_by_workers(request: RunLoad) -> LoadReply:
    """Let LoadGen send its queries to the workers at the addresses; each answers one batch at a time."""
    os.sched_setaffinity(0, request.cores)
    module, meter = loadgen_module(), Meter()
    workers = Workers(module, request)

    def load(indices: list[int]) -> None:
        workers.load(indices)
        meter.start()

    def unload(_: list[int]) -> None:
        meter.stop()

    with workers, load_test(module, request, request.total, workers.issue, load, unload) as start:
        wake_on_time()
        start()
    return meter.reply(workers.mean_served_ns if request.scenario == "Server" else None)


class Workers:
    """The connections to the workers, and a thread for each, which takes the next batch when its worker is free."""

    def __init__(self, module: Any, request: RunLoad) -> None:
        self._response, self._complete = module.QuerySampleResponse, module.QuerySamplesComplete
        self._size, self._is_offline = request.batch_size, request.scenario == "Offline"
        self._run: dict[int, list[int]] = {}
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._times_ns: list[int] = []
        self._connections = [_connect(address) for address in request.addresses]
        self._threads = [Thread(target=self._guarded, args=(connection,)) for connection in self._connections]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._queue.put(None)
        for thread, connection in zip(self._threads, self._connections, strict=True):
            thread.join()
            connection.close()

    @property
    def mean_served_ns(self) -> float:
        return sum(self._times_ns) / max(1, len(self._times_ns))

    def load(self, indices: list[int]) -> None:
        self._run = runs_of(indices, self._size, self._size if self._is_offline else 1)
        message = np.array(indices, np.int32).tobytes()
        for connection in self._connections:
            connection.send(message)
        for connection in self._connections:
            _await(connection)

    def issue(self, ids: list[int], indices: list[int]) -> None:
        issued_ns = now_ns()
        batches = by_batch(ids, indices, self._run) if self._is_offline else [(indices[0], ids)]
        for first, queries in batches:
            self._queue.put((first, queries, issued_ns))

    def _guarded(self, connection: socket.socket) -> None:
        try:
            self._work(connection)
        except BaseException:  # noqa: BLE001 - LoadGen would wait for ever for the answer
            traceback.print_exc()
            os._exit(1)

    def _work(self, connection: socket.socket) -> None:
        response = self._response
        while work := self._queue.get():
            first, queries, issued_ns = work
            connection.send(np.int32(first).tobytes())
            _await(connection)
            self._complete([response(query, 0, 0) for query in queries])
            self._times_ns.append(now_ns() - issued_ns)


def _await(connection: socket.socket) -> None:
    if connection.recv(1) != DONE:
        raise NotReadyError("a worker that answers LoadGen's queries has ended")


def _connect(address: str) -> socket.socket:
    """Return a connection to a worker, which may not listen yet."""
    limit_s = LISTEN_TIMEOUT_S * timeout_factor()
    deadline = now_ns() + int(limit_s * 1e9)
    while True:
        connection = socket.socket(socket.AF_UNIX, KIND)
        with suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect(address)
            return connection
        connection.close()
        if now_ns() > deadline:
            raise NotReadyError(f"the worker at {address} does not listen after {limit_s:g} s; {LONGER}")
        time.sleep(CONNECT_STEP_S)
