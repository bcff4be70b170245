"""Prometheus takes what the built program tells it: promtool finds no fault with the text, and
after a scrape the counters are there to be asked for.

usage: metrics.py PROGRAM
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from harness import require

LIMIT = 60  # seconds, for whatever is waited for
ECHOED = b"hello, Prometheus\n"

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: mio-echo
    static_configs: [targets: ["{place}"]]
"""


def get(url):
    # Not by a proxy that the environment may name.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=LIMIT) as answer:
        return answer.read().decode()


def places(log):
    """Where the program serves, and where it has metrics."""
    found = {}
    while len(found) < 2:
        line = log.readline()
        require(line, "the service has ended")
        if match := re.search(r"(listening on tcp|metrics on http)://([^/\s]+)", line):
            found[match[1]] = match[2]
    return found["listening on tcp"], found["metrics on http"]


def echo(place):
    host, port = place.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=LIMIT) as client:
        client.sendall(ECHOED)
        require(client.recv(len(ECHOED), socket.MSG_WAITALL) == ECHOED, "no echo")


def check_text(text):
    """promtool's own rules: names, units, help and types."""
    command = ["promtool", "check", "metrics"]
    run = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    require(run.returncode == 0, f"promtool: {run.stdout}{run.stderr}")
    print(f"promtool: {len(re.findall('^# TYPE', text, re.M))} metrics: ok", flush=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def stop(process):
    process.terminate()
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def query(url, expression):
    """The value of an expression; None while there is none, or nobody to ask."""
    try:
        question = urllib.parse.urlencode({"query": expression})
        answer = json.loads(get(f"{url}/api/v1/query?{question}"))
    except OSError:
        return None
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def check_scrape(place, expected):
    """A Prometheus of its own scrapes the program, and tells what it has found."""
    with tempfile.TemporaryDirectory() as directory:
        config = pathlib.Path(directory, "prometheus.yml")
        config.write_text(CONFIG.format(place=place), encoding="ascii")
        port = free_port()
        command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with open(f"{directory}/log", "w+", encoding="utf-8") as log:
            prometheus = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                wait_for(f"http://127.0.0.1:{port}", expected, prometheus)
            except AssertionError:
                log.seek(0)
                print(log.read())
                raise
            finally:
                stop(prometheus)


def wait_for(url, expected, prometheus):
    end = time.monotonic() + LIMIT
    for expression, value in expected.items():
        while (found := query(url, expression)) != value:
            require(prometheus.poll() is None, "Prometheus has ended")
            require(time.monotonic() < end, f"{expression} is {found}, not {value}")
            time.sleep(0.1)
        print(f"prometheus: {expression} is {value}: ok", flush=True)


def check(program):
    command = [program, "tcp://127.0.0.1:0", "--metrics", "tcp://127.0.0.1:0"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # Its log is read without a limit of its own.
    alarm = threading.Timer(5 * LIMIT, service.kill)
    alarm.start()
    try:
        serves, counts = places(service.stderr)
        echo(serves)
        check_text(get(f"http://{counts}/metrics"))
        expected = {
            'up{job="mio-echo"}': 1,
            "mio_echo_connections_accepted_total": 1,
            'mio_echo_connections_closed_total{reason="peer_closed"}': 1,
            "mio_echo_sent_bytes_total": len(ECHOED),
            "mio_echo_connections_active": 0,
        }
        check_scrape(counts, expected)
    finally:
        alarm.cancel()
        status = stop(service)
    require(status == 0, f"exit status {status}")


check(sys.argv[1])
