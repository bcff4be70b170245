"""System calls of the built program fail, one way after the other; what it promises holds.

usage: faults.py PROGRAM

strace(1) puts the errors in the place of the calls. Needs strace, and the right to trace.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

LIMIT = 60  # seconds, for each conversation
BULK = os.urandom(16_000_000)


class Service:
    """The program under strace, which injects `fault`."""

    def __init__(self, program, fault, *arguments):
        call = fault.partition(":")[0]
        strace = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={fault}"]
        command = [*strace, program, "tcp://127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if listening := re.search(r"listening on tcp://(.*):(\d+)$", line):
                self.place = listening[1], int(listening[2])
                break
        else:
            raise AssertionError("".join(self.log) or "it has ended")
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr))
        self.reader.start()

    def signal(self, number):
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(children, encoding="ascii") as file:
            (pid,) = file.read().split()
        os.kill(int(pid), number)

    def stop(self):
        """Ends it, and gives its log."""
        self.signal(signal.SIGTERM)
        status = self.process.wait(LIMIT)
        self.reader.join()
        log = "".join(self.log)
        require(status == 0, f"exit status {status}\n{log}")
        require("panic" not in log, log)
        return log


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def echo(place, data):
    """Sends `data` and half-closes, and meanwhile reads to the end of the stream."""
    with socket.create_connection(place, timeout=LIMIT) as client:
        def send():
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        echoed = b"".join(iter(lambda: client.recv(1 << 20), b""))
        sender.join()
    require(echoed == data, f"{len(echoed)} other bytes instead of {len(data)}")


def splice_is_refused(program, error, when):
    """Bytes are read and written instead, for good, and one line says so."""
    service = Service(program, f"splice:error={error}:when={when}")
    for _ in range(3):
        echo(service.place, BULK)
    log = service.stop()
    require(log.count("no zero copy") == 1, log)


def no_pipe_is_to_be_had(program, error, when):
    service = Service(program, f"pipe2:error={error}:when={when}")
    echo(service.place, BULK)
    service.stop()


def connections_are_lost_among_those_that_are_refused(program, error, when):
    """Somebody is dealt with, so accepting goes on without a pause."""
    service = Service(program, f"accept4:error={error}:when={when}", "--allow", "192.0.2.1")
    service.signal(signal.SIGSTOP)
    clients = [socket.create_connection(service.place, timeout=LIMIT) for _ in range(100)]
    service.signal(signal.SIGCONT)
    for client in clients:
        try:
            require(client.recv(1) is None, "not refused")
        except ConnectionResetError:
            client.close()
    log = service.stop()
    require("cannot accept" not in log, log)


def checks():
    # The first call is one into a pipe, the second one out of it again.
    for error in "EPERM", "ENOSYS", "EINVAL":
        for when in "1", "2+", "10+", "11+":
            yield splice_is_refused, error, when
    for error in "EMFILE", "ENFILE", "ENOMEM":
        yield no_pipe_is_to_be_had, error, "1+"
    # Every other call.
    yield connections_are_lost_among_those_that_are_refused, "ECONNABORTED", "2+2"


def main(program):
    failed = 0
    for check, error, when in checks():
        try:
            check(program, error, when)
            problem = None
        except (OSError, AssertionError, subprocess.SubprocessError) as failure:
            problem = repr(failure)
            failed += 1
        print(f"{check.__name__}: {error} at call {when}: {problem or 'ok'}", flush=True)
    return 1 if failed else 0


sys.exit(main(sys.argv[1]))
