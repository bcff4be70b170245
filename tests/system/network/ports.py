"""Port 0 becomes a port that is free for TCP and UDP, on a host with eight ports of which others
are in use."""

from clients import exchange
from harness import require
from network.hosts import TCP4, UDP4
from network.peers import echo_datagram, require_start_error


def host_with_few_ports(network, udp, tcp):
    """Its ports 40000 to 40007 are in use as far as they are given."""
    (host,) = network.make("host")
    host.sysctl("net/ipv4/ip_local_port_range", "40000 40007")
    host.bind(UDP4, "127.0.0.1", udp)
    host.bind(TCP4, "127.0.0.1", tcp)
    return host


def require_port(network, udp, tcp, free):
    host = host_with_few_ports(network, udp, tcp)
    service = network.serve(host, "127.0.0.1:0")
    address = "127.0.0.1", free
    listening = service.listening()
    require(sorted(listening) == [("tcp", address), ("udp", address)], f"{listening}")
    # From other ports: the eight are in use.
    exchange(host.connect(address, port=50_000), b"over TCP")
    client = host.socket(UDP4)
    client.bind(("127.0.0.1", 50_000))
    echo_datagram(client, address, b"over UDP")


def require_no_port(network, udp, tcp):
    require_start_error(network, host_with_few_ports(network, udp, tcp), "127.0.0.1:0")


def port_0_becomes_the_only_free_udp_port(network):
    require_port(network, {*range(40000, 40008)} - {40003}, (), 40003)


def port_0_becomes_the_only_free_tcp_port(network):
    require_port(network, (), {*range(40000, 40008)} - {40004}, 40004)


def port_0_becomes_the_only_port_free_for_both(network):
    """For TCP, Linux gives even ports only if no odd one is left: so ports that are in use for UDP
    have to be kept until the right one is found."""
    require_port(network, range(40000, 40004), range(40005, 40008), 40004)


def port_0_without_a_free_udp_port_is_an_error(network):
    require_no_port(network, range(40000, 40008), ())


def port_0_without_a_port_free_for_both_is_an_error(network):
    require_no_port(network, range(40000, 40004), range(40004, 40008))


CHECKS = [
    port_0_becomes_the_only_free_udp_port,
    port_0_becomes_the_only_free_tcp_port,
    port_0_becomes_the_only_port_free_for_both,
    port_0_without_a_free_udp_port_is_an_error,
    port_0_without_a_port_free_for_both_is_an_error,
]
