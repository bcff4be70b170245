"""The load generator on hosts that have few ports to connect from."""

import json
import subprocess

from harness import LIMIT, load_command, require
from network.hosts import PORT


def load(program, host, *arguments):
    """Returns the exit status and the results."""
    command = load_command(program, "--json", *arguments)
    with host.inside():
        done = subprocess.run(command, capture_output=True, timeout=LIMIT, text=True)
    require(done.stdout, done.stderr.strip())
    return done.returncode, json.loads(done.stdout)


def load_connects_from_other_loopback_addresses(network):
    (host,) = network.make("host")
    host.sysctl("net/ipv4/ip_local_port_range", "40000 40007")
    # Ports of closed connections stay in use for a minute, even over the loopback.
    host.sysctl("net/ipv4/tcp_tw_reuse", 0)
    network.serve(host, f"tcp://127.0.0.1:{PORT}")
    for arguments in ("--hold", "-c100", "-d0"), ("--churn", "-c10", "-n500"):
        status, results = load(network.program, host, *arguments, "-W10", f"127.0.0.1:{PORT}")
        require(status == 0, f"{arguments}: {results}")


def load_reports_that_no_port_is_left(network):
    client, server = network.client_and_server()
    client.sysctl("net/ipv4/ip_local_port_range", "40000 40007")
    network.serve(server, f"10.7.0.1:{PORT}")
    for scheme in "tcp", "udp":
        arguments = "--hold", "-c20", "-d0", "-W10", f"{scheme}://10.7.0.1:{PORT}"
        status, results = load(network.program, client, *arguments)
        made, failed = results["echoes"], results["connections_failed"]
        require((status, made, failed) == (1, 8, 12), f"{scheme}: {results}")
        require("no port is left" in str(results["errors"]), results["errors"])


CHECKS = [load_connects_from_other_loopback_addresses, load_reports_that_no_port_is_left]
