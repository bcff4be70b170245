"""Other people's clients talk to the built program: OpenBSD netcat, socat, Python's socket.

usage: peers.py PROGRAM
"""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading

LIMIT = 120  # seconds, for each conversation
TEXT = b"hello, echo\nsecond line\n"
BULK = os.urandom(50_000_000)


def netcat(address, data):
    # -N: half-close at the end of the input.
    return pipe(["nc", "-N", address[0], str(address[1])], data)


def socat(address, data):
    family, host = ("TCP6", f"[{address[0]}]") if ":" in address[0] else ("TCP4", address[0])
    # -t: for how long to wait for the rest after the end of the input.
    return pipe(["socat", f"-t{LIMIT}", "-", f"{family}:{host}:{address[1]}"], data)


def pipe(command, data):
    run = subprocess.run(command, input=data, stdout=subprocess.PIPE, timeout=LIMIT, check=True)
    return run.stdout


def python(address, data):
    with socket.create_connection(address, timeout=LIMIT) as client:

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


def python_line_by_line(address, data):
    with socket.create_connection(address, timeout=LIMIT) as client:
        received = bytearray()
        for line in data.splitlines(keepends=True):
            client.sendall(line)
            answer = client.recv(len(line), socket.MSG_WAITALL)
            assert answer == line, f"{answer!r} came back of {line!r}"
            received += answer
        return bytes(received)


def conversations(addresses):
    for address in addresses:
        for client in (netcat, socat, python):
            # All of them end by half-closing: without the end of the stream from the other side,
            # none of them would end.
            yield client, address, "nothing", b""
            yield client, address, "text", TEXT
            yield client, address, "50 MB", BULK
        yield python_line_by_line, address, "text", TEXT


def digest(data):
    return hashlib.sha256(data).hexdigest()


def try_all(addresses):
    passed = failed = 0
    for client, address, name, data in conversations(addresses):
        try:
            echoed = client(address, data)
            problem = None if digest(echoed) == digest(data) else f"{len(echoed)} other bytes"
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            problem = repr(error)
        print(f"{client.__name__} to {address[0]}: {name}: {problem or 'ok'}", flush=True)
        passed, failed = passed + (problem is None), failed + (problem is not None)
    print(f"{passed} passed, {failed} failed")
    return failed == 0


def main(program):
    command = [program, "127.0.0.1:0", "[::1]:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        try:
            addresses = []
            while len(addresses) < 2:
                line = service.stderr.readline()
                host, port = re.search(r"listening on tcp://(.*):(\d+)", line).groups()
                addresses.append((host.strip("[]"), int(port)))
            good = try_all(addresses)
        finally:
            service.terminate()
        log = service.stderr.read()
    print(log, end="")
    return 0 if good and service.returncode == 0 else 1


sys.exit(main(sys.argv[1]))
