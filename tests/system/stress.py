"""Peers that reset and stall, in any state and any number; signals; and all of it at once."""

import os
import random
import re
import select
import signal
import socket
import struct
import threading
import time

from harness import LIMIT, Service, Talk, connect, echo, require

DATA = os.urandom(16_000_000)
CHURN = 10_000
AT_ONCE = 250
SLACK = 2 * 1024  # KiB of memory


class Steady(threading.Thread):
    """One connection that is echoed all the time, in pieces of all sizes."""

    def __init__(self, place):
        super().__init__()
        self.client = connect(place)
        self.stopped = threading.Event()
        self.compared = 0
        self.problem = None
        self.start()

    def run(self):
        try:
            with self.client:
                while not self.stopped.is_set():
                    self.exchange(random.choice((1, 100, 5_000, 200_000)))
                self.client.shutdown(socket.SHUT_WR)
                require(self.client.recv(1) == b"", "bytes behind the last")
        except (OSError, AssertionError) as error:
            self.problem = repr(error)

    def exchange(self, size):
        start = random.randrange(len(DATA) - size)
        piece = DATA[start : start + size]
        sender = threading.Thread(target=self.client.sendall, args=[piece])
        sender.start()
        require(receive(self.client, size) == piece, "other bytes")
        sender.join()
        self.compared += size

    def stop(self):
        self.stopped.set()
        self.join()
        require(not self.problem, f"{self.problem} of a connection that was left alone")
        require(self.compared, "nothing was echoed meanwhile")
        return self.compared


def receive(client, size):
    data = bytearray()
    while len(data) < size:
        chunk = client.recv(min(size - len(data), 1 << 18))
        require(chunk, f"the end after {len(data)} of {size} bytes")
        data += chunk
    return bytes(data)


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def fill(client, patience=0.05):
    """Sends until nothing more is taken, and gives how much that was."""
    sent = 0
    client.setblocking(False)
    while sent < len(DATA) and select.select([], [client], [], patience)[1]:
        sent += client.send(DATA[sent : sent + 65_536])
    client.settimeout(LIMIT)
    return sent


# What a peer may have come to. Each gives the client.


def idle(place):
    return connect(place)


def echoed(place):
    client = connect(place)
    client.sendall(DATA[:10])
    require(receive(client, 10) == DATA[:10], "other bytes")
    return client


def in_the_middle(place):
    """Of a message: it has been sent, and nothing was received."""
    client = connect(place)
    client.sendall(DATA[:1_000])
    return client


def stalled(place):
    client = connect(place, buffer=4_096)
    fill(client, patience=0.01)
    return client


def in_bulk(place):
    client = connect(place)
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
        require(chunk == DATA[received : received + len(chunk)] != b"", "other bytes in bulk")
        received += len(chunk)
    client.settimeout(LIMIT)
    return client


def half_closed(place):
    client = in_the_middle(place)
    client.shutdown(socket.SHUT_WR)
    return client


def stalled_and_half_closed(place):
    client = stalled(place)
    client.shutdown(socket.SHUT_WR)
    return client


STATES = [idle, echoed, in_the_middle, stalled, in_bulk, half_closed, stalled_and_half_closed]


def resets(program):
    """Each in every state of its life, before and after the service has noticed what it did."""
    with Service(program, "-v") as service:
        steady = Steady(service.place)
        for state in STATES * 5:
            reset(state(service.place))
            client = state(service.place)
            time.sleep(0.02)
            reset(client)
        for early in (idle, in_the_middle, half_closed) * 5:
            service.signal(signal.SIGSTOP)
            clients = [early(service.place) for _ in range(20)]
            for client in clients:
                reset(client)
            service.signal(signal.SIGCONT)
            time.sleep(0.02)
        echo(service.place, DATA)
        compared = steady.stop()
        service.require_idle(0.5)
        log = service.stop()
    failed = re.findall(r"closed: reset.* (\d+) pending", log)
    require(any(map(int, failed)), "nobody was stalled")
    return f"ok, {len(failed)} resets, {compared} bytes of another connection compared"


def resets_while_it_drains(program):
    """Who is left finishes in peace."""
    with Service(program) as service:
        steady = Steady(service.place)
        clients = [state(service.place) for state in STATES * 3]
        service.signal(signal.SIGTERM)
        for client in clients:
            time.sleep(0.02)
            reset(client)
        time.sleep(0.2)
        compared = steady.stop()
        status, log = service.wait()
    require(status == 0, log)
    return f"ok, {compared} bytes of another connection compared"


def resets_at_the_end_of_the_drain_time(program):
    """When what is unsent is flushed, or what comes is read and discarded."""
    with Service(program, "--drain-timeout", "400ms") as service:
        clients = [state(service.place) for state in STATES * 3]
        service.signal(signal.SIGTERM)
        time.sleep(0.3)
        for client in clients:
            time.sleep(0.02)
            reset(client)
        status, log = service.wait()
    require(status == 0, log)


def churn(program):
    """Ten thousand connections come to any state, and go in any way; nothing of them is left."""
    with Service(program) as service:
        echo(service.place, DATA)  # One pipe is kept.
        descriptors, memory = service.descriptors(), service.memory()
        for _ in range(CHURN // AT_ONCE):
            come_and_go(service.places, AT_ONCE)
        require_as_before(service, descriptors, memory)
        service.require_idle(0.5)
        grown = service.memory() - memory
        echo(service.place, DATA)
        service.stop()
    return f"ok, {descriptors} descriptors before and after, {grown} KiB more"


def come_and_go(places, count):
    # Who is in bulk or stalled moves megabytes: one in twenty is.
    weights = [4, 4, 4, 0.3, 0.3, 4, 0.3]
    states = random.choices(STATES, weights, k=count)
    clients = [state(random.choice(places)) for state in states]
    random.shuffle(clients)
    for client in clients:
        random.choice((reset, socket.socket.close))(client)


def require_as_before(service, descriptors, memory):
    deadline = time.monotonic() + 10
    while service.descriptors() != descriptors and time.monotonic() < deadline:
        time.sleep(0.05)
    now = service.descriptors()
    require(now == descriptors, f"{now} descriptors, and {descriptors} before")
    grown = service.memory() - memory
    require(grown <= SLACK, f"{grown} KiB more memory than before")


def soak(program, seconds):
    """All at once, for some time; memory and descriptors stay as they are."""
    with Service(program) as service:
        echo(service.place, DATA)
        descriptors = service.descriptors()
        load = Load(service)
        samples = []
        end = time.monotonic() + seconds
        while time.monotonic() < end and not load.problems:
            time.sleep(0.5)
            samples.append((service.memory(), service.descriptors()))
        load.stop()
        # What it needs at the most is reached in the first half.
        half = len(samples) // 2
        first, second = (max(kib for kib, _ in part) for part in (samples[:half], samples[half:]))
        require(second <= first + SLACK, f"{first} KiB of memory at first, then {second}")
        require_as_before(service, descriptors, first)
        service.require_idle(2)
        service.stop()
    most = max(count for _, count in samples)
    return f"ok, {load}; at the most {first} KiB, then {second}, and {most} descriptors"


class Load:
    """Clients of every kind, of every endpoint, until they are stopped."""

    def __init__(self, service):
        self.service, self.places = service, service.places
        self.stopped = threading.Event()
        self.problems = []
        self.compared = self.connections = self.datagrams = 0
        self.lock = threading.Lock()
        self.steady = [Steady(place) for place in self.places]
        kinds = [self.bulk, self.small, self.churn, self.ask, self.stall, self.stall, self.reset]
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

    def talk(self, data, window):
        talk = Talk(random.choice(self.places), data, window).run()
        require(talk.is_complete, talk.problem)
        self.count(compared=talk.received, connections=1)

    def bulk(self):
        self.talk(DATA, len(DATA))

    def small(self):
        self.talk(DATA[: random.randrange(5_000)], 100)

    def churn(self):
        come_and_go(self.places, 50)
        self.count(connections=50)

    def ask(self):
        for _ in range(100):
            size = random.choice((0, 1, 1_472, 8_000, 65_507))
            self.service.ask(random.choice(self.service.datagram_places), DATA[:size])
            self.count(compared=size, datagrams=1)
        time.sleep(0.1)

    def stall(self):
        """Reads nothing for a while, and then all of it."""
        with connect(random.choice(self.places)) as client:
            sent = fill(client)
            self.stopped.wait(random.random() * 2)
            require(receive(client, sent) == DATA[:sent], "other bytes after a stall")
        self.count(compared=sent, connections=1)

    def reset(self):
        reset(random.choice(STATES)(random.choice(self.places)))
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


def stops_and_continues(program):
    """SIGSTOP and SIGCONT, in the middle of everything: only time passes."""
    with Service(program) as service:
        load = Load(service)
        for _ in range(20):
            time.sleep(random.random() / 10)
            service.signal(signal.SIGSTOP)
            time.sleep(random.random() / 5)
            service.signal(signal.SIGCONT)
        load.stop()
        service.stop()
    return f"ok, {load}"


def sigpipe_changes_nothing(program):
    with Service(program) as service:
        load = Load(service)
        for _ in range(20):
            service.signal(signal.SIGPIPE)
            time.sleep(0.05)
        load.stop()
        service.stop()
    return f"ok, {load}"


def sighup_is_the_end(program):
    """At once, as the README says."""
    with Service(program) as service:
        steady = Steady(service.place)
        service.signal(signal.SIGHUP)
        status, _ = service.wait()
        steady.join()
    require(status == -signal.SIGHUP, f"exit status {status}")


CHECKS = [
    resets,
    resets_while_it_drains,
    resets_at_the_end_of_the_drain_time,
    stops_and_continues,
    sigpipe_changes_nothing,
    sighup_is_the_end,
    churn,
]
