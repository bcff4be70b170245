"""What the program does when memory, the kernel's memory or time runs out.

usage: limits.py PROGRAM [CHECK]...

The process is paused, by SIGSTOP and by the freezer of its control group; its address space and its
control group's memory are limited; and peers keep what the service sends in the kernel. The control
groups are children of the root of their hierarchy, named after this process, and removed at the
end: that needs root. A check that needs a hierarchy that is missing is skipped, and says so.
"""

import argparse
import contextlib
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time

from stress import half_closed, idle, reset, stalled, stalled_and_half_closed
from harness import LIMIT, CountedService, Service, connect, echo, require, wait_until

BULK = os.urandom(1_500_000)
MIB = 1 << 20


class Skipped(Exception):
    """What a check needs is missing."""


# Pauses


def state_of(service):
    """What proc_pid_stat(5) calls the process's state, such as T for stopped."""
    with open(f"/proc/{service.pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def stopped(service):
    service.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(service) == "T", "the process is stopped")
    try:
        yield
    finally:
        service.signal(signal.SIGCONT)


@contextlib.contextmanager
def frozen_v1(service):
    with control_group("freezer") as group:
        group.add(service)
        group.write("freezer.state", "FROZEN")
        wait_until(lambda: group.read("freezer.state") == "FROZEN\n", "the process is frozen")
        try:
            yield
        finally:
            group.write("freezer.state", "THAWED")


@contextlib.contextmanager
def frozen_v2(service):
    with control_group(None) as group:
        group.add(service)
        group.write("cgroup.freeze", "1")
        wait_until(lambda: "frozen 1" in group.read("cgroup.events"), "the process is frozen")
        try:
            yield
        finally:
            group.write("cgroup.freeze", "0")


# Control groups


class ControlGroup:
    """A child of the root of a hierarchy; see cgroups(7)."""

    def __init__(self, mount):
        self.root = mount
        self.path = f"{mount}/mio-echo-{os.getpid()}"
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise Skipped(f"no control group can be made: {error}") from error

    def read(self, name):
        with open(f"{self.path}/{name}", encoding="ascii") as file:
            return file.read()

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w", encoding="ascii") as file:
            file.write(str(value))

    def has(self, name):
        return os.path.exists(f"{self.path}/{name}")

    def add(self, service):
        self.write("cgroup.procs", service.pid)

    def remove(self):
        """Moves what is left to the root: a group with processes cannot be removed."""
        for pid in self.read("cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):
                with open(f"{self.root}/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(pid)
        wait_until(self.try_to_remove, "the control group is removed")

    def try_to_remove(self):
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
            return True


def mounts(controller):
    """Where a controller of version 1 is mounted; for None, version 2."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _, place, kind, options = line.split()[:4]
            if controller is None and kind == "cgroup2":
                yield place
            if kind == "cgroup" and controller in options.split(","):
                yield place


@contextlib.contextmanager
def control_group(controller):
    place = next(mounts(controller), None)
    if place is None:
        raise Skipped(f"no hierarchy with {controller or 'version 2'} is mounted")
    group = ControlGroup(place)
    try:
        yield group
    finally:
        group.remove()


# Checks


def shutdown_ends_after_pause(program):
    """A pause makes the end of the drain time and the idle timeout expire in the same turn."""
    arguments = "--idle-timeout", "2s", "--drain-timeout", "2s"
    with Service(program, *arguments) as service, connect(service.place):
        wait_for_log(service, "shutting down", service.signal, signal.SIGTERM)
        with stopped(service):
            time.sleep(4)  # longer than both
        return require_end(service, 10)


def require_end(service, limit):
    """The process ends in time, and does not spin until then."""
    start, cpu = time.monotonic(), 0
    try:
        while service.process.poll() is None:
            cpu = service.cpu_time()
            require(time.monotonic() - start < limit, f"no end; {cpu:.2f} s of CPU time")
            time.sleep(0.02)
    except OSError:
        pass  # It ended after the question whether it runs.
    status, log = service.wait()
    require(status == 0, f"exit status {status}\n{log}")
    require(cpu < 1, f"{cpu:.2f} s of CPU time")
    return f"ok, {time.monotonic() - start:.1f} s until the end, {cpu:.2f} s of CPU time"


def wait_for_log(service, text, action, *arguments):
    action(*arguments)
    wait_until(lambda: any(text in line for line in service.log), f"the log says {text!r}")


def shutdown_ends_when_idle_timeout_is_drain_timeout(program):
    """Both are 5 s. Idle connections are closed up to 50 ms late, so a signal that comes some 50 ms
    after the clients makes both expire in the same turn."""
    delays = [0.042 + step * 0.0006 for step in range(20)] + [step * 0.005 for step in range(20)]
    with contextlib.ExitStack() as stack:
        services = [stack.enter_context(Service(program, "--idle-timeout", "5s")) for _ in delays]
        for service, delay in zip(services, delays):
            for _ in range(20):
                stack.enter_context(connect(service.place))
            time.sleep(delay)
            service.signal(signal.SIGTERM)
        deadline = time.monotonic() + 15
        while running(services) and time.monotonic() < deadline:
            time.sleep(0.05)
        cpu = [service.cpu_time() for service in running(services)]
        require(not cpu, f"{len(cpu)} of {len(services)} did not end; {sum(cpu):.1f} s of CPU time")
        for service in services:
            status, log = service.wait()
            require(status == 0, f"exit status {status}\n{log}")


def running(services):
    return [service for service in services if service.process.poll() is None]


def data_that_waits_is_echoed_after_pause(program, pause):
    """A pause longer than the idle timeout, during which all clients send."""
    with Service(program, "--idle-timeout", "3s") as service, contextlib.ExitStack() as stack:
        start = time.monotonic()
        clients = [stack.enter_context(connect(service.place)) for _ in range(1_500)]
        exchange(clients[-1], b"the last one is accepted")
        require(time.monotonic() - start < 3, "the machine is too slow for this idle timeout")
        with pause(service):
            for number, client in enumerate(clients):
                client.sendall(b"%06d" % number)
            time.sleep(4)  # longer than the idle timeout
        problems = [failure_of(client, b"%06d" % number) for number, client in enumerate(clients)]
        problems = [problem for problem in problems if problem]
        require(not problems, f"{len(problems)} of 1500 got no echo: {problems[:1]}")
        service.stop()


def exchange(client, data):
    client.sendall(data)
    require(client.recv(len(data), socket.MSG_WAITALL) == data, "another echo, or the end")


def failure_of(client, expected):
    """What came in place of these bytes."""
    try:
        received = client.recv(len(expected), socket.MSG_WAITALL)
    except OSError as error:
        return repr(error)
    return None if received == expected else f"received {received}"


def metrics_request_that_waits_is_answered_after_pause(program, pause):
    """A pause longer than the 5 s within which a client has to ask."""
    with CountedService(program) as service:
        host, port = re.search(r"//([^:]+):(\d+)/", service.metrics_url()).groups()
        with connect((host, int(port))) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
            # A later client has been answered: so this one has been accepted.
            service.counters()
            with pause(service):
                client.sendall(b"Host: localhost\r\nConnection: close\r\n\r\n")
                time.sleep(6)
            answer = client.recv(15, socket.MSG_WAITALL)
        require(answer == b"HTTP/1.1 200 OK", f"answered {answer}")
        service.stop()


def failed_allocation_closes_one_connection(program):
    """The address space is limited; peers that do not read make the process need more of it."""
    with CountedService(program, "--zero-copy", "off") as service, contextlib.ExitStack() as stack:
        healthy = [stack.enter_context(connect(place)) for place in service.places]
        peers = [stack.enter_context(small_client(service.place)) for _ in range(400)]
        exchange_all(healthy)
        wait_until(lambda: service.active() == len(healthy) + len(peers), "all are accepted")
        # Only now: what a connection needs before it has pending bytes is not under test.
        limit = address_space(service) + 12 * MIB
        resource.prlimit(service.pid, resource.RLIMIT_AS, (limit, limit))
        with survival(service):
            for peers_of_a_round in batches(peers, 50):
                stall(peers_of_a_round)
                exchange_all(healthy)
        closed = service.closed()
        require(closed, "no allocation has failed")
        service.stop()
    return f"ok, closed by reason: {closed}; {limit / MIB:.0f} MiB of address space"


def exchange_all(clients):
    for client in clients:
        exchange(client, os.urandom(5_000))


def small_client(place):
    """A client with small buffers and segments: the kernel keeps little for it, on both sides."""
    client = socket.socket()
    client.settimeout(LIMIT)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_400)
    client.connect(place)
    return client


def batches(items, size):
    return (items[start : start + size] for start in range(0, len(items), size))


def stall(peers, patience=0.1):
    """Each of them sends until the service stops reading, or closes."""
    poll = select.poll()
    by_number = {peer.fileno(): peer for peer in peers}
    for peer in peers:
        peer.setblocking(False)
        poll.register(peer, select.POLLOUT)
    while by_number and (ready := poll.poll(patience * 1000)):
        for number, _ in ready:
            try:
                by_number[number].send(BULK)
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(by_number.pop(number))


@contextlib.contextmanager
def survival(service):
    """Whatever goes wrong meanwhile: if the process ended, that is the cause."""
    try:
        yield
    except (OSError, AssertionError) as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = service.process.wait(1)
            raise AssertionError(f"it ended with {status}: {''.join(service.log[-3:])}") from error
        raise


def address_space(service):
    with open(f"/proc/{service.pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmSize:\s+(\d+)", file.read())[1]) * 1024


def stalled_peers_stay_within_memory_of_control_group(program):
    """Peers that do not read are evicted before the process needs more memory than it may have."""
    arguments = "-v", "--max-buffered", "8MiB", "--socket-buffer", "16KiB"
    with memory_group(3_000) as group, CountedService(program, *arguments) as service:
        group.add(service)
        with survival(service), contextlib.ExitStack() as stack:
            healthy = [stack.enter_context(connect(place)) for place in service.places]
            for _ in range(30):
                peers = [stack.enter_context(small_client(service.place)) for _ in range(100)]
                stall(peers)
                exchange_all(healthy)
                require(service.memory() < MEMORY / 1024, f"{service.memory()} KiB resident")
            counters, resident = service.counters(), service.memory()
        held = counters["buffered_bytes"]
        evicted = counters.get('connections_closed_total{reason="evicted"}', 0)
        require(evicted > 0, f"no connection was evicted; {held} bytes held")
        require(held <= 8 * MIB, f"{held} bytes held")
        log = service.stop()
    require(log.count("closed: evicted") == evicted, log)
    return f"ok, {evicted} evicted; {held} bytes held, {resident} KiB resident"


MEMORY = 32 * MIB


@contextlib.contextmanager
def memory_group(connections):
    """A control group with 32 MiB of memory, without swap.

    Version 2 charges it with the buffers of sockets as well: of each connection one to send and one
    to receive, which the system makes twice as large as `--socket-buffer` says.
    """
    version = "memory" if next(mounts("memory"), None) else None
    with control_group(version) as group:
        if version:
            group.write("memory.limit_in_bytes", MEMORY)
        elif group.has("memory.max"):
            group.write("memory.max", MEMORY + connections * 2 * 2 * 16 * 1024)
            group.write("memory.swap.max", 0)
        else:
            raise Skipped("the root of the control groups does not control memory")
        yield group


def kernel_memory_is_freed_after_close(program):
    """Peers that read nothing, after everything was written to them: the data is in the kernel."""
    arguments = "--idle-timeout", "3s", "--write-timeout", "3s"
    with CountedService(program, *arguments) as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(service.place)) for _ in range(59)]
        for client in clients:
            client.sendall(BULK)
        for client in clients[::2]:
            client.shutdown(socket.SHUT_WR)
        wait_until(lambda: service.active() == 0, "the service has closed all")
        require(service.counters()["sent_bytes_total"] == 59 * len(BULK), "bytes are missing")
        before = closing_sockets(service.place, clients)
        start = time.monotonic()
        limit = 2 * 3 + 1
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not closing_sockets(service.place, clients), "they are gone", limit)
        left = closing_sockets(service.place, clients)
        require(not left, f"{len(left)} of {len(before)} left after {limit} s: {sum(left)} bytes")
        service.stop()
    return f"ok, {len(before)} sockets, the last gone after {time.monotonic() - start:.1f} s"


# Of the kernel's include/net/tcp_states.h: states in which the service's end has been closed,
# and what it sent is not acknowledged; and the one in which it has yet to be closed.
FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING = 4, 8, 9, 11


def closing_sockets(place, clients):
    """How many bytes each of the service's closing connections still has to send; proc_net(5)."""
    ends = {(place[1], client.getsockname()[1]) for client in clients}
    with open("/proc/net/tcp", encoding="ascii") as file:
        lines = [line.split() for line in file][1:]
    return [
        int(queues.split(":")[0], 16)
        for _, local, remote, state, queues, *_ in lines
        if (port_of(local), port_of(remote)) in ends
        and int(state, 16) in (FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING)
    ]


def port_of(address):
    return int(address.split(":")[1], 16)


def reset_by_peer_is_counted_apart_from_errors(program):
    """As HAProxy ends each of its health checks."""
    with CountedService(program) as service:
        for state in idle, stalled, half_closed, stalled_and_half_closed:
            for place in service.places:
                reset(state(place))
        wait_until(lambda: service.active() == 0, "all are closed")
        closed = service.closed()
        service.stop()
    # A client that half-closed may have finished before; a Unix socket without unread bytes has no
    # reset.
    finished = closed.pop("peer_closed", 0)
    require(set(closed) == {"reset"} and closed["reset"] >= 8, f"closed by reason: {closed}")
    return f"ok, {closed['reset']} reset, {finished} finished"


def peer_that_reads_too_late_is_closed_by_write_timeout(program):
    """A client that sends everything before it reads: here, more than all buffers hold."""
    fitted = []
    with CountedService(program, "--write-timeout", "1s") as service:
        for place in service.places:
            with connect(place) as client:
                fitted.append(sent_without_reading(client))
        wait_until(lambda: service.active() == 0, "all are closed")
        closed = service.closed()
        service.stop()
    require(closed == {"write_timeout": len(fitted)}, f"closed by reason: {closed}")
    sizes = ", ".join(f"{size / 1024:.0f} KiB" for size in fitted)
    return f"ok, before that were taken: {sizes}"


def sent_without_reading(client):
    """Sends 64 MB at once, until the service closes the connection."""
    data, sent = memoryview(bytes(64_000_000)), 0
    try:
        while sent < len(data):
            sent += client.send(data[sent:])
    except (ConnectionResetError, BrokenPipeError):
        return sent
    raise AssertionError("everything was taken")


CHECKS = [
    shutdown_ends_after_pause,
    shutdown_ends_when_idle_timeout_is_drain_timeout,
    (data_that_waits_is_echoed_after_pause, stopped),
    (data_that_waits_is_echoed_after_pause, frozen_v1),
    (data_that_waits_is_echoed_after_pause, frozen_v2),
    (metrics_request_that_waits_is_answered_after_pause, stopped),
    failed_allocation_closes_one_connection,
    stalled_peers_stay_within_memory_of_control_group,
    kernel_memory_is_freed_after_close,
    reset_by_peer_is_counted_apart_from_errors,
    peer_that_reads_too_late_is_closed_by_write_timeout,
]


def attempt(check, program):
    """Runs a check and prints its result. Returns whether it passed; None if it was skipped."""
    check, *arguments = check if isinstance(check, tuple) else (check,)
    name = ": ".join([check.__name__, *(argument.__name__ for argument in arguments)])
    start = time.monotonic()
    passed = False
    try:
        result = check(program, *arguments) or "ok"
        passed = True
    except Skipped as skipped:
        result, passed = f"skipped: {skipped}", None
    except (OSError, AssertionError, ValueError, subprocess.SubprocessError) as failure:
        result = f"FAILED: {failure!r}"
    print(f"{name}: {result} ({time.monotonic() - start:.1f} s)", flush=True)
    return passed


def name_of(check):
    return (check[0] if isinstance(check, tuple) else check).__name__


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    options = parser.parse_args()
    chosen = [check for check in CHECKS if not options.checks or name_of(check) in options.checks]
    results = [attempt(check, options.program) for check in chosen]
    passed, failed, skipped = (results.count(result) for result in (True, False, None))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
