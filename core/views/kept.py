"""What was computed from a table and will be asked for again, as long as it fits into a number of bytes.

A million examples are 12 MB a model, 4 MB a column and up to 40 MB a view, and every one of them can be computed
again from the files. So all of it lies in one place that has a size: what was not asked for longest goes first. Several
tables may share one `Kept` (the dashboard's do), and several threads one table.

Not here: which files an entry is of. A table is made anew when a file has changed (core/views/table.fingerprint), and
its number, a part of every key, with it.
"""

from __future__ import annotations

import ctypes
import itertools
import platform
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np

KEPT_BYTES = 450_000_000
M_ARENA_MAX = -8  # glibc's number of what `mallopt` sets
P = ParamSpec("P")
R = TypeVar("R")
_numbers = itertools.count()  # one for each table of this process


class Kept:
    """At most `limit` bytes of arrays. What is larger by itself is computed each time."""

    def __init__(self, limit: int = KEPT_BYTES):
        self.limit, self.n_bytes = limit, 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The value, or None."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Hashable, value: Any) -> None:
        size = size_of(value)
        with self._lock:
            self.n_bytes += size - self._entries.pop(key, (None, 0))[1]
            self._entries[key] = value, size
            while self.n_bytes > self.limit:
                self.n_bytes -= self._entries.popitem(last=False)[1][1]


class OfTable:
    """The part of a `Kept` that is one table's."""

    def __init__(self, kept: Kept | None = None):
        self._kept, self._number = kept or Kept(), next(_numbers)
        self._making: dict[Hashable, threading.Lock] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make()` gives, which is not None, kept under `key`. Arrays in it become read-only: they belong to all
        who ask. One thread makes a thing: two sessions that open a page need not compute it twice, nor hold its
        temporaries twice. What is made may ask for other keys, never for its own."""
        whole = (self._number, key)
        value = self._kept.get(whole)
        if value is None:
            # `setdefault` is one step: threads that come together get one lock.
            with self._making.setdefault(key, threading.Lock()):
                value = self._kept.get(whole)
                if value is None:
                    value = make()
                    for array in arrays_of(value):
                        array.flags.writeable = False
                    self._kept.put(whole, value)
            self._making.pop(key, None)
        return value


class HasKept(Protocol):
    kept: OfTable


T = TypeVar("T", bound=HasKept)


def kept(view: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """Decorates a view `f(table, rows=None, ...)`: what it says of all rows is kept with the table. Chosen rows are an
    array, which is no key, and are computed each time."""

    @wraps(view)
    def asked(table: T, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (view.__module__, view.__name__, args, tuple(sorted(kwargs.items())))
        try:
            hash(key)
        except TypeError:
            return view(table, *args, **kwargs)
        found: R = table.kept.once(key, lambda: view(table, *args, **kwargs))
        return found

    return asked


def arrays_of(value: Any) -> list[np.ndarray]:
    """The numpy arrays in a value, in tuples, lists and dictionaries too."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [array for part in value for array in arrays_of(part)] if isinstance(value, list | tuple) else []


def size_of(value: Any) -> int:
    """Bytes of its arrays, and something for the rest."""
    return 500 + sum(array.nbytes for array in arrays_of(value))


def use_few_pools() -> bool:
    """Has the threads of this process share two pools of memory; True where it can be told.

    glibc gives each of many threads a pool of its own otherwise, and what is freed in one serves no other: a server of
    twenty sessions ended 0.3 GB higher, and answered no faster (LOG.md, 1 December). Other C libraries are left as
    they are.
    """
    return platform.libc_ver()[0] == "glibc" and bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2))
