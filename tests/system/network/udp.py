"""UDP is best effort: a reply that cannot be sent is dropped, and other peers are served."""

import contextlib
import itertools
import random
import socket
import threading

from harness import LIMIT, require, wait_until
from network.hosts import PORT, UDP4
from network.peers import echo_datagram, spoofer_of, target

METRICS = "--metrics=tcp://127.0.0.1:9007"


def counters(service, server):
    with server.inside():
        return service.counters()


def require_sums(now):
    """Each datagram that was received has one outcome."""
    outcomes = "datagrams_sent", "datagram_errors", "datagram_send_buffer_drops"
    outcomes = [f"{name}_total" for name in (*outcomes, "datagrams_dropped")]
    # Those dropped are counted by reason, which is a label.
    counted = sum(value for name, value in now.items() if name.partition("{")[0] in outcomes)
    require(now["datagrams_received_total"] == counted, f"the sums differ: {now}")


def send_from_missing_hosts(client, stop):
    """Until `stop` is set, 31 datagrams a second, at random intervals, from a hundred addresses of
    the link that no host has. Linux waits three seconds for a neighbour to answer ARP."""
    spoofers = [spoofer_of(client, f"10.7.0.{host}") for host in range(100, 200)]
    dice = random.Random(7)
    for spoofer in itertools.cycle(spoofers):
        if stop.wait(dice.expovariate(31)):
            return
        spoofer.sendto(bytes(1_400), target("10.7.0.1"))


def is_echoed(client, data, patience):
    """Whether this datagram comes back in that time. Late replies to others are passed over."""
    client.settimeout(patience)
    client.sendto(data, target("10.7.0.1"))
    with contextlib.suppress(TimeoutError):
        while client.recv(1 << 16) != data:
            pass
        return True
    return False


def missing_neighbours_do_not_block_other_peers(network):
    """Replies to neighbours that do not exist fill the send buffer. A reply for which there is no
    room is dropped, and receiving goes on."""
    client, server = network.client_and_server()
    service = network.serve(server, METRICS, f"udp://10.7.0.1:{PORT}")
    stop = threading.Event()
    sender = threading.Thread(target=send_from_missing_hosts, args=(client, stop), daemon=True)
    sender.start()
    try:
        buffer = server.socket(UDP4).getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        wait_until(lambda: server.send_queue(PORT) > 0.95 * buffer, "the send buffer is full")
        peer = client.socket(UDP4)
        lost = 0
        for number in range(45):
            lost += not is_echoed(peer, str(number).encode(), patience=0.5)
            require(lost <= 15, f"{lost} of {number + 1} datagrams did not come back")
            stop.wait(0.1)
    finally:
        stop.set()
        sender.join(LIMIT)
    now = counters(service, server)
    require(now["datagram_send_buffer_drops_total"] > 0, f"nothing was dropped: {now}")
    require_sums(now)
    return f"{lost} of 45 datagrams did not come back"


def unreachable_peer_costs_its_own_reply_alone(network):
    """The other replies of its batch are sent."""
    client, server = network.client_and_server()
    server.ip("route", "add", "unreachable", "10.9.0.0/24")
    service = network.serve(server, METRICS, f"udp://10.7.0.1:{PORT}")
    spoofer = spoofer_of(client, "10.9.0.1")
    peer = client.socket(UDP4)
    messages = [str(number).encode() for number in range(8)]
    with service.stopped():
        for data in messages:
            spoofer.sendto(data, target("10.7.0.1"))
            peer.sendto(data, target("10.7.0.1"))
    for data in messages:
        reply = peer.recv(1 << 16)
        require(reply == data, f"{reply} came back, not {data}")
    echo_datagram(peer, target("10.7.0.1"), b"the last")
    now = counters(service, server)
    require(now["datagram_errors_total"] == len(messages), f"other errors: {now}")
    require_sums(now)


CHECKS = [missing_neighbours_do_not_block_other_peers, unreachable_peer_costs_its_own_reply_alone]
