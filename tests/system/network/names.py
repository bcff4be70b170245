"""Names with several addresses."""

import subprocess
import time

from clients import exchange
from harness import LIMIT, check_command, require
from network.hosts import PORT, TCP4, UDP4
from network.peers import echo_datagram, require_start_error


def addresses_of_a_name_that_the_host_lacks_are_left_out(network):
    """IPv6 is off. An address that is no name's is an error, and so is a name without another."""
    (host,) = network.make("host")
    host.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
    network.name(both=["::1", "127.0.0.1"], ipv6=["::1"])
    service = network.serve(host, f"both.test:{PORT}")
    echo_datagram(host.socket(UDP4), ("127.0.0.1", PORT), b"over UDP")
    exchange(host.connect(("127.0.0.1", PORT)), b"over TCP")
    require(service.log().count(f"both.test:{PORT}: [::1]:{PORT} is left out: ") == 1, "no warning")
    require(service.log().count("WARN") == 1, "other warnings")
    require_start_error(network, host, f"[::1]:{PORT}")
    require_start_error(network, host, f"ipv6.test:{PORT}")
    # The host has this address, and it is in use.
    require_start_error(network, host, "-q", f"tcp://both.test:{PORT}", warnings=1)


def serve_one_of_two_addresses(network):
    """A name has two addresses: one serves at the first port, the other at the second. So the serving one
    is first and last, in whichever order the resolver returns them. Returns the host, and for each port the
    address that does not serve there."""
    (host,) = network.make("host")
    network.name(two=["127.0.0.2", "127.0.0.3"])
    network.serve(host, f"127.0.0.2:{PORT}", f"127.0.0.3:{PORT + 1}")
    return host, [("127.0.0.3", PORT), ("127.0.0.2", PORT + 1)]


def check_passes_if_another_address_of_the_name_is_silent(network):
    host, silent_addresses = serve_one_of_two_addresses(network)
    for silent, port in silent_addresses:
        host.bind(UDP4, silent, [port])
        listener = host.socket(TCP4)
        listener.bind((silent, port))
        listener.listen()
        for scheme in "tcp://", "udp://", "":
            status = check(network, host, f"{scheme}two.test:{port}")
            require(status == 0, f"exit status {status} beside {silent}")
            status = check(network, host, f"{scheme}{silent}:{port}")
            require(status == 1, f"exit status {status} for a silent address")


def clients_leave_a_silent_address_within_their_timeout(network):
    host, silent_addresses = serve_one_of_two_addresses(network)
    for silent, port in silent_addresses:
        listener = host.socket(TCP4)
        listener.bind((silent, port))
        # No SYN is answered beside the one connection that a backlog of 0 has room for.
        listener.listen(0)
        connected = host.connect((silent, port))
        for arguments in "ping -c1 -W0.5", "load --churn -c1 -n1 -W0.5":
            start = time.monotonic()
            command = [network.program, *arguments.split(), f"tcp://two.test:{port}"]
            status = exit_status(network, host, command)
            took = time.monotonic() - start
            require(status == 0, f"exit status {status} of {arguments} beside {silent}")
            # Without its timeout, load waits for 5 s.
            require(took < 4, f"{arguments} took {took:.1f} s beside {silent}")
        connected.close()


def check(network, host, endpoint):
    """The exit status of a check."""
    return exit_status(network, host, check_command(network.program, endpoint))


def exit_status(network, host, command):
    """Runs a command that resolves the names."""
    command, silent = [*network.prefix(), *command], subprocess.DEVNULL
    with host.inside():
        return subprocess.run(command, stdout=silent, stderr=silent, timeout=LIMIT).returncode


CHECKS = [
    addresses_of_a_name_that_the_host_lacks_are_left_out,
    check_passes_if_another_address_of_the_name_is_silent,
    clients_leave_a_silent_address_within_their_timeout,
]
