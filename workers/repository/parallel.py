"""A few threads that work off a row of tasks, with a bounded number of them on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


def in_parallel(tasks: Iterable[Callable[[], _Result]], threads: int) -> Generator[_Result, None, None]:
    """The results in the order of the tasks, which are pulled as threads become free.

    The first exception ends it. Close the generator (or exhaust it): tasks not begun are then dropped, those
    at work are waited for.
    """
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="repository")
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
