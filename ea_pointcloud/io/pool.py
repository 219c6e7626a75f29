"""Long loops over many items: in worker processes that may die, and with their progress shown."""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Listener = Callable[[str, int, int], None]  # what, done, total; done == total at the end

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@dataclass(frozen=True)
class WorkerDied:
    """In place of a result: the process that worked on the item ended (crash, out of memory)."""


FEW = 64  # items that are done before a worker has started
_MAX_WORKERS = 16  # one network cannot answer what more of them read


def default_workers(items: int) -> int:
    """Processes for this number of items: none for a few, else one a core except for our own."""
    return 0 if items < FEW else min(_MAX_WORKERS, max(1, usable_cores() - 1))


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    ahead: int,
    preload: Sequence[str] = (),
) -> Generator[tuple[Item, Result | WorkerDied], None, None]:
    """Yield each item with what ``function`` returns for it, in order, computed ahead of its use.

    A worker that dies costs the item it was at and is replaced. What ``function`` raises is raised
    here. Workers have one thread for torch, do not hear Ctrl-C, and end with this process.

    Args:
        function: importable by name in a fresh process, as are its arguments and results.
        items: taken from only as far as needed, so it may be endless.
        workers: processes; 0 calls ``function`` here, when the item's turn comes.
        ahead: items that are waiting, worked on or done but not yet taken; bounds the memory.
        preload: modules that processes find imported where the system can fork them.

    Raises:
        ChildProcessError: if a worker ends before it is given an item.
    """
    if workers == 0:
        for item in items:
            yield item, function(item)
        return
    pool = [_Worker(function, preload) for _ in range(workers)]
    flight: deque[_Task[Item, Result]] = deque()
    source = iter(items)
    try:
        while True:
            for item in islice(source, ahead - len(flight)):
                _assign(item, pool, flight)
            if not flight:
                break
            yield flight[0].item, _first_result(flight)
            flight.popleft()
    finally:
        for worker in pool:
            worker.stop(now=bool(flight))


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Keep Ctrl-C until the end of the block, and for good from processes started inside.

    For imports of torch, which lose an interrupt or abort the process if it comes while their
    native part starts.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not (hasattr(signal, "pthread_sigmask") and in_main and callable(handler)):
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    # The mask is this thread's alone: what another thread is handed arrives here all the same.
    signal.signal(signal.SIGINT, lambda *args: heard.append(args))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
        if heard:
            handler(*heard[0])


def import_ahead(preload: Sequence[str]) -> None:
    """Let the process that workers are forked from import modules while this one does the same.

    Returns at once. Without this it happens when the first worker is started, which then waits.
    """
    context = _context(preload)
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        resource_tracker.ensure_running()  # it unmasks the interrupts that the next line masks
        with without_interrupts():
            forkserver.ensure_running()


def _context(preload: Sequence[str]) -> BaseContext:
    methods = multiprocessing.get_all_start_methods()
    # Not "fork": this process has threads of torch and numba, perhaps a GPU.
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(list(preload))
    return context


@dataclass(eq=False)
class _Task(Generic[Item, Result]):
    item: Item
    worker: "_Worker"
    future: "Future[Result]"
    died: bool = False


class _Worker:
    """A process of its own, so that what it was at when it died is known: the first unanswered.

    In a pool of several, the standard library gives up everything that any of them was given.
    """

    def __init__(self, function: Callable[[Any], Any], preload: Sequence[str]) -> None:
        self._function, self._preload = function, preload
        self.start()

    def start(self) -> None:
        self.executor = ProcessPoolExecutor(
            1,
            mp_context=_context(self._preload),
            initializer=_begin,
            initargs=(self._function,),
        )
        with without_interrupts():
            self.pid = self.executor.submit(os.getpid)

    def submit(self, item: Any) -> "Future[Any]":
        return self.executor.submit(_call, item)

    def stop(self, *, now: bool) -> None:
        if now and self.pid.done() and self.pid.exception() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid.result(), signal.SIGTERM)
        self.executor.shutdown(cancel_futures=True)


def _assign(item: Item, pool: list[_Worker], flight: "deque[_Task[Item, Any]]") -> None:
    """Give an item to the worker that has the least to do."""
    waiting = Counter(task.worker for task in flight if not task.future.done())
    worker = min(pool, key=lambda each: waiting[each])
    try:
        future = worker.submit(item)
    except BrokenProcessPool:
        _replace(worker, flight)
        future = worker.submit(item)
    flight.append(_Task(item, worker, future))


def _first_result(flight: "deque[_Task[Any, Result]]") -> Result | WorkerDied:
    first = flight[0]
    while not first.died:
        try:
            return first.future.result()
        except BrokenProcessPool:
            _replace(first.worker, flight)
    return WorkerDied()


def _replace(worker: _Worker, flight: "deque[_Task[Any, Any]]") -> None:
    """Start the process of a dead worker again, with what it had left except for the first."""
    if worker.pid.exception() is not None:
        raise ChildProcessError(
            "a worker process ended at its start: memory is short, or a script starts it outside "
            "if __name__ == '__main__'; workers=0 (--workers 0) works without"
        )
    own = [task for task in flight if task.worker is worker and not task.died]
    lost = [task for task in own if isinstance(task.future.exception(), BrokenProcessPool)]
    worker.stop(now=False)
    worker.start()
    for place, task in enumerate(lost):
        task.died = place == 0
        if not task.died:
            task.future = worker.submit(task.item)


_function: Callable[[Any], Any]


def _begin(function: Callable[[Any], Any]) -> None:
    """What a new process does first."""
    import torch

    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be masked
    torch.set_num_threads(1)  # there is a process for each core
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when its parent has, even if that was killed."""
    wait([sentinel])
    os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, report every progress to ``listener``, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Report work in the block; call what it yields with each amount that is done."""
    listener, done = _listener.get(), 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        if listener is not None and done < total:  # the end is that of the block
            listener(what, done, total)

    try:
        advance(0)
        yield advance
    finally:
        if listener is not None:
            listener(what, total, total)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield each item, and report how many of them are done; ``total`` is their number."""
    count = len(items) if total is None and isinstance(items, Sized) else total or 0
    with progress(what, count) as advance:
        for item in items:
            yield item
            advance(1)
