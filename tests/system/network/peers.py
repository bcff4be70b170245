"""Peers over UDP, and a check of how the service starts."""

import socket

from harness import require
from network.hosts import IP_TRANSPARENT, PORT, UDP4, UDP6
from service import Ended


def target(host, scope=0):
    """The address of the service on a host."""
    return (host, PORT, 0, scope) if ":" in host else (host, PORT)


def echo_datagram(client, address, data):
    """The next datagram that comes has the same bytes, and comes from this address."""
    client.sendto(data, address)
    try:
        reply, source = client.recvfrom(1 << 16)
    except TimeoutError:
        raise AssertionError(f"no reply from {address[0]} to {len(data)} bytes") from None
    problem = f"{reply[:30]!r} ({len(reply)} bytes) came back, not {data[:30]!r} ({len(data)})"
    require(reply == data, problem)
    require(source == address, f"the reply from {address} came from {source}")


def echo_from_each(host, *addresses):
    """One client sends to each address, twice: the service must not remember a peer's address."""
    for kind in UDP4, UDP6:
        client = host.socket(kind)
        for number in range(2):
            for address in addresses:
                if (":" in address) == (kind == UDP6):
                    echo_datagram(client, target(address), f"{number} to {address}".encode())


def spoofer_of(client, address):
    """A socket that sends from an address which its host does not have."""
    spoofer = client.socket(UDP4)
    spoofer.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    spoofer.bind((address, 50_000))
    return spoofer


def require_start_error(network, host, *arguments, warnings=0):
    """The program ends with one error, after this number of warnings."""
    try:
        service = network.serve(host, *arguments)
    except Ended as ended:
        require(ended.status == 1, f"{arguments}: exit status {ended.status}")
        lines = ended.log.splitlines()
        require(len(lines) == 1 + warnings, f"{arguments}: the log is {lines}")
    else:
        raise AssertionError(f"{arguments}: it listens on {service.listening()}")
