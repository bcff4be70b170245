"""The program when it is paused, and when its memory or the kernel's memory is limited.

The process is paused by SIGSTOP and by the freezer of its control group. Its address space and the
memory of its control group are limited, and peers keep what the service sends in the kernel.
"""

import contextlib
import functools
import os
import resource
import select
import signal
import socket
import subprocess
import time
import urllib.parse

import harness
from clients import connect, exchange, half_closed, idle, reset, write_blocked
from clients import write_blocked_and_half_closed
from control_groups import frozen_v1, frozen_v2, memory_group
from harness import LIMIT, Check, require, wait_until
from service import EveryEndpoint, MeteredService

BULK = os.urandom(1_500_000)
MIB = 1 << 20

# Pauses


def shutdown_ends_after_pause(program):
    """A pause makes the end of the drain time and the idle timeout expire in the same iteration."""
    with EveryEndpoint(program, "--idle-timeout=2s", "--drain-timeout=2s") as service:
        with connect(service.address):
            service.signal(signal.SIGTERM)
            service.wait_for_log("shutting down")
            with service.stopped():
                time.sleep(4)  # longer than both
            return require_end(service, 10)


def require_end(service, limit):
    """The process ends in time, and does not spin until then."""
    start, cpu = time.monotonic(), 0
    # OSError: the process ended after it was seen running.
    with contextlib.suppress(OSError):
        while service.is_running():
            cpu = service.cpu_time()
            require(time.monotonic() - start < limit, f"no end; {cpu:.2f} s of CPU time")
            time.sleep(0.02)
    service.require_success()
    require(cpu < 1, f"{cpu:.2f} s of CPU time")
    return f"{time.monotonic() - start:.1f} s until the end, {cpu:.2f} s of CPU time"


def shutdown_ends_if_idle_timeout_is_drain_timeout(program):
    """Both are 5 s. Idle connections are closed up to 50 ms late, so a signal that comes some 50 ms
    after the clients makes both expire in the same iteration."""
    delays = [0.042 + step * 0.0006 for step in range(20)] + [step * 0.005 for step in range(20)]
    with contextlib.ExitStack() as stack:

        def start():
            return stack.enter_context(EveryEndpoint(program, "--idle-timeout=5s"))

        services = [start() for _ in delays]
        for service, delay in zip(services, delays):
            for _ in range(20):
                stack.enter_context(connect(service.address))
            time.sleep(delay)
            service.signal(signal.SIGTERM)
        deadline = time.monotonic() + 15
        while running(services) and time.monotonic() < deadline:
            time.sleep(0.05)
        cpu = [service.cpu_time() for service in running(services)]
        require(not cpu, f"{len(cpu)} of {len(services)} did not end; {sum(cpu):.1f} s of CPU time")
        for service in services:
            service.require_success()


def running(services):
    return [service for service in services if service.is_running()]


def waiting_data_is_echoed_after_pause(program, pause):
    """During a pause that is longer than the idle timeout, all clients send."""
    idle_timeout = 6
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(EveryEndpoint(program, f"--idle-timeout={idle_timeout}s"))
        start = time.monotonic()
        clients = [stack.enter_context(connect(service.address)) for _ in range(1_500)]
        exchange(clients[-1], b"the last one is accepted")
        took = time.monotonic() - start
        require(took < idle_timeout, f"connecting took {took:.1f} s")
        with pause(service):
            for number, client in enumerate(clients):
                client.sendall(b"%06d" % number)
            time.sleep(idle_timeout + 1)
        problems = [problem_of(client, b"%06d" % number) for number, client in enumerate(clients)]
        problems = [problem for problem in problems if problem]
        require(not problems, f"{len(problems)} of 1500 got no echo: {problems[:1]}")
        service.stop()


def problem_of(client, expected):
    """What came in place of these bytes."""
    try:
        received = client.recv(len(expected), socket.MSG_WAITALL)
    except OSError as error:
        return repr(error)
    return None if received == expected else f"received {received}"


def metrics_request_that_waits_is_answered_after_pause(program):
    """A pause that is longer than the 5 s which a request may take."""
    with MeteredService(program) as service:
        url = urllib.parse.urlsplit(service.metrics_url())
        with connect((url.hostname, url.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
            # A later client gets an answer: so this one has been accepted.
            service.counters()
            with service.stopped():
                client.sendall(b"Host: localhost\r\nConnection: close\r\n\r\n")
                time.sleep(6)
            answer = client.recv(15, socket.MSG_WAITALL)
        require(answer == b"HTTP/1.1 200 OK", f"the answer is {answer}")
        service.stop()


# Memory


def failed_allocation_closes_that_connection_alone(program):
    """The address space is limited; peers that do not read make the process need more of it."""
    with MeteredService(program, "--zero-copy=off") as service, contextlib.ExitStack() as stack:
        addresses = service.stream_addresses
        healthy = [stack.enter_context(connect(address)) for address in addresses]
        peers = [stack.enter_context(small_client(service.address)) for _ in range(400)]
        exchange_all(healthy)
        wait_until(lambda: service.active() == len(healthy) + len(peers), "all are accepted")
        # Only now: what a connection needs before it has pending bytes is not under test.
        limit = service.memory("VmSize") * 1024 + MIB

        def some_are_closed():
            closed = 0
            for batch in batches(peers, 50):
                # So that the service finds much to read at once, and has much pending.
                with service.stopped():
                    for peer in batch:
                        peer.setblocking(False)
                        with contextlib.suppress(OSError):
                            peer.send(BULK)
                closed += write_block(batch)
                exchange_all(healthy)
            return closed

        with survival(service):
            limit_address_space(service, limit)
            wait_until(some_are_closed, "an allocation fails")
            # The metrics need memory as well.
            limit_address_space(service, resource.RLIM_INFINITY)
            closed = service.closed()
        require(set(closed) == {"error"}, f"closed by reason: {closed}")
        service.stop()
    return f"closed by reason: {closed}; {limit / MIB:.0f} MiB of address space"


def limit_address_space(service, limit):
    resource.prlimit(service.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def exchange_all(clients):
    for client in clients:
        exchange(client, os.urandom(5_000))


def small_client(address):
    """A client with small buffers and segments: the kernel keeps little for it, on both sides."""
    client = socket.socket()
    client.settimeout(LIMIT)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_400)
    client.connect(address)
    return client


def batches(items, size):
    return (items[start : start + size] for start in range(0, len(items), size))


def write_block(peers, patience=0.1):
    """Each of the peers sends until it makes no progress, or the service closes the connection. Returns how
    many are closed."""
    poll = select.poll()
    by_number = {peer.fileno(): peer for peer in peers}
    count = len(by_number)
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
    return count - len(by_number)


@contextlib.contextmanager
def survival(service):
    """If something fails meanwhile and the process has ended, its end is the cause."""
    try:
        yield
    except (OSError, AssertionError) as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = service.process.wait(1)
            raise AssertionError(f"it ended with {status}: {service.lines[-3:]}") from error
        raise


def write_blocked_peers_stay_within_memory_of_control_group(program):
    """They are evicted before the process needs more memory than it may have."""
    most, max_buffered, rounds, count = 32 * MIB, 8 * MIB, 30, 100
    socket_buffer = 16 * 1024
    # The system makes both buffers of a socket twice as large.
    socket_memory = rounds * count * 2 * 2 * socket_buffer
    arguments = "-v", f"--max-buffered={max_buffered}", f"--socket-buffer={socket_buffer}"
    with memory_group(most, socket_memory) as group, MeteredService(program, *arguments) as service:
        group.add(service)
        with survival(service), contextlib.ExitStack() as stack:
            healthy = [stack.enter_context(connect(each)) for each in service.stream_addresses]
            for _ in range(rounds):
                clients = (small_client(service.address) for _ in range(count))
                write_block([stack.enter_context(client) for client in clients])
                exchange_all(healthy)
                require(service.memory() < most / 1024, f"{service.memory()} KiB resident")
            wait_until(lambda: service.closed().get("evicted"), "connections are evicted")
            held, resident = service.counters()["buffered_bytes"], service.memory()
            evicted = service.closed().get("evicted", 0)
        require(held <= max_buffered, f"{held} bytes pending")
        log = service.stop()
    require(log.count("closed: evicted") == evicted, log)
    return f"{evicted} evicted; {held} bytes pending, {resident} KiB resident"


def kernel_memory_is_freed_after_close(program):
    """Peers that read nothing, after everything was written to them: the data is in the kernel."""
    timeout, count = 3, 59
    arguments = f"--idle-timeout={timeout}s", f"--write-timeout={timeout}s"
    with MeteredService(program, *arguments) as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(service.address)) for _ in range(count)]
        for client in clients:
            client.sendall(BULK)
        for client in clients[::2]:
            client.shutdown(socket.SHUT_WR)
        wait_until(lambda: service.active() == 0, "the service has closed all connections")
        sent = service.counters()["sent_bytes_total"]
        require(sent == count * len(BULK), f"only {sent} bytes were sent")
        closing = functools.partial(closing_sockets, service.address, clients)
        before, start, limit = len(closing()), time.monotonic(), 2 * timeout + 1
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not closing(), "the sockets are gone", limit)
        left = closing()
        require(not left, f"{len(left)} of {before} left after {limit} s: {sum(left)} bytes")
        service.stop()
    return f"{before} sockets, the last one gone after {time.monotonic() - start:.1f} s"


# Of the kernel's include/net/tcp_states.h: states in which the service's end has been closed and
# its data is not acknowledged, and CLOSE_WAIT, in which it has yet to be closed.
FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING = 4, 8, 9, 11


def closing_sockets(address, clients):
    """The size of the send queue of each of the service's closing connections; see proc_net(5)."""
    ends = {(address[1], client.getsockname()[1]) for client in clients}
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


# Reasons of closing


def reset_by_peer_is_not_counted_as_error(program):
    """HAProxy ends each of its health checks with a reset."""
    with MeteredService(program) as service:
        for state in idle, write_blocked, half_closed, write_blocked_and_half_closed:
            for address in service.stream_addresses:
                reset(state(address))
        wait_until(lambda: service.active() == 0, "all are closed")
        closed = service.closed()
        service.stop()
    # A client that half-closes may be finished before; a Unix socket without unread bytes has no
    # reset.
    finished = closed.pop("peer_closed", 0)
    require(set(closed) == {"reset"} and closed["reset"] >= 8, f"closed by reason: {closed}")
    return f"{closed['reset']} reset, {finished} finished"


def write_timeout_closes_client_that_sends_all_before_it_reads(program):
    """If it sends more than all buffers hold."""
    sizes = []
    with MeteredService(program, "--write-timeout=1s") as service:
        for address in service.stream_addresses:
            with connect(address) as client:
                sizes.append(send_without_reading(client))
        wait_until(lambda: service.active() == 0, "all are closed")
        closed = service.closed()
        service.stop()
    require(closed == {"write_timeout": len(sizes)}, f"closed by reason: {closed}")
    taken = ", ".join(f"{size / 1024:.0f} KiB" for size in sizes)
    return f"taken before that: {taken}"


def send_without_reading(client):
    """Sends 64 MB until the service closes the connection. Returns how much was taken."""
    data, sent = memoryview(bytes(64_000_000)), 0
    try:
        while sent < len(data):
            sent += client.send(data[sent:])
    except (ConnectionResetError, BrokenPipeError):
        return sent
    raise AssertionError("everything was taken")


CHECKS = [
    shutdown_ends_after_pause,
    shutdown_ends_if_idle_timeout_is_drain_timeout,
    metrics_request_that_waits_is_answered_after_pause,
    failed_allocation_closes_that_connection_alone,
    write_blocked_peers_stay_within_memory_of_control_group,
    kernel_memory_is_freed_after_close,
    reset_by_peer_is_not_counted_as_error,
    write_timeout_closes_client_that_sends_all_before_it_reads,
]


def checks(options):
    for pause in EveryEndpoint.stopped, frozen_v1, frozen_v2:
        check = waiting_data_is_echoed_after_pause
        yield Check(check, options.program, pause, name=f"{check.__name__}: {pause.__name__}")
    yield from harness.each(CHECKS)(options)


if __name__ == "__main__":
    harness.main(__doc__, checks)
