"""Other people's clients talk to the built program: OpenBSD netcat, socat, Python's socket.

usage: interop.py PROGRAM
"""

import hashlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading

from harness import connect, family_of

LIMIT = 120  # seconds, for each conversation
TEXT = b"hello, echo\nsecond line\n"
BULK = os.urandom(50_000_000)
STREAM_DATA = {"nothing": b"", "text": TEXT, "50 MB": BULK}


def pipe(*command, data):
    run = subprocess.run(command, input=data, stdout=subprocess.PIPE, timeout=LIMIT, check=True)
    return run.stdout


# Streams. All of these clients end by half-closing: without the end of the stream from the other
# side, none of them would end. `place` is a host and a port, or what a Unix socket is called.


def netcat(place, data):
    # -N: half-close at the end of the input.
    where = ["-U", place] if isinstance(place, str) else [place[0], str(place[1])]
    return pipe("nc", "-N", *where, data=data)


def socat(place, data):
    # -t: for how long to wait for the rest after the end of the input.
    return pipe("socat", f"-t{LIMIT}", "-", socat_address("TCP", place), data=data)


def socat_address(transport, place):
    if isinstance(place, str):
        kind = "ABSTRACT" if place.startswith("@") else "UNIX"
        return f"{kind}-CONNECT:{place.removeprefix('@')}"
    family, host = (6, f"[{place[0]}]") if ":" in place[0] else (4, place[0])
    return f"{transport}{family}:{host}:{place[1]}"


def python(place, data):
    with connect(place) as client:

        def send():
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = bytearray()
        while chunk := client.recv(65536):
            received += chunk
        sender.join()
        return bytes(received)


def python_line_by_line(place, data):
    with connect(place) as client:
        received = bytearray()
        for line in data.splitlines(keepends=True):
            client.sendall(line)
            answer = client.recv(len(line), socket.MSG_WAITALL)
            assert answer == line, f"{answer!r} came back of {line!r}"
            received += answer
        return bytes(received)


# Datagrams. Nothing ends these conversations but the time.


def netcat_udp(place, data):
    return pipe("nc", "-u", "-w1", place[0], str(place[1]), data=data)


def socat_udp(place, data):
    return pipe("socat", "-t1", "-", socat_address("UDP", place), data=data)


def python_udp(place, data):
    with socket.socket(family_of(place), socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.sendto(data, place)
        answer, source = client.recvfrom(65536)
        assert source[:2] == place, f"{source} answered"
        return answer


def conversations(streams, datagrams):
    for place in streams:
        for client in netcat, socat, python:
            if client == netcat and place[0] == "@":
                continue  # It knows no abstract names.
            for name, data in STREAM_DATA.items():
                yield client, place, name, data
        yield python_line_by_line, place, "text", TEXT
    for place in datagrams:
        for client in netcat_udp, socat_udp:
            yield client, place, "text", TEXT
        for size in 0, 1, 1_472, 8_000, 65_507:
            yield python_udp, place, f"{size} bytes", BULK[:size]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def try_all(streams, datagrams):
    passed = failed = 0
    for client, place, name, data in conversations(streams, datagrams):
        try:
            echoed = client(place, data)
            problem = None if digest(echoed) == digest(data) else f"{len(echoed)} other bytes"
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            problem = repr(error)
        host = place if isinstance(place, str) else place[0]
        print(f"{client.__name__} to {host}: {name}: {problem or 'ok'}", flush=True)
        passed, failed = passed + (problem is None), failed + (problem is not None)
    print(f"{passed} passed, {failed} failed")
    return failed == 0


def places(log, count):
    """Where the service listens: for streams, and for datagrams."""
    streams, datagrams = [], []
    while len(streams) + len(datagrams) < count:
        line = log.readline()
        assert line, "the service has ended"
        if unix := re.search(r"listening on unix:(.*)$", line):
            streams.append(unix[1])
        elif ip := re.search(r"listening on (tcp|udp)://(.*):(\d+)$", line):
            place = ip[2].strip("[]"), int(ip[3])
            (streams if ip[1] == "tcp" else datagrams).append(place)
    return streams, datagrams


def main(program):
    with tempfile.TemporaryDirectory() as directory:
        unix = [f"unix:{directory}/socket", f"unix:@mio-echo-{os.getpid()}"]
        command = [program, "127.0.0.1:0", "[::1]:0", *unix]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
            try:
                good = try_all(*places(service.stderr, count=6))
            finally:
                service.terminate()
            log = service.stderr.read()
        print(log, end="")
        left_behind = os.listdir(directory)
        print(f"left behind: {left_behind or 'nothing'}")
    return 0 if good and service.returncode == 0 and not left_behind else 1


sys.exit(main(sys.argv[1]))
