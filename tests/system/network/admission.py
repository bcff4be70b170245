"""Which clients over IPv6 may connect."""

from harness import require
from network.hosts import PORT, TCP6
from network.peers import target


def is_served(host, source, server, scope):
    """Whether a connection from this address, which stays open, echoes; or it is reset."""
    client = host.socket(TCP6)
    client.bind((source, 0, 0, scope))
    try:
        client.connect(target(server, scope))
        client.sendall(b"hello")
        return client.recv(5) == b"hello"
    except (ConnectionResetError, BrokenPipeError):
        return False


def require_served(network, options, *expected):
    """Connects from each address in turn; two networks and a link-local one have several."""
    client, server = network.client_and_server()
    client.address("to-server", "fd00:7::4/64", "fd00:8::2/64", "fe80::2/64", "fe80::4/64")
    server.address("to-client", "fd00:8::1/64", "fe80::1/64")
    network.serve(server, f"tcp://[::]:{PORT}", *options)
    served = []
    for source, _ in expected:
        prefix, _, _ = source.partition("::")
        scope = client.index("to-server") if prefix == "fe80" else 0
        served.append((source, is_served(client, source, f"{prefix}::1", scope)))
    require(served == list(expected), f"served: {served}")


def source_limit_counts_an_ipv6_network_or_a_link_local_address(network):
    peers = ("fd00:7::2", True), ("fd00:7::4", False), ("fd00:8::2", True)
    on_link = ("fe80::2", True), ("fe80::4", True), ("fe80::4", False)
    require_served(network, ["--max-per-source=1"], *peers, *on_link)


def allow_list_over_ipv6(network):
    peers = ("fd00:7::2", True), ("fd00:8::2", False), ("fe80::2", False), ("fe80::4", True)
    require_served(network, ["--allow=fd00:7::/64", "--allow=fe80::4"], *peers)


CHECKS = [source_limit_counts_an_ipv6_network_or_a_link_local_address, allow_list_over_ipv6]
