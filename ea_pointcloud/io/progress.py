"""Progress of loops that may take long: the library reports it, a listener shows it."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Listener = Callable[[str, int, int], None]  # what, done, total; done == total at the end

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


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
