"""Several processes: one is killed or hangs, and new connections are served.

Two processes share a port, or HAProxy distributes connections to two with a port each, and checks
their health by an echo. Needs the package haproxy.
"""

import contextlib
import signal
import socket
import subprocess
import tempfile

import harness
from clients import connect, exchange
from harness import LIMIT, require, wait_until
from service import Service

CONNECTIONS = 200  # in each round

HAPROXY = """\
global
    stats socket {directory}/admin
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend all
    bind fd@{listener}
    default_backend instances
backend instances
    balance roundrobin
    # A connection that a dead instance refuses goes to the other one.
    option redispatch 1
    retries 3
    # An instance is healthy if it echoes. One that accepts and does nothing is not.
    option tcp-check
    timeout check 2s
    tcp-check connect
    tcp-check send are-you-there
    tcp-check expect string are-you-there
    default-server check inter 200ms fall 1 rise 1
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""


class Instance(Service):
    """A service over TCP that logs each connection."""

    def __init__(self, program, port=0, *arguments):
        endpoint = f"tcp://127.0.0.1:{port}"
        super().__init__(program, endpoint, "-v", "--drain-timeout=100ms", *arguments)
        self.port = self.address[1]

    def opened(self):
        """The number of connections until now."""
        return self.log().count("): opened")

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(LIMIT)


def require_echoes(port):
    for number in range(CONNECTIONS):
        try:
            with connect(("127.0.0.1", port)) as client:
                exchange(client, b"hello")
        except (OSError, AssertionError) as error:
            raise AssertionError(f"connection {number} of {CONNECTIONS}: {error!r}") from error


def shared_port_is_served_after_one_process_is_killed(program):
    with Instance(program, 0, "--reuse-port") as first:
        with Instance(program, first.port, "--reuse-port") as second:
            require_echoes(first.port)
            wait_until(
                lambda: first.opened() + second.opened() == CONNECTIONS, "the logs are complete"
            )
            require(first.opened() and second.opened(), "one process has all connections")
            first.kill()
            require_echoes(second.port)


class Balancer:
    """HAProxy in front of two instances."""

    def __init__(self, directory, *instances):
        self.admin = f"{directory}/admin"
        a, b = (instance.port for instance in instances)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port, listener = server.getsockname()[1], server.fileno()
            with open(f"{directory}/haproxy.cfg", "w", encoding="utf-8") as file:
                file.write(HAPROXY.format(directory=directory, listener=listener, a=a, b=b))
            command = ["haproxy", "-db", "-q", "-f", file.name]
            self.process = subprocess.Popen(command, pass_fds=[listener])

    def states(self):
        """What HAProxy says about the health of the instances; None while it starts."""
        try:
            with socket.socket(socket.AF_UNIX) as admin:
                admin.connect(self.admin)
                admin.sendall(b"show stat\n")
                answer = b"".join(iter(lambda: admin.recv(65_536), b"")).decode()
        except OSError:
            return None
        rows = [line.split(",") for line in answer.splitlines()]
        # "L4TOUT" and the like are in other columns; this one is "UP", "DOWN" or on the way.
        return [row[17] for row in rows if row[0] == "instances" and row[1] in "ab"]

    def wait_for(self, *states):
        wait_until(lambda: self.states() == list(states), f"the instances are {states}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(LIMIT)


@contextlib.contextmanager
def balanced(program):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        instances = [stack.enter_context(Instance(program)) for _ in "ab"]
        balancer = stack.enter_context(Balancer(directory, *instances))
        balancer.wait_for("UP", "UP")
        yield balancer, *instances


def connections_of_a_killed_instance_go_to_the_other(program):
    with balanced(program) as (balancer, first, second):
        before = first.opened(), second.opened()
        require_echoes(balancer.port)
        # The health checks open connections as well, but few.
        share = CONNECTIONS // 3
        wait_until(lambda: first.opened() > before[0] + share, "the first has its share")
        wait_until(lambda: second.opened() > before[1] + share, "the second has its share")
        first.kill()
        # Immediately: HAProxy has not noticed it yet.
        require_echoes(balancer.port)
        balancer.wait_for("DOWN", "UP")
        with Instance(program, first.port) as restarted:
            balancer.wait_for("UP", "UP")
            before = restarted.opened()
            require_echoes(balancer.port)
            wait_until(lambda: restarted.opened() > before + share, "it has its share again")


def instance_that_hangs_gets_no_connections(program):
    """The kernel still accepts connections for it."""
    with balanced(program) as (balancer, _, second):
        with second.stopped():
            balancer.wait_for("UP", "DOWN")
            require_echoes(balancer.port)
        balancer.wait_for("UP", "UP")


CHECKS = [
    shared_port_is_served_after_one_process_is_killed,
    connections_of_a_killed_instance_go_to_the_other,
    instance_that_hangs_gets_no_connections,
]

if __name__ == "__main__":
    harness.main(__doc__, harness.each(CHECKS))
