"""Checks with many connections: resets in every state, signals, and everything at once."""

import random
import re
import signal
import socket
import threading
import time

from clients import DATA, STATES, Conversation, connect, echo, echo_datagram, exchange, fill
from clients import half_closed, idle, receive, reset, unread
from harness import require, wait_until
from service import EveryEndpoint

CONNECTIONS = 10_000
AT_ONCE = 250
SLACK = 2 * 1024  # KiB of memory


class Steady(threading.Thread):
    """A connection that echoes messages of all sizes until it is stopped."""

    def __init__(self, address):
        super().__init__()
        self.client = connect(address)
        self.stopped = threading.Event()
        self.compared = 0
        self.problems = []
        self.start()

    def run(self):
        with self.client:
            self.note_problem(self.exchange_until_stopped)

    def note_problem(self, function, *arguments):
        try:
            function(*arguments)
        except (OSError, AssertionError) as error:
            self.problems.append(repr(error))

    def exchange_until_stopped(self):
        while not self.stopped.is_set():
            self.exchange(random.choice((1, 100, 5_000, 200_000)))
        self.client.shutdown(socket.SHUT_WR)
        require(self.client.recv(1) == b"", "bytes after the last echo")

    def exchange(self, size):
        start = random.randrange(len(DATA) - size)
        message = DATA[start : start + size]
        sender = threading.Thread(target=self.note_problem, args=[self.client.sendall, message])
        sender.start()
        try:
            require(receive(self.client, size) == message, "other bytes came back")
        finally:
            sender.join()
        self.compared += size

    def stop(self):
        self.stopped.set()
        self.join()
        require(not self.problems, f"a connection that had no part in it failed: {self.problems}")
        require(self.compared, "nothing was echoed meanwhile")
        return self.compared


def reset_closes_that_connection_alone(program):
    """In every state, before and after the service has noticed what the client did."""
    with EveryEndpoint(program, "-v") as service:
        steady = Steady(service.address)
        for state in STATES * 5:
            reset(state(service.address))
            client = state(service.address)
            time.sleep(0.02)
            reset(client)
        for early in (idle, unread, half_closed) * 5:
            with service.stopped():
                for client in [early(service.address) for _ in range(20)]:
                    reset(client)
            time.sleep(0.02)
        echo(service.address, DATA)
        compared = steady.stop()
        service.require_idle(0.5)
        log = service.stop()
    pending = re.findall(r"closed: reset.* (\d+) pending", log)
    require(any(map(int, pending)), "no connection was write-blocked")
    return f"{len(pending)} resets, {compared} bytes of another connection compared"


def other_connections_are_drained_beside_resets(program):
    with EveryEndpoint(program, "--drain-timeout=60s") as service:
        steady = Steady(service.address)
        clients = [state(service.address) for state in STATES * 3]
        service.signal(signal.SIGTERM)
        service.wait_for_log("shutting down")
        for client in clients:
            time.sleep(0.02)
            reset(client)
        compared = steady.stop()
        service.require_success()
    return f"{compared} bytes of another connection compared"


def resets_at_the_end_of_the_drain_time(program):
    """While pending bytes are flushed, and while connections linger."""
    with EveryEndpoint(program, "--drain-timeout=400ms") as service:
        clients = [state(service.address) for state in STATES * 3]
        service.signal(signal.SIGTERM)
        time.sleep(0.3)
        for client in clients:
            time.sleep(0.02)
            reset(client)
        service.require_success()


def ten_thousand_connections_leave_nothing_behind(program):
    """They come to any state, and are closed or reset."""
    with EveryEndpoint(program) as service:
        echo(service.address, DATA)
        descriptors, memory = service.descriptors(), service.memory()
        for _ in range(CONNECTIONS // AT_ONCE):
            open_and_close(service.stream_addresses, AT_ONCE)
        require_as_before(service, descriptors, memory)
        service.require_idle(0.5)
        grown = service.memory() - memory
        service.stop()
    return f"{descriptors} descriptors before and after, {grown} KiB more"


def open_and_close(addresses, count):
    # A client that streams or is write-blocked moves megabytes: one in twenty does.
    weights = [4, 4, 4, 0.3, 0.3, 4, 0.3]
    states = random.choices(STATES, weights, k=count)
    clients = [state(random.choice(addresses)) for state in states]
    random.shuffle(clients)
    for client in clients:
        random.choice((reset, socket.socket.close))(client)


def require_as_before(service, descriptors, memory):
    """As after an echo of `DATA`."""
    wait_until(lambda: service.descriptors() <= descriptors, f"{descriptors} descriptors are left")
    # The spare pipe is closed with the connection that has it: this gets another one.
    echo(service.address, DATA)
    now = service.descriptors()
    require(now == descriptors, f"{now} descriptors, and {descriptors} before")
    grown = service.memory() - memory
    require(grown <= SLACK, f"{grown} KiB more memory than before")


def soak(program, seconds):
    """Everything at once: memory and descriptors stay as they are."""
    with EveryEndpoint(program) as service:
        echo(service.address, DATA)
        descriptors = service.descriptors()
        load = Load(service)
        samples = []
        end = time.monotonic() + seconds
        while time.monotonic() < end and not load.problems:
            time.sleep(0.5)
            samples.append((service.memory(), service.descriptors()))
        load.stop()
        # The first half needs as much memory as the load ever does.
        half = len(samples) // 2
        first, second = (max(kib for kib, _ in part) for part in (samples[:half], samples[half:]))
        require(second <= first + SLACK, f"{first} KiB of memory at first, then {second}")
        require_as_before(service, descriptors, first)
        service.require_idle(2)
        service.stop()
    most = max(count for _, count in samples)
    return f"{load}; at most {first} KiB, then {second}, and {most} descriptors"


class Load:
    """Clients of all kinds, at all endpoints, until they are stopped."""

    def __init__(self, service):
        self.service, self.addresses = service, service.stream_addresses
        self.stopped = threading.Event()
        self.problems = []
        self.compared = self.connections = self.datagrams = 0
        self.lock = threading.Lock()
        self.steady = [Steady(address) for address in self.addresses]
        kinds = [self.bulk, self.small, self.churn, self.udp, self.pause, self.pause, self.reset]
        self.threads = [threading.Thread(target=self.repeat, args=[kind]) for kind in kinds]
        for thread in self.threads:
            thread.start()

    def repeat(self, kind):
        while not self.stopped.is_set() and not self.problems:
            try:
                kind()
            except (OSError, AssertionError, ValueError) as error:
                self.problems.append(f"{kind.__name__}: {error!r}")

    def count(self, compared=0, connections=0, datagrams=0):
        with self.lock:
            self.compared += compared
            self.connections += connections
            self.datagrams += datagrams

    def converse(self, data, window):
        conversation = Conversation(random.choice(self.addresses), data, window).run()
        require(conversation.is_complete, conversation.problem)
        self.count(compared=conversation.received, connections=1)

    def bulk(self):
        self.converse(DATA, len(DATA))

    def small(self):
        self.converse(DATA[: random.randrange(5_000)], 100)

    def churn(self):
        open_and_close(self.addresses, 50)
        self.count(connections=50)

    def udp(self):
        for _ in range(100):
            size = random.choice((0, 1, 1_472, 8_000, 65_507))
            echo_datagram(self.service, random.choice(self.service.udp_addresses), DATA[:size])
            self.count(compared=size, datagrams=1)
        time.sleep(0.1)

    def pause(self):
        """Reads nothing for a while, and then everything."""
        with connect(random.choice(self.addresses)) as client:
            sent = fill(client)
            self.stopped.wait(random.random() * 2)
            require(receive(client, sent) == DATA[:sent], "other bytes after a pause")
        self.count(compared=sent, connections=1)

    def reset(self):
        reset(random.choice(STATES)(random.choice(self.addresses)))
        self.count(connections=1)
        time.sleep(0.01)

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        for steady in self.steady:
            self.count(compared=steady.stop())
        require(not self.problems, f"{self.problems}")

    def __str__(self):
        return (
            f"{self.connections} connections, {self.compared} bytes compared, "
            f"{self.datagrams} datagrams"
        )


def nothing_is_lost_by_sigstop(program):
    """SIGSTOP and SIGCONT under load: only time passes."""
    with EveryEndpoint(program) as service:
        load = Load(service)
        for _ in range(20):
            time.sleep(random.random() / 10)
            with service.stopped():
                time.sleep(random.random() / 5)
        load.stop()
        service.stop()
    return str(load)


def sigpipe_is_ignored(program):
    with EveryEndpoint(program) as service:
        load = Load(service)
        for _ in range(20):
            service.signal(signal.SIGPIPE)
            time.sleep(0.05)
        load.stop()
        service.stop()
    return str(load)


def sighup_kills(program):
    """Without a drain time: the program does not handle it."""
    with EveryEndpoint(program) as service:
        steady = Steady(service.address)
        service.signal(signal.SIGHUP)
        status, _ = service.wait()
        steady.join()
    require(status == -signal.SIGHUP, f"exit status {status}")


CHECKS = [
    reset_closes_that_connection_alone,
    other_connections_are_drained_beside_resets,
    resets_at_the_end_of_the_drain_time,
    nothing_is_lost_by_sigstop,
    sigpipe_is_ignored,
    sighup_kills,
    ten_thousand_connections_leave_nothing_behind,
]
