"""Hosts, the links between them, and the services on them.

A host is a network namespace, named after this process; a link is a veth pair. No packet leaves
them. All of them are removed at the end. Needs root, iproute2 and nftables.
"""

import atexit
import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
import tempfile

from harness import LIMIT, require, wait_until
from service import Service

PORT = 7007
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
    """Returns the output of a command, in the namespace that this thread is in."""
    # In a session of its own: Ctrl-C must not stop the removal of the namespaces.
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


class Host:
    """A network namespace. Sockets that are opened and processes that are started in it stay."""

    libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self, name):
        self.name = PREFIX + name
        run("ip", "netns", "add", self.name)
        # A reply may take another way than the request. New links inherit the default.
        for devices in "all", "default":
            self.sysctl(f"net/ipv4/conf/{devices}/rp_filter", 0)
        self.ip("link", "set", "lo", "up")
        self.sockets = []

    @contextlib.contextmanager
    def inside(self):
        """This thread is in the namespace, and the processes that it starts meanwhile."""
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

    def nft(self, words):
        return self.run("nft", words)

    def sysctl(self, name, value):
        with self.inside(), open(f"/proc/sys/{name}", "w") as setting:
            setting.write(str(value))

    def forward(self):
        self.sysctl("net/ipv4/ip_forward", 1)
        self.sysctl("net/ipv6/conf/all/forwarding", 1)

    def address(self, device, *addresses):
        for address in addresses:
            # IPv4 gets a broadcast address, IPv6 no duplicate address detection, which takes time.
            extra = ["nodad"] if ":" in address else ["broadcast", "+"]
            self.ip("address", "add", address, "dev", device, *extra)

    def is_up(self, device):
        link = json.loads(self.ip("-j", "link", "show", "dev", device))[0]
        # Until the carrier is noticed, packets go into the queue `noop`, which drops them.
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

    def bind(self, kind, host, ports):
        for port in ports:
            self.socket(kind).bind((host, port))

    def drop_packets(self, percent):
        """From now on, this share of the arriving packets is lost."""
        self.nft("add table inet loss")
        self.nft("add chain inet loss arriving { type filter hook input priority 0; }")
        self.nft(f"add rule inet loss arriving numgen random mod 100 < {percent} counter drop")

    def dropped_packets(self):
        return int(re.search(r"counter packets (\d+)", self.nft("list ruleset"))[1])

    def send_queue(self, port):
        """The size of the send queue of a UDP socket over IPv4."""
        with self.inside(), open("/proc/thread-self/net/udp") as table:
            for line in list(table)[1:]:
                _, local, _, _, queues, *_ = line.split()
                if int(local.split(":")[1], 16) == port:
                    return int(queues.split(":")[0], 16)
        raise AssertionError(f"no socket has UDP port {port}")


class Network:
    """The hosts and services of one check."""

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
            service.close()
        remove_namespaces()
        if self.names:
            self.names.close()

    def name(self, **addresses):
        """From now on, the program finds these names and their addresses in its /etc/hosts."""
        self.names = tempfile.NamedTemporaryFile("w", prefix=PREFIX)
        lines = [f"{ip} {name}.test\n" for name, ips in addresses.items() for ip in ips]
        self.names.writelines(lines)
        self.names.flush()

    def prefix(self):
        """Executes the program in a mount namespace of its own, if there are names."""
        if not self.names:
            return []
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, self.names.name]

    def close_sockets(self):
        for host in self.hosts:
            for opened in host.sockets:
                opened.close()

    def stop_services(self):
        # First the sockets of the peers: the services would drain their connections.
        self.close_sockets()
        for service in self.services:
            service.stop()

    def logs(self):
        return "".join(service.log() for service in self.services)

    def make(self, *names):
        hosts = [Host(name) for name in names]
        self.hosts += hosts
        return hosts

    def link(self, a, a_device, b, b_device, mtu=1500):
        peer = "peer", "name", b_device, "mtu", str(mtu), "netns", b.name
        a.ip("link", "add", a_device, "mtu", str(mtu), "type", "veth", *peer)
        ends = (a, a_device), (b, b_device)
        for host, device in ends:
            # The only link-local addresses are those that a check gives.
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

    def serve(self, host, *arguments):
        """Starts the program on a host. Returns when it listens."""
        options = {"prefix": self.prefix(), "inside": host.inside()}
        service = Service(self.program, *arguments, **options)
        self.services.append(service)
        return service


@atexit.register
def remove_namespaces():
    if os.path.isdir(NAMESPACES):
        for name in os.listdir(NAMESPACES):
            if name.startswith(PREFIX):
                run("ip", "netns", "delete", name, check=False)
