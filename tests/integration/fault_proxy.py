# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of a server that knows nothing of its protocol. It forwards bytes until `fault` says otherwise:

    lose   what the server answers is swallowed and the connection cut: the request is done, its answer lost
    half   half of what a client sends is forwarded, then the connection is cut
    slow   each piece waits for 50 ms, in both directions
    None   nothing: it forwards

Addresses are paths of unix sockets or ports of the loopback; the target's is asked for at each connection. One thread of its own."""

import asyncio
import contextlib
import threading

PIECE = 1 << 16
SLOW_S = 0.05


class FaultProxy:
    def __init__(self, listen, target):
        self.listen, self.target = listen, target
        self.fault, self.cuts = None, 0
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        assert ready.wait(60), f"nobody listens at {listen}"

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        ready.set()
        self._loop.run_forever()

    async def _open(self):
        if isinstance(self.listen, int):
            await asyncio.start_server(self._serve, "127.0.0.1", self.listen)
        else:
            await asyncio.start_unix_server(self._serve, self.listen)

    async def _serve(self, client_reader, client):
        target = self.target()
        try:
            server_reader, server = await (asyncio.open_connection("127.0.0.1", target) if isinstance(target, int) else asyncio.open_unix_connection(target))
        except OSError:  # the server is away: so are we
            client.transport.abort()
            return
        both = (client, server)
        await asyncio.gather(self._pump(client_reader, server, both, "half"), self._pump(server_reader, client, both, "lose"))

    async def _pump(self, reader, writer, both, cutting):
        """One direction, and the fault that cuts it."""
        cut = False
        with contextlib.suppress(OSError):
            while not cut and (piece := await reader.read(PIECE)):
                cut = self.fault == cutting
                if self.fault == "slow":
                    await asyncio.sleep(SLOW_S)
                if not cut or cutting == "half":
                    writer.write(piece[: len(piece) // 2] if cut else piece)
                    await writer.drain()
        self.cuts += cut
        for side in both:
            side.transport.abort() if cut and cutting == "lose" else side.close()
