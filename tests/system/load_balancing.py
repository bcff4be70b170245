"""More than one process and more than one host: one of them goes, and new connections are served.

usage: load_balancing.py PROGRAM

Two processes share a port; and HAProxy stands before two that have one each, and asks them for an
echo. Needs the package haproxy.
"""

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import harness
from harness import require

LIMIT = 30  # seconds, for each wait
wait_until = functools.partial(harness.wait_until, limit=LIMIT)
CONNECTIONS = 200  # each time that some are tried

HAPROXY = """\
global
    stats socket {directory}/admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 30s
    timeout server 30s
frontend all
    bind fd@{listener}
    default_backend instances
backend instances
    balance roundrobin
    # Who is sent to one that has just died, and is refused there, is sent to the other.
    option redispatch 1
    retries 3
    # An instance is healthy if it echoes. One that accepts and does nothing is not.
    option tcp-check
    timeout check 500ms
    tcp-check connect
    tcp-check send are-you-there
    tcp-check expect string are-you-there
    default-server check inter 200ms fall 1 rise 1
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""


class Service:
    """The program, which logs each connection."""

    def __init__(self, program, *arguments):
        command = [program, "-v", "--drain-timeout", "100ms", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.opened = 0
        for line in self.process.stderr:
            if listening := re.search(r"listening on tcp://.*:(\d+)$", line):
                self.port = int(listening[1])
                break
        else:
            raise AssertionError("it does not listen")
        threading.Thread(target=self.count, daemon=True).start()

    def count(self):
        for line in self.process.stderr:
            self.opened += "opened as" in line

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()


def echo(port):
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        client.sendall(b"hello")
        answer = client.recv(5, socket.MSG_WAITALL)
        require(answer == b"hello", f"{answer!r} came back")


def all_are_served(port):
    for number in range(CONNECTIONS):
        try:
            echo(port)
        except (OSError, AssertionError) as error:
            raise AssertionError(f"connection {number} of {CONNECTIONS}: {error!r}") from error


def a_port_is_shared(program):
    with Service(program, "tcp://127.0.0.1:0", "--reuse-port") as first:
        place = f"tcp://127.0.0.1:{first.port}"
        with Service(program, place, "--reuse-port") as second:
            all_are_served(first.port)
            wait_until(lambda: first.opened + second.opened == CONNECTIONS, "all are logged")
            require(first.opened and second.opened, "one of them has them all")
            first.kill()
            all_are_served(second.port)


class Balancer:
    """HAProxy before two instances."""

    def __init__(self, directory, *instances):
        self.admin = f"{directory}/admin"
        a, b = (instance.port for instance in instances)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port, listener = server.getsockname()[1], server.fileno()
            with open(f"{directory}/haproxy.cfg", "w", encoding="utf-8") as file:
                file.write(HAPROXY.format(directory=directory, listener=listener, a=a, b=b))
            command = ["haproxy", "-db", "-q", "-f", file.name]
            self.process = subprocess.Popen(command, pass_fds=[listener])
        wait_until(lambda: self.states() == ["UP", "UP"], "HAProxy runs")

    def states(self):
        """What it holds of the instances."""
        try:
            with socket.socket(socket.AF_UNIX) as admin:
                admin.connect(self.admin)
                admin.sendall(b"show stat\n")
                said = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        except OSError:
            return None
        rows = [line.split(",") for line in said.splitlines()]
        # "L4TOUT" and the like are in other columns; this one is "UP", "DOWN" or on the way.
        return [row[17] for row in rows if row[0] == "instances" and row[1] in "ab"]

    def wait_for(self, *states):
        wait_until(lambda: self.states() == list(states), f"HAProxy holds them for {states}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(LIMIT)


@contextlib.contextmanager
def balanced(program):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        instances = [stack.enter_context(Service(program, "tcp://127.0.0.1:0")) for _ in "ab"]
        yield stack.enter_context(Balancer(directory, *instances)), *instances


def one_is_killed(program):
    with balanced(program) as (balancer, first, second):
        before = first.opened, second.opened
        all_are_served(balancer.port)
        # HAProxy's own questions are few.
        share = CONNECTIONS // 3
        wait_until(lambda: first.opened > before[0] + share, "the first has its share")
        wait_until(lambda: second.opened > before[1] + share, "the second has its share")
        first.kill()
        # At once: HAProxy does not know of it yet.
        all_are_served(balancer.port)
        balancer.wait_for("DOWN", "UP")
        place = f"tcp://127.0.0.1:{first.port}"
        with Service(program, place) as again:
            balancer.wait_for("UP", "UP")
            before = again.opened
            all_are_served(balancer.port)
            wait_until(lambda: again.opened > before + share, "it has its share again")


def one_hangs(program):
    """It still accepts, as far as the system does that for it."""
    with balanced(program) as (balancer, _, second):
        second.signal(signal.SIGSTOP)
        balancer.wait_for("UP", "DOWN")
        all_are_served(balancer.port)
        second.signal(signal.SIGCONT)
        balancer.wait_for("UP", "UP")


def main(program):
    failed = 0
    checks = a_port_is_shared, one_is_killed, one_hangs
    for check in checks:
        try:
            check(program)
            problem = None
        except (OSError, AssertionError, subprocess.SubprocessError) as failure:
            problem = repr(failure)
            failed += 1
        print(f"{check.__name__}: {problem or 'ok'}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main(sys.argv[1]))
