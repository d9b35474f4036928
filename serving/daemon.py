"""Work that may take minutes and is nobody's any more when the server ends: in a thread that keeps no process alive."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


async def in_thread_of_its_own(work: Callable[[], None]) -> None:
    """Runs what blocks, and returns when it has; raises what it raises.

    Unlike the threads of `asyncio.to_thread`, this one is not waited for at the end of the loop or of the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.done():  # who waited has left
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the one who waits gets it
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True, name="remote repository").start()
    await done
