"""An echo server as one writes it with asyncio: asyncio_echo.py asyncio|uvloop tcp|udp HOST PORT"""

import asyncio
import sys


class Stream(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    # A peer that does not read is not read from, until it does.
    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.transport.sendto(data, peer)


async def serve(transport, host, port):
    loop = asyncio.get_running_loop()
    if transport == "tcp":
        # TCP_NODELAY is set by both loops.
        await loop.create_server(Stream, host, port, backlog=1024)
    else:
        await loop.create_datagram_endpoint(Datagrams, local_addr=(host, port))
    await asyncio.Event().wait()


def main():
    kind, transport, host, port = sys.argv[1:]
    if kind == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(serve(transport, host, int(port)))


main()
