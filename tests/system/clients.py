"""Clients that compare what comes back, and clients that leave a connection in a certain state.

An address is a host and a port, or a string: the path of a Unix socket, or `@` and its name.
"""

import os
import select
import socket
import struct
import time

from harness import LIMIT, require

DATA = os.urandom(16_000_000)
CALL = 1 << 18  # bytes, at most in one call


def connect(address, receive_buffer=None):
    is_unix = isinstance(address, str)
    if is_unix and address.startswith("@"):
        address = "\0" + address[1:]
    client = socket.socket(socket.AF_UNIX if is_unix else family_of(address))
    client.settimeout(LIMIT)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


def family_of(address):
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def name_of(client):
    """The name of the client's end of a connection in the output of strace(1)."""
    if client.family == socket.AF_UNIX:
        return str(os.fstat(client.fileno()).st_ino)
    host, port = client.getsockname()[:2]
    return f"[{host}]:{port}" if client.family == socket.AF_INET6 else f"{host}:{port}"


def receive(client, size):
    data = bytearray()
    while len(data) < size:
        chunk = client.recv(min(size - len(data), CALL))
        require(chunk, f"end of stream after {len(data)} of {size} bytes")
        data += chunk
    return bytes(data)


def exchange(client, data):
    """Sends a message that fits in the buffers, and receives its echo."""
    client.sendall(data)
    echoed = receive(client, len(data))
    require(echoed == data, f"{echoed[:30]!r} came back, not {data[:30]!r}")


def echo(address, data):
    """Sends all and half-closes; meanwhile receives until the end of the stream."""
    conversation = Conversation(address, data, window=len(data)).run()
    require(conversation.is_complete, conversation.problem)


class Conversation:
    """A connection that sends `data`, at most `window` bytes ahead of what has come back."""

    def __init__(self, address, data, window):
        self.address, self.data, self.window = address, memoryview(data), window
        self.name, self.sent, self.received = None, 0, 0
        self.is_half_closed = self.is_complete = False
        self.problem = None

    def run(self, is_hit=lambda name: False):
        """Ends at the end of the stream, at an error, or if nothing moves and a fault hit it."""
        deadline = time.monotonic() + LIMIT
        try:
            with connect(self.address) as client:
                self.name = name_of(client)
                client.setblocking(False)
                while not self.is_complete:
                    require(time.monotonic() < deadline, f"not over after {LIMIT} s: {self}")
                    if not self.wait(client) and is_hit(self.name):
                        self.problem = "nothing comes back"
                        break
                    self.move(client)
        except (OSError, AssertionError) as error:
            self.problem = repr(error)
        return self

    def __str__(self):
        return f"{len(self.data)} bytes, {self.sent} sent, {self.received} received"

    def may_send(self):
        return min(len(self.data), self.received + self.window, self.sent + CALL)

    def wait(self, client):
        poll = select.poll()
        to_send = select.POLLOUT if self.sent < self.may_send() else 0
        poll.register(client, select.POLLIN | to_send)
        return poll.poll(200)

    def move(self, client):
        self.send(client)
        try:
            chunk = client.recv(CALL)
        except BlockingIOError:
            return
        start, self.received = self.received, self.received + len(chunk)
        if self.data[start : self.received] != chunk:
            # Not a problem of this connection, which a fault may excuse: corrupted data.
            raise ValueError(f"other bytes after {start}")
        if not chunk:
            require(self.received == len(self.data), f"end of stream after {self.received} bytes")
            self.is_complete = True

    def send(self, client):
        try:
            if self.sent < self.may_send():
                self.sent += client.send(self.data[self.sent : self.may_send()])
        except BlockingIOError:
            return
        if self.sent == len(self.data) and not self.is_half_closed:
            client.shutdown(socket.SHUT_WR)
            self.is_half_closed = True


# UDP


def udp_client(service, address):
    """A connected client whose port none of the service's sockets has: those get no reply."""
    ports = {port for _, port in service.udp_addresses}
    while True:
        client = socket.socket(family_of(address), socket.SOCK_DGRAM)
        client.settimeout(LIMIT)
        client.connect(address)
        if client.getsockname()[1] not in ports:
            return client
        client.close()


def echo_datagram(service, address, data):
    with udp_client(service, address) as client:
        client.send(data)
        require(client.recv(65_536) == data, "another datagram came back")


# States of a connection. Each function returns a client that is in this state.


def idle(address):
    return connect(address)


def echoed(address):
    client = connect(address)
    exchange(client, DATA[:10])
    return client


def unread(address):
    """A message was sent, and nothing was received."""
    client = connect(address)
    client.sendall(DATA[:1_000])
    return client


def write_blocked(address):
    """The service cannot send more, as the client does not read."""
    client = connect(address, receive_buffer=4_096)
    fill(client, patience=0.01)
    return client


def streaming(address):
    client = connect(address)
    sent = received = 0
    client.setblocking(False)
    while received < 500_000:
        _, writable, _ = select.select([client], [client], [], LIMIT)
        if writable:
            sent += client.send(DATA[sent : sent + 200_000])
        try:
            chunk = client.recv(200_000)
        except BlockingIOError:
            continue
        require(chunk == DATA[received : received + len(chunk)] != b"", "other bytes in a stream")
        received += len(chunk)
    client.settimeout(LIMIT)
    return client


def half_closed(address):
    client = unread(address)
    client.shutdown(socket.SHUT_WR)
    return client


def write_blocked_and_half_closed(address):
    client = write_blocked(address)
    client.shutdown(socket.SHUT_WR)
    return client


STATES = [
    idle, echoed, unread, write_blocked, streaming, half_closed, write_blocked_and_half_closed
]


def fill(client, patience=0.05):
    """Sends until nothing is taken for `patience` seconds. Returns the number of bytes sent."""
    sent = 0
    client.setblocking(False)
    while sent < len(DATA) and select.select([], [client], [], patience)[1]:
        sent += client.send(DATA[sent : sent + 65_536])
    client.settimeout(LIMIT)
    return sent


def reset(client):
    """Closes the connection with a TCP reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
