"""Datagrams to a broadcast or multicast address get no reply."""

import socket

from harness import require
from network.hosts import PORT, UDP4, UDP6
from network.peers import echo_datagram, target


def require_no_reply(network, arguments, kind, unicast, *groups):
    """The first datagram that comes back is the reply to a later one."""
    client, server = network.client_and_server()
    network.serve(server, *arguments)
    sender = client.socket(kind)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"to-server")
    echo_datagram(sender, target(unicast), b"before")
    # Another socket of the server, to show that the network delivers these datagrams.
    witness = server.socket(kind)
    witness.bind(("", PORT + 1))
    scope = client.index("to-server")
    for group in groups:
        data = f"to {group}".encode()
        address = target(group, scope)
        sender.sendto(data, (address[0], PORT + 1, *address[2:]))
        require(witness.recv(1 << 16) == data, f"{group} did not reach the server")
        sender.sendto(data, address)
    # Two, as replies need not come in order.
    for data in b"after", b"at last":
        echo_datagram(sender, target(unicast), data)


GROUPS_IPV4 = "10.7.0.255", "255.255.255.255", "224.0.0.1"


def broadcast_and_multicast_get_no_reply_over_ipv4(network):
    require_no_reply(network, [f"0.0.0.0:{PORT}"], UDP4, "10.7.0.1", *GROUPS_IPV4)


def broadcast_and_multicast_get_no_reply_with_dual_stack(network):
    arguments = "--dual-stack", f"[::]:{PORT}"
    require_no_reply(network, arguments, UDP4, "10.7.0.1", *GROUPS_IPV4)


def multicast_gets_no_reply_over_ipv6(network):
    require_no_reply(network, [f"[::]:{PORT}"], UDP6, "fd00:7::1", "ff02::1")


CHECKS = [
    broadcast_and_multicast_get_no_reply_over_ipv4,
    broadcast_and_multicast_get_no_reply_with_dual_stack,
    multicast_gets_no_reply_over_ipv6,
]
