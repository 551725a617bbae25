"""A client that leaves takes its request along: what was not begun for it is not computed."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LeavesWithClient:
    """Cancels the application when the client closes the connection. It stands where the body is one message."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request until it is answered, or nobody waits for the answer."""
        messages = [await receive()]
        leaving = asyncio.create_task(_until_left(receive))

        async def replayed() -> Message:
            return messages.pop() if messages else await asyncio.shield(leaving)

        working = asyncio.ensure_future(self.app(scope, replayed, send))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also when this task is cancelled, as at the end of a stop
            working.cancel()
            leaving.cancel()
            await asyncio.wait({working, leaving})
        (leaving if working.cancelled() else working).result()


async def _until_left(receive: Receive) -> Message:
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message
