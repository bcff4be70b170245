"""Prometheus reads the metrics of the built program: promtool finds no fault with the text, and
after a scrape the values can be queried.

Needs the package prometheus.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import tempfile
import urllib.parse

import harness
from clients import connect, exchange
from harness import LIMIT, require, wait_until
from service import Service, get

MESSAGE = b"hello, Prometheus\n"
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: mio-echo
    static_configs: [targets: ["{target}"]]
"""


@contextlib.contextmanager
def metered(program):
    """A service that has echoed one message."""
    with Service(program, "tcp://127.0.0.1:0", "--metrics=tcp://127.0.0.1:0") as service:
        with connect(service.address) as client:
            exchange(client, MESSAGE)
        yield service
        service.stop()


def promtool_accepts_the_text(program):
    """Its rules are about names, units, help and types."""
    with metered(program) as service:
        text = service.metrics_text()
        run = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text, capture_output=True, text=True, timeout=LIMIT, check=False,
        )
        require(run.returncode == 0, f"promtool: {run.stdout}{run.stderr}")
        return f"{len(re.findall('^# TYPE', text, re.M))} metrics"


class Prometheus:
    """Scrapes one target each second."""

    def __init__(self, directory, target):
        config = pathlib.Path(directory, "prometheus.yml")
        config.write_text(CONFIG.format(target=target), encoding="ascii")
        self.log = pathlib.Path(directory, "log")
        with open(self.log, "w", encoding="utf-8") as log:
            command = [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory}/data",
                "--web.listen-address=127.0.0.1:0",
            ]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def url(self):
        """Where it answers queries, from its log; None while it starts."""
        text = self.log.read_text(encoding="utf-8")
        require(self.process.poll() is None, f"Prometheus has ended: {text}")
        found = re.search(r'"Listening on" address=(\S+)', text)
        return found and f"http://{found[1]}"

    def query(self, url, expression):
        """The value of an expression; None while there is none."""
        try:
            query = urllib.parse.urlencode({"query": expression})
            result = json.loads(get(f"{url}/api/v1/query?{query}"))["data"]["result"]
        except OSError:
            return None
        return float(result[0]["value"][1]) if result else None

    def wait_for(self, expression, value):
        url = wait_until(self.url, "Prometheus listens")

        def is_scraped():
            return self.query(url, expression) == value

        wait_until(is_scraped, f"{expression} is {value}", interval=0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(LIMIT)


def values_can_be_queried_after_a_scrape(program):
    with metered(program) as service, tempfile.TemporaryDirectory() as directory:
        target = urllib.parse.urlsplit(service.metrics_url()).netloc
        expected = {
            'up{job="mio-echo"}': 1,
            "mio_echo_connections_accepted_total": 1,
            'mio_echo_connections_closed_total{reason="peer_closed"}': 1,
            "mio_echo_sent_bytes_total": len(MESSAGE),
            "mio_echo_connections_active": 0,
        }
        with Prometheus(directory, target) as prometheus:
            for expression, value in expected.items():
                prometheus.wait_for(expression, value)
        return f"{len(expected)} values"


CHECKS = [promtool_accepts_the_text, values_can_be_queried_after_a_scrape]

if __name__ == "__main__":
    harness.main(__doc__, harness.each(CHECKS))
