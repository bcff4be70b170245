"""The built program on networks of its own making: hosts with several addresses, links that lose,
split up or hold back what is sent, broadcasts, and ports that others hold.

usage: namespaces.py PROGRAM [CHECK]...

The example `load` is expected where cargo puts it: in `examples`, beside the program.

The hosts are network namespaces, named after this process, the links veth pairs between them, and
no packet leaves these. All of it is removed at the end. Needs root, iproute2 and nftables.
"""

import collections
import contextlib
import ctypes
import functools
import hashlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import require

LIMIT = 10  # seconds, for each wait
wait_until = functools.partial(harness.wait_until, limit=LIMIT)
LIMIT_OF_ALL = 240  # seconds, for everything together
PORT = 7007
METRICS_PORT = 9007
METRICS = f"--metrics=tcp://127.0.0.1:{METRICS_PORT}"
PREFIX = f"mio-echo-{os.getpid()}-"
NAMESPACES = "/run/netns"  # where ip-netns(8) keeps them

# Of <linux/sched.h> and <linux/in.h>: Python has no names for them.
CLONE_NEWNET = 0x40000000
IP_TRANSPARENT = 19

UDP4 = socket.AF_INET, socket.SOCK_DGRAM
UDP6 = socket.AF_INET6, socket.SOCK_DGRAM
TCP4 = socket.AF_INET, socket.SOCK_STREAM
TCP6 = socket.AF_INET6, socket.SOCK_STREAM


def run(*command, check=True):
    """The output of a command, in the namespace that this thread is in."""
    # In a session of its own: Ctrl-C is not to stop the removal of what was made.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
        text=True,
        start_new_session=True,
    )
    require(not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout.strip()}")
    return done.stdout


# Hosts and links


class Host:
    """A network namespace. Whatever is opened or started in it stays in it."""

    libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self, name):
        self.name = PREFIX + name
        run("ip", "netns", "add", self.name)
        # An answer may take another way than the question; new links take this over.
        for devices in "all", "default":
            self.sysctl(f"net/ipv4/conf/{devices}/rp_filter", 0)
        self.ip("link", "set", "lo", "up")
        self.sockets = []

    @contextlib.contextmanager
    def inside(self):
        """This thread is in the namespace, and what it starts meanwhile."""
        with open("/proc/thread-self/ns/net") as home, open(f"{NAMESPACES}/{self.name}") as there:
            self.enter(there)
            try:
                yield
            finally:
                self.enter(home)

    def enter(self, namespace):
        if self.libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def run(self, *command):
        with self.inside():
            return run(*command)

    def ip(self, *words):
        return run("ip", "-n", self.name, *words)

    def sysctl(self, name, value):
        with self.inside(), open(f"/proc/sys/{name}", "w") as setting:
            setting.write(str(value))

    def forward(self):
        self.sysctl("net/ipv4/ip_forward", 1)
        self.sysctl("net/ipv6/conf/all/forwarding", 1)

    def address(self, device, *addresses):
        for address in addresses:
            # Broadcasts are the business of IPv4, the search for duplicates that of IPv6.
            extra = ["nodad"] if ":" in address else ["broadcast", "+"]
            self.ip("address", "add", address, "dev", device, *extra)

    def is_up(self, device):
        link = json.loads(self.ip("-j", "link", "show", "dev", device))[0]
        # Until the carrier has been noticed, what is sent goes into the queue `noop`: nowhere.
        return link["operstate"] == "UP" and link["qdisc"] != "noop"

    def index(self, device):
        with self.inside():
            return socket.if_nametoindex(device)

    def socket(self, kind):
        with self.inside():
            opened = socket.socket(*kind)
        opened.settimeout(LIMIT)
        self.sockets.append(opened)
        return opened

    def connect(self, address, port=0):
        client = self.socket(TCP4)
        client.bind(("", port))
        client.connect(address)
        return client

    def hold(self, kind, host, ports):
        for port in ports:
            self.socket(kind).bind((host, port))

    def lose(self, percent):
        """From now on, so much of what arrives is lost."""
        self.nft("add table inet loss")
        self.nft("add chain inet loss arriving { type filter hook input priority 0; }")
        self.nft(f"add rule inet loss arriving numgen random mod 100 < {percent} counter drop")

    def lost(self):
        """How many packets were lost."""
        return int(re.search(r"counter packets (\d+)", self.nft("list ruleset"))[1])

    def nft(self, words):
        return self.run("nft", words)

    def udp_queues(self, port):
        """What a UDP socket over IPv4 has to send, what it has to read, and what it dropped."""
        with self.inside(), open("/proc/thread-self/net/udp") as table:
            for line in list(table)[1:]:
                _, local, _, _, queues, *_, dropped = line.split()
                if int(local.split(":")[1], 16) == port:
                    to_send, to_read = (int(size, 16) for size in queues.split(":"))
                    return to_send, to_read, int(dropped)
        raise AssertionError(f"nobody has UDP port {port}")


class Service:
    """The program, running on a host. It ends with this script, however that ends."""

    def __init__(self, command, host, arguments):
        self.log_file = tempfile.TemporaryFile("w+")
        with host.inside():
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self.log_file,
                stderr=self.log_file,
                start_new_session=True,
            )

    def log(self):
        # Not by the file's own position, where the program goes on writing.
        size = os.fstat(self.log_file.fileno()).st_size
        return os.pread(self.log_file.fileno(), size, 0).decode(errors="replace")

    def listening(self):
        return re.findall(r"listening on (tcp|udp)://(\S+):(\d+)", self.log())

    def wait_for(self, count):
        """Waits until it listens on so many sockets."""

        def ready():
            require(self.process.poll() is None, f"ended with status {self.process.returncode}")
            return len(self.listening()) >= count

        wait_until(ready, f"the service listens on {count} sockets")

    def stop(self):
        self.process.terminate()
        status = self.process.wait(LIMIT)
        require(status == 0, f"ended with status {status} after SIGTERM")
        require("panicked" not in self.log(), "panicked")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Network:
    """All that a check has built."""

    def __init__(self, program):
        self.program = program
        self.hosts = []
        self.services = []
        self.names = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close_sockets()
        for service in self.services:
            service.kill()
        remove_namespaces()
        if self.names:
            self.names.close()

    def name(self, **addresses):
        """From now on, the program finds these names and their addresses in its /etc/hosts."""
        self.names = tempfile.NamedTemporaryFile("w", prefix=PREFIX)
        lines = [f"{ip} {name}.test\n" for name, ips in addresses.items() for ip in ips]
        self.names.writelines(lines)
        self.names.flush()

    def command(self):
        """How to start the program: in a mount namespace of its own, if it is to know names."""
        if not self.names:
            return [self.program]
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, self.names.name, self.program]

    def close_sockets(self):
        for host in self.hosts:
            for opened in host.sockets:
                opened.close()

    def stop_services(self):
        # Peers first, for whom the service would wait.
        self.close_sockets()
        for service in self.services:
            service.stop()

    def make(self, *names):
        hosts = [Host(name) for name in names]
        self.hosts += hosts
        return hosts

    def link(self, a, a_device, b, b_device, mtu=1500):
        peer = "peer", "name", b_device, "mtu", str(mtu), "netns", b.name
        a.ip("link", "add", a_device, "mtu", str(mtu), "type", "veth", *peer)
        ends = (a, a_device), (b, b_device)
        for host, device in ends:
            # No link-local address but those that a check gives.
            host.ip("link", "set", "dev", device, "addrgenmode", "none")
            host.ip("link", "set", "dev", device, "up")
        for host, device in ends:
            wait_until(lambda: host.is_up(device), f"{device} is up")

    def client_and_server(self):
        """The usual network: two addresses of each family at the server, one at the client."""
        client, server = self.make("client", "server")
        self.link(client, "to-server", server, "to-client")
        client.address("to-server", "10.7.0.2/24", "fd00:7::2/64")
        server.address("to-client", "10.7.0.1/24", "10.7.0.3/24", "fd00:7::1/64", "fd00:7::3/64")
        return client, server

    def start(self, host, *arguments):
        service = Service(self.command(), host, arguments)
        self.services.append(service)
        return service

    def serve(self, host, *arguments):
        endpoints = [argument for argument in arguments if not argument.startswith("--")]
        service = self.start(host, *arguments)
        # Without a scheme, it is TCP and UDP.
        service.wait_for(sum(1 if "://" in endpoint else 2 for endpoint in endpoints))
        return service


def remove_namespaces():
    if os.path.isdir(NAMESPACES):
        for name in os.listdir(NAMESPACES):
            if name.startswith(PREFIX):
                run("ip", "netns", "delete", name, check=False)


# Peers


def target(host, scope=0):
    return (host, PORT, 0, scope) if ":" in host else (host, PORT)


def ask(client, address, data):
    """A datagram, and what comes next: the same bytes, from the address that was asked."""
    client.sendto(data, address)
    try:
        answer, source = client.recvfrom(1 << 16)
    except TimeoutError:
        raise AssertionError(f"no answer from {address[0]} to {len(data)} bytes") from None
    problem = f"{answer[:30]!r} ({len(answer)} bytes) came back of {data[:30]!r} ({len(data)})"
    require(answer == data, problem)
    require(source == address, f"{source} answered what {address} was asked")


def ask_each(host, *addresses):
    """The same client asks each address, and again: the service is to remember no peer."""
    for kind in UDP4, UDP6:
        client = host.socket(kind)
        for number in range(2):
            for address in addresses:
                if (":" in address) == (kind == UDP6):
                    ask(client, target(address), f"{number} to {address}".encode())


def echo_over_tcp(client, data):
    def send():
        # The other side of it is missed where it is received.
        with contextlib.suppress(OSError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = bytearray()
    while chunk := client.recv(1 << 16):
        received += chunk
    sender.join(LIMIT)
    same = hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    require(same, f"{len(received)} other bytes came back of {len(data)}")


# Checks: several addresses


def two_addresses_over_ipv4(network):
    client, server = network.client_and_server()
    network.serve(server, f"0.0.0.0:{PORT}")
    ask_each(client, "10.7.0.1", "10.7.0.3")


def two_addresses_over_ipv6(network):
    client, server = network.client_and_server()
    network.serve(server, f"[::]:{PORT}")
    ask_each(client, "fd00:7::1", "fd00:7::3")


def two_addresses_with_dual_stack(network):
    client, server = network.client_and_server()
    network.serve(server, "--dual-stack", f"[::]:{PORT}")
    ask_each(client, "10.7.0.1", "10.7.0.3", "fd00:7::1", "fd00:7::3")


def link_local(network, kind, at_client, at_server, *arguments, asked=None):
    """Two links with the same addresses: from which of them a question came is all that tells the
    clients apart, who ask from the same port as well. Unless told otherwise, they ask the server's
    link-local address."""
    left, right, server = network.make("left", "right", "server")
    clients = []
    for host, device in (left, "to-left"), (right, "to-right"):
        network.link(host, "to-server", server, device)
        host.address("to-server", at_client)
        server.address(device, at_server)
        client = host.socket(kind)
        client.bind(("", 50_000))
        gateway = at_server.split("/")[0]
        if asked:
            host.ip("route", "add", asked, "via", gateway, "dev", "to-server")
        scope = host.index("to-server") if kind == UDP6 and not asked else 0
        clients.append((device, client, target(asked or gateway, scope)))
    if asked:
        server.address("lo", asked)
    network.serve(server, *arguments)
    for number in range(2):
        for device, client, address in clients:
            ask(client, address, f"{number}, the answer goes {device}".encode())


def link_local_over_ipv6(network):
    link_local(network, UDP6, "fe80::2/64", "fe80::1/64", f"[::]:{PORT}")


def link_local_over_ipv4(network):
    link_local(network, UDP4, "169.254.0.2/16", "169.254.0.1/16", f"0.0.0.0:{PORT}")


def link_local_over_ipv4_at_one_address(network):
    link_local(network, UDP4, "169.254.0.2/16", "169.254.0.1/16", f"169.254.0.1:{PORT}")


def link_local_over_ipv4_with_dual_stack(network):
    arguments = "--dual-stack", f"[::]:{PORT}"
    link_local(network, UDP4, "169.254.0.2/16", "169.254.0.1/16", *arguments)


def link_local_peers_over_ipv6(network):
    """A socket of one address is not told of interfaces: each peer's address has its own."""
    asked = "fd00:7::1"
    link_local(network, UDP6, "fe80::2/64", "fe80::1/64", f"[{asked}]:{PORT}", asked=asked)


def link_local_peers_over_ipv4(network):
    at = "169.254.0.2/16", "169.254.0.1/16"
    link_local(network, UDP4, *at, f"0.0.0.0:{PORT}", asked="10.7.0.1")


def another_way_back(network):
    """Questions arrive by one link, but the server's route to the client is by another."""
    client, router, server = network.make("client", "router", "server")
    router.forward()
    network.link(client, "to-router", router, "to-client")
    network.link(router, "there", server, "there")
    network.link(router, "back", server, "back")
    client.address("to-router", "10.7.1.2/24", "fd00:7:1::2/64")
    server.address("there", "10.7.2.1/24", "fd00:7:2::1/64", "fe80::1/64")
    server.address("back", "10.7.3.1/24", "fd00:7:3::1/64", "fe80::1/64")
    # Over IPv6, a router seeks its neighbours from link-local addresses.
    router.address("to-client", "10.7.1.1/24", "fd00:7:1::1/64", "fe80::2/64")
    router.address("there", "10.7.2.2/24", "fd00:7:2::2/64", "fe80::2/64")
    router.address("back", "10.7.3.2/24", "fd00:7:3::2/64", "fe80::2/64")
    client.ip("route", "add", "10.7.2.0/24", "via", "10.7.1.1")
    client.ip("route", "add", "fd00:7:2::/64", "via", "fd00:7:1::1")
    server.ip("route", "add", "10.7.1.0/24", "via", "10.7.3.2")
    server.ip("route", "add", "fd00:7:1::/64", "via", "fd00:7:3::2")
    network.serve(server, f"0.0.0.0:{PORT}", f"[::]:{PORT}")
    ask_each(client, "10.7.2.1", "fd00:7:2::1")


# Checks: who may connect


def is_served(host, source, server, scope):
    """Whether bytes come back over a connection from that address, which stays; or it is reset."""
    client = host.socket(TCP6)
    client.bind((source, 0, 0, scope))
    try:
        client.connect(target(server, scope))
        client.sendall(b"hello")
        return client.recv(5) == b"hello"
    except (ConnectionResetError, BrokenPipeError):
        return False


def who_is_served(network, arguments, *peers):
    """Peers in two networks, and on the link, and whether each of them is to be served."""
    client, server = network.client_and_server()
    client.address("to-server", "fd00:7::4/64", "fd00:8::2/64", "fe80::2/64", "fe80::4/64")
    server.address("to-client", "fd00:8::1/64", "fe80::1/64")
    network.serve(server, f"tcp://[::]:{PORT}", *arguments)
    for source, expected in peers:
        prefix, _, _ = source.partition("::")
        scope = client.index("to-server") if prefix == "fe80" else 0
        served = is_served(client, source, f"{prefix}::1", scope)
        require(served == expected, f"{source} is served: {served}")


def a_source_over_ipv6_is_a_network(network):
    """Or an address, where it is link-local."""
    peers = ("fd00:7::2", True), ("fd00:7::4", False), ("fd00:8::2", True)
    on_link = ("fe80::2", True), ("fe80::4", True), ("fe80::4", False)
    who_is_served(network, ["--max-per-source=1"], *peers, *on_link)


def allowed_networks_over_ipv6(network):
    peers = ("fd00:7::2", True), ("fd00:8::2", False), ("fe80::2", False), ("fe80::4", True)
    who_is_served(network, ["--allow=fd00:7::/64", "--allow=fe80::4"], *peers)


# Checks: sizes


def fragments(network):
    client, server = network.client_and_server()
    network.serve(server, f"0.0.0.0:{PORT}", f"[::]:{PORT}")
    # The largest of each: 65,535, less UDP's header of 8 and, with IPv4, the header of 20.
    for kind, host, largest in (UDP4, "10.7.0.1", 65_507), (UDP6, "fd00:7::1", 65_527):
        for size in 8_000, 65_507, largest:
            ask(client.socket(kind), target(host), os.urandom(size))


def narrow_path(network, *arguments):
    """What the server sends first is larger than a packet may be on the way: it must not be
    forbidden to split it up, which would be known only by its loss."""
    client, router, server = network.make("client", "router", "server")
    router.forward()
    network.link(client, "to-router", router, "to-client", mtu=1300)
    network.link(router, "to-server", server, "to-router")
    client.address("to-router", "10.7.1.2/24")
    router.address("to-client", "10.7.1.1/24")
    router.address("to-server", "10.7.2.2/24")
    server.address("to-router", "10.7.2.1/24")
    client.ip("route", "add", "10.7.2.0/24", "via", "10.7.1.1")
    server.ip("route", "add", "10.7.1.0/24", "via", "10.7.2.2")
    network.serve(server, *arguments)
    # Of more than the client's own link takes: it goes in two pieces.
    ask(client.socket(UDP4), target("10.7.2.1"), os.urandom(1_400))


def narrow_path_over_ipv4(network):
    narrow_path(network, f"0.0.0.0:{PORT}")


def narrow_path_over_ipv4_with_dual_stack(network):
    narrow_path(network, "--dual-stack", f"[::]:{PORT}")


# Checks: links that lose, and links that are slow


def loss(network):
    client, server = network.client_and_server()
    for host, device in (client, "to-server"), (server, "to-client"):
        # Packets of a packet's size: as they are, a few of 64 KB would be all that there is.
        host.ip("link", "set", "dev", device, "gso_max_segs", "1")
        host.lose(percent=5)
    network.serve(server, f"tcp://0.0.0.0:{PORT}")
    echo_over_tcp(client.connect(target("10.7.0.1")), os.urandom(2_000_000))
    for host in client, server:
        require(host.lost() > 0, f"nothing was lost on the way to {host.name}")


def slow_down(server, rate, *queue):
    """From now on, all that the server sends to the client takes its time."""
    shape = "rate", rate, "burst", "32kbit", *queue
    server.run("tc", "qdisc", "add", "dev", "to-client", "root", "tbf", *shape)


def others_beside_a_slow_peer(network, rate, amount):
    client, server = network.client_and_server()
    slow_down(server, rate, "latency", "400ms")
    # Not enough of a send buffer for all of it: waiting is left to the service.
    server.sysctl("net/ipv4/tcp_wmem", "4096 16384 65536")
    network.serve(server, f"0.0.0.0:{PORT}")
    problems = []

    def bulk():
        try:
            echo_over_tcp(client.connect(target("10.7.0.1")), os.urandom(amount))
        except (OSError, AssertionError) as error:
            problems.append(f"the slow peer: {error!r}")

    slow_peer = threading.Thread(target=bulk, daemon=True)
    slow_peer.start()
    other_tcp = server.connect(target("127.0.0.1"))
    other_udp = server.socket(UDP4)
    round_trips = 0
    slowest = 0
    while slow_peer.is_alive():
        asked = time.monotonic()
        data = str(asked).encode()
        other_tcp.sendall(data)
        answer = other_tcp.recv(len(data), socket.MSG_WAITALL)
        require(answer == data, f"{answer!r} came back to the other peer of {data!r}")
        ask(other_udp, target("127.0.0.1"), data)
        slowest = max(slowest, time.monotonic() - asked)
        round_trips += 1
    require(not problems, "".join(problems))
    # A service that waited for a peer at 2 Mbit/s would keep the others waiting for a second.
    require(slowest < 0.4, f"another peer waited {slowest:.1f} s for its answer")
    require(round_trips >= 200, f"only {round_trips} round trips beside the slow peer")


def others_beside_2_mbit(network):
    others_beside_a_slow_peer(network, "2mbit", 400_000)


def others_beside_10_mbit(network):
    others_beside_a_slow_peer(network, "10mbit", 2_000_000)


def counters(server):
    """The service's metrics, by name; those with a label are added up."""
    with server.connect(("127.0.0.1", METRICS_PORT)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(1 << 16), b"")).decode()
    totals = collections.Counter()
    for name, value in re.findall(r"^mio_echo_(\w+)\S* (\d+)$", answer, re.MULTILINE):
        totals[name] += int(value)
    return totals


def check_sums(now):
    """Each datagram received has been counted once more."""
    outcomes = "datagrams_sent", "datagram_errors", "datagram_send_buffer_drops"
    counted = sum(now[f"{name}_total"] for name in (*outcomes, "datagrams_unanswered"))
    require(now["datagrams_received_total"] == counted, f"the sums differ: {now}")


def forger_of(client, address):
    """A socket that sends from an address which its host does not have."""
    forger = client.socket(UDP4)
    forger.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    forger.bind((address, 50_000))
    return forger


def forge(client, stop):
    """Until told to stop, 31 datagrams a second from a hundred addresses of the link that no host
    has, at random intervals. Linux waits three seconds for a neighbour to answer ARP."""
    forgers = [forger_of(client, f"10.7.0.{host}") for host in range(100, 200)]
    dice = random.Random(7)
    for forger in itertools.cycle(forgers):
        if stop.wait(dice.expovariate(31)):
            return
        forger.sendto(bytes(1_400), target("10.7.0.1"))


def ping(client, data, patience):
    """Whether this datagram comes back in that time. Late answers to others are passed over."""
    client.settimeout(patience)
    client.sendto(data, target("10.7.0.1"))
    with contextlib.suppress(TimeoutError):
        while client.recv(1 << 16) != data:
            pass
        return True
    return False


def forged_neighbours(network):
    """Replies to neighbours that do not exist fill the send buffer. Peers that exist are served all
    the same: a reply for which there is no room is dropped, and receiving goes on."""
    client, server = network.client_and_server()
    network.serve(server, METRICS, f"udp://10.7.0.1:{PORT}")
    stop = threading.Event()
    forger = threading.Thread(target=forge, args=(client, stop), daemon=True)
    forger.start()
    try:
        send_buffer = server.socket(UDP4).getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        wait_until(
            lambda: server.udp_queues(PORT)[0] > 0.95 * send_buffer, "the send buffer is full"
        )
        peer = client.socket(UDP4)
        pings = [str(number).encode() for number in range(45)]
        lost = 0
        for data in pings:
            lost += not ping(peer, data, patience=0.5)
            require(lost <= 15, f"{lost} of {data.decode()} pings not answered")
            stop.wait(0.1)
    finally:
        stop.set()
        forger.join(LIMIT)
    now = counters(server)
    require(now["datagram_send_buffer_drops_total"] > 0, f"nothing was dropped: {now}")
    check_sums(now)


def unreachable_peers(network):
    """An error of sending is that of one reply: the others of its batch are sent."""
    client, server = network.client_and_server()
    server.ip("route", "add", "unreachable", "10.9.0.0/24")
    service = network.serve(server, METRICS, f"udp://10.7.0.1:{PORT}")
    forger = forger_of(client, "10.9.0.1")
    peer = client.socket(UDP4)
    pings = [str(number).encode() for number in range(8)]
    service.process.send_signal(signal.SIGSTOP)
    for data in pings:
        forger.sendto(data, target("10.7.0.1"))
        peer.sendto(data, target("10.7.0.1"))
    service.process.send_signal(signal.SIGCONT)
    for data in pings:
        answer = peer.recv(1 << 16)
        require(answer == data, f"{answer} came back of {data}")
    ask(peer, target("10.7.0.1"), b"the last")
    now = counters(server)
    require(now["datagram_errors_total"] == len(pings), f"other errors: {now}")
    check_sums(now)


# Checks: to everybody


def to_everybody(network, arguments, kind, unicast, *groups):
    """No answer to these: so the answer to what is asked after them is the first to come."""
    client, server = network.client_and_server()
    network.serve(server, *arguments)
    asking = client.socket(kind)
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"to-server")
    ask(asking, target(unicast), b"before")
    # Somebody else there, who hears it: the network does deliver it.
    witness = server.socket(kind)
    witness.bind(("", PORT + 1))
    scope = client.index("to-server")
    for group in groups:
        data = f"to {group}".encode()
        address = target(group, scope)
        asking.sendto(data, (address[0], PORT + 1, *address[2:]))
        require(witness.recv(1 << 16) == data, f"{group} did not get there")
        asking.sendto(data, address)
    # The second of them, in case that the answers are not sent in order.
    for data in b"after", b"at last":
        ask(asking, target(unicast), data)


def broadcast_and_multicast_over_ipv4(network):
    groups = "10.7.0.255", "255.255.255.255", "224.0.0.1"
    to_everybody(network, [f"0.0.0.0:{PORT}"], UDP4, "10.7.0.1", *groups)


def broadcast_and_multicast_with_dual_stack(network):
    groups = "10.7.0.255", "255.255.255.255", "224.0.0.1"
    to_everybody(network, ["--dual-stack", f"[::]:{PORT}"], UDP4, "10.7.0.1", *groups)


def multicast_over_ipv6(network):
    to_everybody(network, [f"[::]:{PORT}"], UDP6, "fd00:7::1", "ff02::1")


# Checks: port 0


def few_ports(network, udp, tcp):
    """A host that has eight ports to give, of which others hold these."""
    (host,) = network.make("host")
    host.sysctl("net/ipv4/ip_local_port_range", "40000 40007")
    host.hold(UDP4, "127.0.0.1", udp)
    host.hold(TCP4, "127.0.0.1", tcp)
    return host


def port_0(network, udp, tcp, free):
    host = few_ports(network, udp, tcp)
    service = network.serve(host, "127.0.0.1:0")
    listening = service.listening()
    expected = [(scheme, "127.0.0.1", str(free)) for scheme in ("tcp", "udp")]
    require(sorted(listening) == expected, f"listens on {listening}")
    address = "127.0.0.1", free
    # From other ports: the few are taken.
    echo_over_tcp(host.connect(address, port=50_000), b"over TCP")
    client = host.socket(UDP4)
    client.bind(("127.0.0.1", 50_000))
    ask(client, address, b"over UDP")


def fails_to_start(network, host, *arguments, warnings=0):
    """With one line of error, after as many of warning."""
    service = network.start(host, *arguments)
    status = service.process.wait(LIMIT)
    require(status == 1, f"{arguments}: ended with status {status}")
    lines = service.log().splitlines()
    require(len(lines) == 1 + warnings, f"{arguments}: said {lines}")
    network.services.remove(service)


def no_port_0(network, udp, tcp):
    host = few_ports(network, udp, tcp)
    fails_to_start(network, host, "127.0.0.1:0")


def port_0_where_udp_has_one(network):
    port_0(network, {*range(40000, 40008)} - {40003}, (), 40003)


def port_0_where_tcp_has_one(network):
    port_0(network, (), {*range(40000, 40008)} - {40004}, 40004)


def port_0_where_both_have_one(network):
    """For TCP, Linux gives even ports only when there is no odd one left: those that turn out to
    be taken for UDP have to be held until the right one has been found."""
    port_0(network, range(40000, 40004), range(40005, 40008), 40004)


def port_0_where_udp_has_none(network):
    no_port_0(network, range(40000, 40008), ())


def port_0_where_both_have_none(network):
    no_port_0(network, range(40000, 40004), range(40004, 40008))


# Checks: names of several addresses


def names_where_ipv6_is_off(network):
    """A name's addresses are served as far as the host has them; others than names' are required."""
    (host,) = network.make("host")
    host.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
    network.name(both=["::1", "127.0.0.1"], ipv6=["::1"])
    metrics = "--metrics", f"tcp://both.test:{PORT + 1}"
    service = network.start(host, f"both.test:{PORT}", *metrics)
    service.wait_for(2)
    ask(host.socket(UDP4), ("127.0.0.1", PORT), b"over UDP")
    echo_over_tcp(host.connect(("127.0.0.1", PORT)), b"over TCP")
    host.connect(("127.0.0.1", PORT + 1))
    for left_out in f"both.test:{PORT}: [::1]:{PORT}", f"tcp://[::1]:{PORT + 1}":
        require(service.log().count(f"{left_out} is left out: ") == 1, "not one warning each")
    require(service.log().count("WARN") == 2, "other warnings")
    fails_to_start(network, host, f"[::1]:{PORT}")
    fails_to_start(network, host, f"ipv6.test:{PORT}")
    # In use, so it is there.
    fails_to_start(network, host, "-q", f"tcp://both.test:{PORT}", warnings=1)


def check_of_a_name_with_a_silent_address(network):
    """Whichever of the two addresses the resolver gives first."""
    (host,) = network.make("host")
    network.name(two=["127.0.0.2", "127.0.0.3"])
    serving = {PORT: "127.0.0.2", PORT + 1: "127.0.0.3"}
    network.serve(host, *(f"{address}:{port}" for port, address in serving.items()))
    for silent, port in ("127.0.0.3", PORT), ("127.0.0.2", PORT + 1):
        host.hold(UDP4, silent, [port])
        listener = host.socket(TCP4)
        listener.bind((silent, port))
        listener.listen()
        for scheme in "tcp://", "udp://", "":
            require(checks(network, host, f"{scheme}two.test:{port}") == 0, f"{silent} is waited for")
            status = checks(network, host, f"{scheme}{silent}:{port}")
            require(status == 1, f"status {status} of a silent address")


def checks(network, host, endpoint):
    """The exit status of a check."""
    with host.inside():
        command = [*network.command(), "--check", endpoint]
        return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=LIMIT).returncode


# Checks: the load generator, and the ports that it connects from


def load(program, host, *arguments):
    """How it ended, and its results."""
    command = [os.path.join(os.path.dirname(program), "examples", "load"), "--json", *arguments]
    with host.inside():
        done = subprocess.run(command, capture_output=True, timeout=2 * LIMIT, text=True)
    require(done.stdout, done.stderr.strip())
    return done.returncode, json.loads(done.stdout)


def load_takes_another_loopback_address(network):
    (host,) = network.make("host")
    host.sysctl("net/ipv4/ip_local_port_range", "40000 40007")
    # Ports of closed connections are in use for a minute, even over the loopback.
    host.sysctl("net/ipv4/tcp_tw_reuse", 0)
    network.serve(host, f"tcp://127.0.0.1:{PORT}")
    for arguments in ("--hold", "-c100", "-d0"), ("--churn", "-c10", "-n500"):
        status, results = load(network.program, host, *arguments, "-W10", f"127.0.0.1:{PORT}")
        require(status == 0, f"{arguments}: {results}")


def load_says_that_no_port_is_left(network):
    client, server = network.client_and_server()
    client.sysctl("net/ipv4/ip_local_port_range", "40000 40007")
    network.serve(server, f"10.7.0.1:{PORT}")
    for scheme in "tcp", "udp":
        arguments = "--hold", "-c20", "-d0", "-W10", f"{scheme}://10.7.0.1:{PORT}"
        status, results = load(network.program, client, *arguments)
        made, failed = results["echoes"], results["connections_failed"]
        require((status, made, failed) == (1, 8, 12), f"{scheme}: {results}")
        require("no port is left" in str(results["errors"]), results["errors"])


CHECKS = [
    two_addresses_over_ipv4,
    two_addresses_over_ipv6,
    two_addresses_with_dual_stack,
    link_local_over_ipv6,
    link_local_over_ipv4,
    link_local_over_ipv4_at_one_address,
    link_local_over_ipv4_with_dual_stack,
    link_local_peers_over_ipv6,
    link_local_peers_over_ipv4,
    another_way_back,
    a_source_over_ipv6_is_a_network,
    allowed_networks_over_ipv6,
    fragments,
    narrow_path_over_ipv4,
    narrow_path_over_ipv4_with_dual_stack,
    loss,
    others_beside_2_mbit,
    others_beside_10_mbit,
    forged_neighbours,
    unreachable_peers,
    broadcast_and_multicast_over_ipv4,
    broadcast_and_multicast_with_dual_stack,
    multicast_over_ipv6,
    port_0_where_udp_has_one,
    port_0_where_tcp_has_one,
    port_0_where_both_have_one,
    port_0_where_udp_has_none,
    port_0_where_both_have_none,
    load_takes_another_loopback_address,
    load_says_that_no_port_is_left,
    names_where_ipv6_is_off,
    check_of_a_name_with_a_silent_address,
]


def problem_of(check, program):
    """What is wrong, if anything, and the service's log."""
    with Network(program) as network:
        try:
            check(network)
            network.stop_services()
            return None, ""
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            problem = str(error) if isinstance(error, AssertionError) else repr(error)
            return problem, "".join(service.log() for service in network.services)


def try_all(program, names):
    passed = failed = 0
    for check in CHECKS:
        if names and check.__name__ not in names:
            continue
        problem, log = problem_of(check, program)
        print(f"{check.__name__.replace('_', ' ')}: {problem or 'ok'}", flush=True)
        print(log, end="", flush=True)
        passed, failed = passed + (problem is None), failed + (problem is not None)
    print(f"{passed} passed, {failed} failed")
    return passed > 0 and failed == 0


def stop(number, _):
    # Once: what follows is to remove everything, undisturbed.
    for signal_number in signal.SIGINT, signal.SIGTERM, signal.SIGALRM:
        signal.signal(signal_number, signal.SIG_IGN)
    sys.exit(f"stopped by {signal.Signals(number).name}")


def main(program, *names):
    for signal_number in signal.SIGINT, signal.SIGTERM, signal.SIGALRM:
        signal.signal(signal_number, stop)
    signal.alarm(LIMIT_OF_ALL)
    try:
        return 0 if try_all(os.path.abspath(program), names) else 1
    finally:
        remove_namespaces()


sys.exit(main(*sys.argv[1:]))
