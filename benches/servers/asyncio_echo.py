"""A plain asyncio echo server, on the standard event loop or on uvloop.

Usage: asyncio_echo.py asyncio|uvloop tcp|udp HOST PORT
"""

import asyncio
import sys


class StreamEcho(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    # Back-pressure: while the write buffer is full, stop reading.
    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.transport.sendto(data, peer)


async def serve(transport, host, port):
    loop = asyncio.get_running_loop()
    if transport == "tcp":
        # Both event loops set TCP_NODELAY themselves.
        await loop.create_server(StreamEcho, host, port, backlog=1024)
    else:
        await loop.create_datagram_endpoint(DatagramEcho, local_addr=(host, port))
    await asyncio.Event().wait()


def main():
    event_loop, transport, host, port = sys.argv[1:]
    if event_loop == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(serve(transport, host, int(port)))


main()
