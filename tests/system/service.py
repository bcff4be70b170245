"""The built program as a process: its log, its endpoints, its metrics, what it uses."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request

from harness import LIMIT, require, wait_until

TICKS = os.sysconf("SC_CLK_TCK")  # per second
# The kernel kills the process when the thread that started it ends, however that ends.
KILLED_WITH_SCRIPT = "setpriv", "--pdeathsig", "KILL"


class Ended(AssertionError):
    """The program ended before it listened."""

    def __init__(self, status, log):
        super().__init__(f"exit status {status}\n{log}")
        self.status, self.log = status, log


def require_one_error(status, log):
    """Exit status 1, and one error, which is the last line of the log."""
    require(status == 1, f"exit status {status}\n{log}")
    lines = log.splitlines()
    errors = [line for line in lines if line.startswith("mio-echo: ")]
    require(errors == lines[-1:], f"not one error at the end:\n{log}")


def get(url):
    """The body of an HTTP answer."""
    # Not through a proxy that the environment may name.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=LIMIT) as answer:
        return answer.read().decode()


class Service:
    """The program, serving. It is killed at the end of a `with` block.

    `prefix` is a command that executes the program, `trace` makes strace(1) trace it, and it is
    started while the context `inside` is entered.
    """

    def __init__(self, program, *arguments, prefix=(), trace=None, inside=contextlib.nullcontext()):
        """Returns when the program listens everywhere. An argument is an endpoint or an option with
        its value (`--name=value`); an endpoint with a scheme is one socket, others are two."""
        self.trace = trace
        command = [*prefix, program, *arguments]
        if trace:
            # Both are killed: strace(1) leaves alone what it traced.
            command = [*trace.command, *KILLED_WITH_SCRIPT, *command]
        with inside:
            self.process = subprocess.Popen(
                [*KILLED_WITH_SCRIPT, *command],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # Ctrl-C ends the script, which ends the program.
                start_new_session=True,
            )
        self.lines = []
        self.reader = threading.Thread(target=self.read_log)
        self.reader.start()
        try:
            self.wait_until_listening(arguments)
        except BaseException:
            self.close()
            raise

    def read_log(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def wait_until_listening(self, arguments):
        endpoints = [argument for argument in arguments if not argument.startswith("-")]
        sockets = sum(1 if re.match("(tcp|udp)://|unix:", text) else 2 for text in endpoints)
        has_metrics = any(argument.startswith("--metrics=") for argument in arguments)

        def ready():
            is_over = not self.reader.is_alive()  # asked first: the log is complete then
            if len(self.listening()) >= sockets and (not has_metrics or self.metrics_url()):
                return True
            if is_over:
                raise Ended(self.process.wait(LIMIT), self.log())

        wait_until(ready, f"the program listens on {sockets} sockets")
        # Under strace(1), the program is its child.
        self.pid = self.child() if self.trace else self.process.pid

    def child(self):
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(children, encoding="ascii") as file:
            pids = file.read().split()
        if not pids:
            self.reader.join(LIMIT)
            raise Ended(self.process.wait(LIMIT), self.log())
        return int(pids[0])

    def log(self):
        return "".join(self.lines)

    def wait_for_log(self, text):
        wait_until(lambda: text in self.log(), f"the log says {text!r}")

    def listening(self):
        """The scheme and the address of each socket. The address of a Unix socket is a string."""
        sockets = []
        for line in re.findall(r"listening on (.*)", self.log()):
            if ip := re.fullmatch(r"(tcp|udp)://\[?(.*?)\]?:(\d+)", line):
                sockets.append((ip[1], (ip[2], int(ip[3]))))
            else:
                sockets.append(("unix", line.removeprefix("unix:")))
        return sockets

    @property
    def stream_addresses(self):
        return [address for scheme, address in self.listening() if scheme != "udp"]

    @property
    def udp_addresses(self):
        return [address for scheme, address in self.listening() if scheme == "udp"]

    @property
    def address(self):
        """The first: of those over TCP, if there is one."""
        return self.listening()[0][1]

    # Metrics. They need the option `--metrics`.

    def metrics_url(self):
        found = re.search(r"metrics on (http://[^/\s]+)", self.log())
        return found and f"{found[1]}/metrics"

    def metrics_text(self):
        return get(self.metrics_url())

    def counters(self):
        """The values by name, without the prefix: `loop_iterations_total`, and so on."""
        found = re.findall(r"^mio_echo_(\S+) (\d+)$", self.metrics_text(), re.MULTILINE)
        return {name: int(value) for name, value in found}

    def active(self):
        return self.counters()["connections_active"]

    def closed(self):
        """The number of closed connections by reason, without those that are 0."""
        pattern = re.compile(r'connections_closed_total\{reason="(\w+)"\}')
        found = ((pattern.fullmatch(name), value) for name, value in self.counters().items())
        return {match[1]: value for match, value in found if match and value}

    # Resources.

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, name="VmRSS"):
        """A size from proc_pid_status(5), in KiB."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            return int(re.search(rf"{name}:\s+(\d+)", file.read())[1])

    def stat(self):
        """The fields of proc_pid_stat(5) that follow the name, from the state on."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()

    def state(self):
        """The state of the process: T if it is stopped, t if it is stopped under strace(1)."""
        return self.stat()[0]

    def cpu_time(self):
        user, system = self.stat()[11:13]
        return (int(user) + int(system)) / TICKS

    def require_idle(self, seconds):
        before = self.cpu_time()
        time.sleep(seconds)
        used = self.cpu_time() - before
        limit = 0.05 + seconds / 10
        require(used <= limit, f"{used:.2f} s of CPU time in {seconds} s without work")

    # The end.

    def is_running(self):
        return self.process.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    @contextlib.contextmanager
    def stopped(self):
        """The process is stopped by SIGSTOP."""
        self.signal(signal.SIGSTOP)
        wait_until(lambda: self.state() in "Tt", "the process is stopped")
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def wait(self):
        """Waits for the end of the process. Returns its exit status and its log."""
        status = self.process.wait(LIMIT)
        self.reader.join(LIMIT)
        require("panicked" not in self.log(), self.log())
        return status, self.log()

    def require_success(self):
        """Waits for the end of the process, with exit status 0. Returns its log."""
        status, log = self.wait()
        require(status == 0, f"exit status {status}\n{log}")
        return log

    def stop(self):
        """Ends the process by SIGTERM. Returns its log."""
        self.signal(signal.SIGTERM)
        return self.require_success()

    def close(self):
        """Kills the process if it still runs."""
        self.process.kill()
        self.process.wait(LIMIT)
        self.reader.join(LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class EveryEndpoint(Service):
    """With endpoints of all kinds: TCP and UDP over IPv4, both over IPv6, and a Unix socket."""

    def __init__(self, program, *arguments, **options):
        self.directory = tempfile.TemporaryDirectory(prefix="mio-echo-")
        endpoints = "127.0.0.1:0", "[::1]:0", f"unix:{self.directory.name}/socket"
        super().__init__(program, *endpoints, *arguments, **options)

    def close(self):
        super().close()
        self.directory.cleanup()


class MeteredService(EveryEndpoint):
    """With metrics."""

    def __init__(self, program, *arguments, **options):
        super().__init__(program, "--metrics=tcp://127.0.0.1:0", *arguments, **options)


class Trace:
    """System calls that strace(1) records, and the errors that it injects in their place.

    A fault is the name of a call, or a name with what strace(1) is to inject, such as
    `splice:error=EACCES:when=2`.
    """

    def __init__(self, *faults):
        self.directory = tempfile.TemporaryDirectory(prefix="mio-echo-trace-")
        self.path = f"{self.directory.name}/trace"
        calls = ",".join(fault.partition(":")[0] for fault in faults)
        # Other calls do not stop the process; -yy shows both ends of each connection.
        self.command = ["strace", "-f", "--seccomp-bpf", "-yy", "-o", self.path]
        self.command += ["-e", f"trace={calls}"]
        for fault in faults:
            if ":" in fault:
                self.command += ["-e", f"inject={fault}"]

    def lines(self):
        with open(self.path, encoding="ascii", errors="replace") as file:
            return list(file)

    def injected(self):
        """The calls that failed with an injected error."""
        return [line for line in self.lines() if "(INJECTED)" in line]

    def hit(self):
        """The peers of the connections whose calls failed; see `clients.name_of`."""
        return set(re.findall(r"->(\d+|\S+:\d+)[],]", "".join(self.injected())))
