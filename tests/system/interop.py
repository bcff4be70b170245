"""Other clients talk to the built program: OpenBSD netcat, socat, Python's socket module."""

import os
import socket
import subprocess
import tempfile
import threading

import harness
from clients import DATA, connect, exchange, family_of
from harness import LIMIT, Check, require
from service import Service

TEXT = b"hello, echo\nsecond line\n"
STREAMS = {"nothing": b"", "text": TEXT, "48 MB": DATA * 3}
DATAGRAM_SIZES = 0, 1, 1_472, 8_000, 65_507
ENDPOINTS = {
    "IPv4": "127.0.0.1:0",
    "IPv6": "[::1]:0",
    "a socket file": "unix:{directory}/socket",
    "an abstract socket": f"unix:@mio-echo-{os.getpid()}-{{name}}",
}


def pipe(*command, data):
    run = subprocess.run(command, input=data, stdout=subprocess.PIPE, timeout=LIMIT, check=True)
    return run.stdout


# Streams. All of these clients half-close at the end of their input, and end when the service ends
# the stream from its side.


def netcat(address, data):
    # -N: half-close at the end of the input.
    target = ["-U", address] if isinstance(address, str) else [address[0], str(address[1])]
    return pipe("nc", "-N", *target, data=data)


def socat(address, data):
    # -t: how long to wait for the rest after the end of the input.
    return pipe("socat", f"-t{LIMIT}", "-", socat_address("TCP", address), data=data)


def socat_address(transport, address):
    if isinstance(address, str):
        kind = "ABSTRACT" if address.startswith("@") else "UNIX"
        return f"{kind}-CONNECT:{address.removeprefix('@')}"
    family, host = (6, f"[{address[0]}]") if ":" in address[0] else (4, address[0])
    return f"{transport}{family}:{host}:{address[1]}"


def python(address, data):
    with connect(address) as client:

        def send():
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = bytearray()
        while chunk := client.recv(65_536):
            received += chunk
        sender.join()
        return bytes(received)


def python_line_by_line(address, data):
    with connect(address) as client:
        for line in data.splitlines(keepends=True):
            exchange(client, line)
    return data


# Datagrams. Only time ends the first two clients.


def netcat_udp(address, data):
    return pipe("nc", "-u", "-w2", address[0], str(address[1]), data=data)


def socat_udp(address, data):
    return pipe("socat", "-t2", "-", socat_address("UDP", address), data=data)


def python_udp(address, data):
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.sendto(data, address)
        reply, source = client.recvfrom(65_536)
        require(source[:2] == address, f"the reply came from {source}")
        return reply


def all_bytes_come_back(program, endpoint, client, data):
    """And the service leaves no socket file behind."""
    with tempfile.TemporaryDirectory() as directory:
        name = threading.get_ident()
        with Service(program, endpoint.format(directory=directory, name=name)) as service:
            echoed = client(service.address, data)
            require(echoed == data, f"{len(echoed)} other bytes came back, not these {len(data)}")
            service.stop()
        left = os.listdir(directory)
        require(not left, f"left behind: {left}")


def conversations():
    """The client, the kind of endpoint, and the data with its name."""
    for kind in ENDPOINTS:
        for client in netcat, socat, python:
            if client == netcat and kind == "an abstract socket":
                continue  # It knows no abstract names.
            for name, data in STREAMS.items():
                yield client, kind, name, data
        yield python_line_by_line, kind, "text", TEXT
    for kind in "IPv4", "IPv6":
        for client in netcat_udp, socat_udp:
            yield client, kind, "text", TEXT
        for size in DATAGRAM_SIZES:
            yield python_udp, kind, f"{size} bytes", DATA[:size]


def checks(options):
    for client, kind, name, data in conversations():
        # Without a scheme, an endpoint is TCP and UDP.
        arguments = options.program, ENDPOINTS[kind], client, data
        name = f"{client.__name__} to {kind}: {name}"
        yield Check(all_bytes_come_back, *arguments, name=name, is_concurrent=True)


if __name__ == "__main__":
    harness.main(__doc__, checks)
