"""Links that lose packets, and links that are slow."""

import os
import threading
import time

from clients import echo, exchange
from harness import require
from network.hosts import PORT, UDP4
from network.peers import echo_datagram, target


def lost_packets_cost_no_byte(network):
    client, server = network.client_and_server()
    for host, device in (client, "to-server"), (server, "to-client"):
        # Without segmentation offload: 2 MB are many packets, not a few of 64 KB.
        host.ip("link", "set", "dev", device, "gso_max_segs", "1")
        host.drop_packets(percent=5)
    network.serve(server, f"tcp://0.0.0.0:{PORT}")
    with client.inside():
        echo(target("10.7.0.1"), os.urandom(2_000_000))
    for host in client, server:
        require(host.dropped_packets() > 0, f"no packet to {host.name} was lost")


def limit_rate(server, rate):
    """From now on, the server sends to the client at this rate."""
    shape = "rate", rate, "burst", "32kbit", "latency", "400ms"
    server.run("tc", "qdisc", "add", "dev", "to-client", "root", "tbf", *shape)


def others_beside_slow_peer(network, rate, amount):
    client, server = network.client_and_server()
    limit_rate(server, rate)
    # The send buffer is smaller than the amount: the service has to wait for the slow peer.
    server.sysctl("net/ipv4/tcp_wmem", "4096 16384 65536")
    network.serve(server, f"0.0.0.0:{PORT}")
    problems = []

    def bulk():
        try:
            with client.inside():
                echo(target("10.7.0.1"), os.urandom(amount))
        except (OSError, AssertionError) as error:
            problems.append(f"the slow peer: {error!r}")

    slow_peer = threading.Thread(target=bulk, daemon=True)
    slow_peer.start()
    others = server.connect(target("127.0.0.1")), server.socket(UDP4)
    slowest = exchange_while(slow_peer.is_alive, *others)
    require(not problems, "".join(problems))
    # A service that waited for a peer at 2 Mbit/s would not answer for a second.
    require(slowest < 0.4, f"another peer waited {slowest:.1f} s for its echo")
    return f"at most {slowest * 1000:.0f} ms for another peer's echo"


def exchange_while(is_going_on, tcp, udp):
    """Echoes over TCP and UDP. Returns how long the slowest pair of them took, in seconds."""
    round_trips, slowest = 0, 0
    while is_going_on():
        start = time.monotonic()
        data = str(start).encode()
        exchange(tcp, data)
        echo_datagram(udp, target("127.0.0.1"), data)
        slowest = max(slowest, time.monotonic() - start)
        round_trips += 1
    require(round_trips >= 200, f"only {round_trips} round trips beside the slow peer")
    return slowest


def others_do_not_wait_for_a_peer_at_2_mbit(network):
    return others_beside_slow_peer(network, "2mbit", 400_000)


def others_do_not_wait_for_a_peer_at_10_mbit(network):
    return others_beside_slow_peer(network, "10mbit", 2_000_000)


CHECKS = [
    lost_packets_cost_no_byte,
    others_do_not_wait_for_a_peer_at_2_mbit,
    others_do_not_wait_for_a_peer_at_10_mbit,
]
