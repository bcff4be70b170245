"""Datagrams that are larger than a packet."""

import os

from network.hosts import PORT, UDP4, UDP6
from network.peers import echo_datagram, target


def datagrams_of_all_sizes_are_fragmented(network):
    client, server = network.client_and_server()
    network.serve(server, f"0.0.0.0:{PORT}", f"[::]:{PORT}")
    # The largest of each: 65,535, less UDP's header of 8 and, with IPv4, the header of 20.
    for kind, host, largest in (UDP4, "10.7.0.1", 65_507), (UDP6, "fd00:7::1", 65_527):
        for size in 8_000, 65_507, largest:
            echo_datagram(client.socket(kind), target(host), os.urandom(size))


def narrow_path(network, *arguments):
    """The reply is larger than the MTU on its way. The first one must not forbid fragmentation: the
    server learns about the MTU only when it is lost."""
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
    # The request is larger than the MTU of the client's own link: it has two fragments.
    echo_datagram(client.socket(UDP4), target("10.7.2.1"), os.urandom(1_400))


def routers_may_fragment_replies_over_ipv4(network):
    narrow_path(network, f"0.0.0.0:{PORT}")


def routers_may_fragment_replies_over_ipv4_with_dual_stack(network):
    narrow_path(network, "--dual-stack", f"[::]:{PORT}")


CHECKS = [
    datagrams_of_all_sizes_are_fragmented,
    routers_may_fragment_replies_over_ipv4,
    routers_may_fragment_replies_over_ipv4_with_dual_stack,
]
