"""The built program on several hosts: network namespaces with links between them.

The checks are in the folder `network`, a file for each topic. Needs root, iproute2 and nftables.
"""

import harness
from harness import Check
from network import addresses, admission, links, load_tool, multicast, names, ports, sizes, udp
from network.hosts import Network

TOPICS = addresses, admission, sizes, links, udp, multicast, ports, names, load_tool


def in_network(check, program):
    with Network(program) as network:
        try:
            result = check(network)
            network.stop_services()
            return result
        except Exception as error:
            error.add_note(network.logs())
            raise


def checks(options):
    for topic in TOPICS:
        for check in topic.CHECKS:
            yield Check(in_network, check, options.program, name=check.__name__)


if __name__ == "__main__":
    harness.main(__doc__, checks)
