"""Run coroutines from synchronous code, also where an event loop runs already."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")
# Time between two checks for a cancelled caller.
CANCEL_SECONDS = 0.5


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result.

    A notebook or a web server runs an event loop in the calling thread, and ``asyncio.run`` refuses
    to start a second one there. In that case the coroutine runs in its own thread, and an interrupt
    of the caller cancels it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    handle: Future[Any] = Future()

    async def cancellable() -> T:
        handle.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await coroutine

    caller = asyncio.current_task()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(copy_context().run, asyncio.run, cancellable())
        try:
            while not wait([result], timeout=CANCEL_SECONDS).done:
                # Ctrl+C under asyncio.run cancels the caller's task, which this call keeps busy.
                if caller is not None and caller.cancelling():
                    raise asyncio.CancelledError
            return result.result()
        except BaseException:
            loop, task = handle.result()
            # A loop that has ended needs no cancelling.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)
            raise
