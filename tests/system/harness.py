"""The built program as a process, and clients that compare what comes back from it."""

import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

LIMIT = 60  # seconds, for each conversation
PIECE = 1 << 18  # bytes, in one call at the most
TICK = os.sysconf("SC_CLK_TCK")


def require(condition, message):
    if not condition:
        raise AssertionError(message)


class Ended(AssertionError):
    """The program ended before it listened."""

    def __init__(self, status, log):
        super().__init__(f"exit status {status}\n{log}")
        self.status, self.log = status, log


def wait_until(ready, what, limit=LIMIT):
    end = time.monotonic() + limit
    while not ready():
        require(time.monotonic() < end, f"waited for {limit} s until {what}")
        time.sleep(0.002)


def connect(place, buffer=None):
    """A client of a host and port, or of a Unix socket: its path, or @ and its name."""
    is_unix = isinstance(place, str)
    if is_unix and place.startswith("@"):
        place = "\0" + place[1:]
    client = socket.socket(socket.AF_UNIX if is_unix else family_of(place))
    client.settimeout(LIMIT)
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        client.connect(place)
    except OSError:
        client.close()
        raise
    return client


def family_of(place):
    return socket.AF_INET6 if ":" in place[0] else socket.AF_INET


def end_of(client):
    """What strace calls the client's end of a connection."""
    if client.family == socket.AF_UNIX:
        return str(os.fstat(client.fileno()).st_ino)
    host, port = client.getsockname()[:2]
    return f"[{host}]:{port}" if client.family == socket.AF_INET6 else f"{host}:{port}"


class Service:
    """The program, with endpoints of every kind; under strace, if there are `faults` to inject."""

    def __init__(self, program, *arguments, faults=()):
        self.directory = tempfile.TemporaryDirectory(prefix="mio-echo-")
        self.trace = f"{self.directory.name}/trace"
        unix = f"{self.directory.name}/socket"
        command = [program, "127.0.0.1:0", "[::1]:0", f"unix:{unix}", *arguments]
        if faults:
            command = [*strace(faults, self.trace), *command]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log, self.places = [], []
        # Reading its log has no limit of its own.
        alarm = threading.Timer(LIMIT, self.kill_all)
        alarm.start()
        self.pid = self.find_pid(bool(faults)) if self.read_places() else None
        alarm.cancel()
        if self.pid is None:
            self.log.extend(self.process.stderr)
            status = self.process.wait(LIMIT)
            self.directory.cleanup()
            raise Ended(status, "".join(self.log))
        # Over TCP or UDP, for whom one is enough.
        self.place = self.places[0]
        self.datagram_places = tuple(self.places)
        self.places.append(unix)
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr))
        self.reader.start()

    def read_places(self):
        """Where it listens, from its log. Says whether it listens everywhere."""
        for line in self.process.stderr:
            self.log.append(line)
            if listening := re.search(r"listening on udp://\[?(.*?)\]?:(\d+)$", line):
                self.places.append((listening[1], int(listening[2])))
            if "listening on unix:" in line:
                return True
        return False

    def kill_all(self):
        """strace(1) does not take the program with it."""
        for pid in *self.children(), self.process.pid:
            os.kill(pid, signal.SIGKILL)

    def find_pid(self, is_traced):
        """The program's process: a child of the one that was started, if that is strace. None if it
        has ended since it listened."""
        return next(iter(self.children()), None) if is_traced else self.process.pid

    def children(self):
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(children, encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def ask(self, place, data, patience=1):
        """Sends a datagram until it comes back. Gives how often that was."""
        with self.datagram_client(place) as client:
            client.settimeout(patience)
            for attempt in range(1, 11):
                client.send(data)
                try:
                    require(client.recv(65536) == data, "another datagram")
                    return attempt
                except TimeoutError:
                    pass
        raise AssertionError("datagrams are not answered")

    def datagram_client(self, place):
        """One whose port is none of the service's: who asks from there gets no answer."""
        ports = {port for _, port in self.datagram_places}
        while True:
            client = socket.socket(family_of(place), socket.SOCK_DGRAM)
            client.connect(place)
            if client.getsockname()[1] not in ports:
                return client
            client.close()

    def injected(self):
        """The calls that failed because they were made to."""
        with open(self.trace, encoding="ascii", errors="replace") as file:
            return [line for line in file if "(INJECTED)" in line]

    def hit(self):
        """The ends of the peers whose calls these were."""
        return set(re.findall(r"->(\d+|\S+:\d+)[],]", "".join(self.injected())))

    def signal(self, number):
        os.kill(self.pid, number)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """What is resident, in KiB."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])

    def cpu_time(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def require_idle(self, seconds):
        before = self.cpu_time()
        time.sleep(seconds)
        used = self.cpu_time() - before
        require(used <= 0.05 + seconds / 10, f"{used:.2f} s of CPU time while idle")

    def wait(self):
        """Waits for its end, and gives its exit status and its log."""
        status = self.process.wait(LIMIT)
        self.reader.join()
        log = "".join(self.log)
        require("panic" not in log, log)
        return status, log

    def stop(self):
        """Ends it, and gives its log."""
        self.signal(signal.SIGTERM)
        status, log = self.wait()
        require(status == 0, f"exit status {status}\n{log}")
        return log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Whatever has happened, nothing is left running."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait(LIMIT)
        self.reader.join()
        self.directory.cleanup()


class CountedService(Service):
    """The program with its metrics, read over HTTP."""

    def __init__(self, program, *arguments, **options):
        super().__init__(program, "--metrics", "tcp://127.0.0.1:0", *arguments, **options)
        try:
            wait_until(self.metrics_url, "the metrics are served")
        except AssertionError:
            self.__exit__()
            raise

    def metrics_url(self):
        found = re.search(r"metrics on (http://[^/\s]+)", "".join(self.log))
        return found and f"{found[1]}/metrics"

    def counters(self):
        """Each value by its name, without the prefix: `loop_turns_total`, and so on."""
        # Not by a proxy that the environment may name.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.metrics_url(), timeout=LIMIT) as answer:
            text = answer.read().decode()
        found = re.findall(r"^mio_echo_(\S+) (\d+)$", text, re.MULTILINE)
        return {name: int(value) for name, value in found}

    def active(self):
        return self.counters()["connections_active"]

    def closed(self):
        """How many connections were closed, by reason; without those reasons that did not occur."""
        pattern = re.compile(r'connections_closed_total\{reason="(\w+)"\}')
        found = ((pattern.fullmatch(name), value) for name, value in self.counters().items())
        return {match[1]: value for match, value in found if match and value}


def strace(faults, trace):
    calls = ",".join(fault.partition(":")[0] for fault in faults)
    # Not stopped by other calls than these; and each with both ends of its connection.
    command = ["strace", "-f", "--seccomp-bpf", "-yy", "-o", trace, "-e", f"trace={calls}"]
    for fault in faults:
        if ":" in fault:
            command += ["-e", f"inject={fault}"]
    return command


class Talk:
    """A conversation in a stream: `data` is sent, `window` ahead of what comes back at the most."""

    def __init__(self, place, data, window):
        self.place, self.data, self.window = place, memoryview(data), window
        self.end, self.sent, self.received = None, 0, 0
        self.is_half_closed = self.is_complete = False
        self.problem = None

    def run(self, is_hit=lambda end: False):
        """Talks to the end of the stream; or to an error; or until nothing moves, if it is hit."""
        deadline = time.monotonic() + LIMIT
        try:
            with connect(self.place) as client:
                self.end = end_of(client)
                client.setblocking(False)
                while not self.is_complete:
                    require(time.monotonic() < deadline, f"too slow: {self}")
                    if not self.wait(client) and is_hit(self.end):
                        self.problem = "nothing comes"
                        break
                    self.move(client)
        except (OSError, AssertionError) as error:
            self.problem = repr(error)
        return self

    def __str__(self):
        return f"{len(self.data)} bytes, {self.sent} sent, {self.received} back"

    def allowed(self):
        return min(len(self.data), self.received + self.window, self.sent + PIECE)

    def wait(self, client):
        poll = select.poll()
        to_send = select.POLLOUT if self.sent < self.allowed() else 0
        poll.register(client, select.POLLIN | to_send)
        return poll.poll(200)

    def move(self, client):
        self.send(client)
        try:
            chunk = client.recv(PIECE)
        except BlockingIOError:
            return
        start, self.received = self.received, self.received + len(chunk)
        if self.data[start : self.received] != chunk:
            # Worse than an error of the connection: no fault excuses it.
            raise ValueError(f"other bytes behind {start}")
        if not chunk:
            require(self.received == len(self.data), f"the end after {self.received} bytes")
            self.is_complete = True

    def send(self, client):
        try:
            if self.sent < self.allowed():
                self.sent += client.send(self.data[self.sent : self.allowed()])
        except BlockingIOError:
            return
        if self.sent == len(self.data) and not self.is_half_closed:
            client.shutdown(socket.SHUT_WR)
            self.is_half_closed = True


def echo(place, data):
    """Sends `data` and half-closes, and meanwhile reads to the end of the stream."""
    talk = Talk(place, data, window=len(data)).run()
    require(talk.is_complete, talk.problem)
