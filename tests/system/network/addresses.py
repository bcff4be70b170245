"""Replies over UDP come from the address that was used, and leave by the right interface."""

from network.hosts import PORT, UDP4, UDP6
from network.peers import echo_datagram, echo_from_each, target


def replies_come_from_the_address_used_over_ipv4(network):
    client, server = network.client_and_server()
    network.serve(server, f"0.0.0.0:{PORT}")
    echo_from_each(client, "10.7.0.1", "10.7.0.3")


def replies_come_from_the_address_used_over_ipv6(network):
    client, server = network.client_and_server()
    network.serve(server, f"[::]:{PORT}")
    echo_from_each(client, "fd00:7::1", "fd00:7::3")


def replies_come_from_the_address_used_with_dual_stack(network):
    client, server = network.client_and_server()
    network.serve(server, "--dual-stack", f"[::]:{PORT}")
    echo_from_each(client, "10.7.0.1", "10.7.0.3", "fd00:7::1", "fd00:7::3")


def link_local(network, kind, at_client, at_server, *arguments, destination=None):
    """Two links with the same addresses and two clients with the same port: only the interface
    tells the clients apart. The destination is the server's link-local address if none is given."""
    left, right, server = network.make("left", "right", "server")
    clients = []
    for host, device in (left, "to-left"), (right, "to-right"):
        network.link(host, "to-server", server, device)
        host.address("to-server", at_client)
        server.address(device, at_server)
        client = host.socket(kind)
        client.bind(("", 50_000))
        gateway = at_server.split("/")[0]
        if destination:
            host.ip("route", "add", destination, "via", gateway, "dev", "to-server")
        scope = host.index("to-server") if kind == UDP6 and not destination else 0
        clients.append((device, client, target(destination or gateway, scope)))
    if destination:
        server.address("lo", destination)
    network.serve(server, *arguments)
    for number in range(2):
        for device, client, address in clients:
            echo_datagram(client, address, f"{number}, the reply leaves by {device}".encode())


LINK_LOCAL_IPV6 = "fe80::2/64", "fe80::1/64"
LINK_LOCAL_IPV4 = "169.254.0.2/16", "169.254.0.1/16"


def link_local_replies_leave_by_the_interface_used_over_ipv6(network):
    link_local(network, UDP6, *LINK_LOCAL_IPV6, f"[::]:{PORT}")


def link_local_replies_leave_by_the_interface_used_over_ipv4(network):
    link_local(network, UDP4, *LINK_LOCAL_IPV4, f"0.0.0.0:{PORT}")


def link_local_replies_leave_by_the_interface_used_at_one_ipv4_address(network):
    link_local(network, UDP4, *LINK_LOCAL_IPV4, f"169.254.0.1:{PORT}")


def link_local_replies_leave_by_the_interface_used_with_dual_stack(network):
    link_local(network, UDP4, *LINK_LOCAL_IPV4, "--dual-stack", f"[::]:{PORT}")


def link_local_peers_are_told_apart_at_one_ipv6_address(network):
    """A socket of one address gets no packet info: each peer's address has its interface."""
    destination = "fd00:7::1"
    arguments = f"[{destination}]:{PORT}"
    link_local(network, UDP6, *LINK_LOCAL_IPV6, arguments, destination=destination)


def link_local_peers_are_told_apart_over_ipv4(network):
    link_local(network, UDP4, *LINK_LOCAL_IPV4, f"0.0.0.0:{PORT}", destination="10.7.0.1")


def replies_follow_the_route_to_the_client(network):
    """Requests arrive by one link, and the server's route to the client is another one."""
    client, router, server = network.make("client", "router", "server")
    router.forward()
    network.link(client, "to-router", router, "to-client")
    network.link(router, "there", server, "there")
    network.link(router, "back", server, "back")
    client.address("to-router", "10.7.1.2/24", "fd00:7:1::2/64")
    server.address("there", "10.7.2.1/24", "fd00:7:2::1/64", "fe80::1/64")
    server.address("back", "10.7.3.1/24", "fd00:7:3::1/64", "fe80::1/64")
    # Over IPv6, a router sends neighbour solicitations from link-local addresses.
    router.address("to-client", "10.7.1.1/24", "fd00:7:1::1/64", "fe80::2/64")
    router.address("there", "10.7.2.2/24", "fd00:7:2::2/64", "fe80::2/64")
    router.address("back", "10.7.3.2/24", "fd00:7:3::2/64", "fe80::2/64")
    client.ip("route", "add", "10.7.2.0/24", "via", "10.7.1.1")
    client.ip("route", "add", "fd00:7:2::/64", "via", "fd00:7:1::1")
    server.ip("route", "add", "10.7.1.0/24", "via", "10.7.3.2")
    server.ip("route", "add", "fd00:7:1::/64", "via", "fd00:7:3::2")
    network.serve(server, f"0.0.0.0:{PORT}", f"[::]:{PORT}")
    echo_from_each(client, "10.7.2.1", "fd00:7:2::1")


CHECKS = [
    replies_come_from_the_address_used_over_ipv4,
    replies_come_from_the_address_used_over_ipv6,
    replies_come_from_the_address_used_with_dual_stack,
    link_local_replies_leave_by_the_interface_used_over_ipv6,
    link_local_replies_leave_by_the_interface_used_over_ipv4,
    link_local_replies_leave_by_the_interface_used_at_one_ipv4_address,
    link_local_replies_leave_by_the_interface_used_with_dual_stack,
    link_local_peers_are_told_apart_at_one_ipv6_address,
    link_local_peers_are_told_apart_over_ipv4,
    replies_follow_the_route_to_the_client,
]
