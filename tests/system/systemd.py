"""The units in examples/systemd: what systemd says about them, and the program under their filter.

No systemd runs here. It checks the units offline. For the other checks, system calls that the
service's unit does not allow kill the program instead of failing. Needs the packages systemd, for
systemd-analyze(1), and libseccomp2.
"""

import contextlib
import ctypes
import errno
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile

import harness
from clients import DATA, connect, echo, exchange
from harness import LIMIT, require, wait_until

UNITS = pathlib.Path(__file__).parents[2] / "examples" / "systemd"
MAX_EXPOSURE = 1.0

# Of <seccomp.h>.
SCMP_ACT_KILL_PROCESS = 0x80000000
SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO = 0x00050000
SCMP_CMP_NE = 1
SCMP_CMP_EQ = 4
SCMP_ERROR = -1


def analyze(*arguments):
    run = subprocess.run(
        ["systemd-analyze", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    require(run.returncode == 0, f"systemd-analyze {' '.join(arguments)}:\n{run.stdout}")
    return run.stdout


def exposure_is_low(_program):
    threshold = f"--threshold={MAX_EXPOSURE * 10:.0f}"
    output = analyze("security", "--offline=true", threshold, f"{UNITS}/mio-echo.service")
    return output.strip().splitlines()[-1]


def units_have_no_errors(program):
    """As far as systemd can verify units whose program is not installed."""
    with tempfile.TemporaryDirectory() as directory:
        copies = []
        for name in "mio-echo.socket", "mio-echo.service":
            text = (UNITS / name).read_text(encoding="utf-8")
            text = text.replace("ExecStart=mio-echo", f"ExecStart={program}")
            copies.append(pathlib.Path(directory, name))
            copies[-1].write_text(text, encoding="utf-8")
        output = analyze("verify", *map(str, copies))
        # Warnings do not change the exit status.
        warnings = [line for line in output.splitlines() if "mio-echo" in line]
        require(not warnings, "\n".join(warnings))


def groups():
    """The members of each group of system calls: calls and other groups."""
    groups = {}
    for line in analyze("syscall-filter", "--no-pager").splitlines():
        if line.startswith("@"):
            names = groups.setdefault(line.strip(), set())
        elif name := re.match(r" +(@?[a-z0-9_-]+)$", line):
            names.add(name[1])
    return groups


def allowed():
    """The system calls that the unit allows."""
    known = groups()

    def expanded(names):
        for name in names:
            yield from expanded(known[name]) if name.startswith("@") else [name]

    unit = (UNITS / "mio-echo.service").read_text(encoding="utf-8")
    calls = set(expanded({"@default"}))
    for is_denied, names in re.findall(r"^SystemCallFilter=(~?)(.*)$", unit, re.MULTILINE):
        names = set(expanded(names.split()))
        calls = calls - names if is_denied else calls | names
    return calls


class Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("datum", ctypes.c_uint64),
        ("unused", ctypes.c_uint64),
    ]


def confine(calls):
    """Restricts this process to these calls, and socket(2) to Unix sockets."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    add = seccomp.seccomp_rule_add_array
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_init.argtypes = [ctypes.c_uint32]
    seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
    add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    context = seccomp.seccomp_init(SCMP_ACT_KILL_PROCESS)
    # RestrictAddressFamilies=AF_UNIX makes socket(2) fail for other families.
    fail = SCMP_ACT_ERRNO | errno.EAFNOSUPPORT
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    for action, operator in (fail, SCMP_CMP_NE), (SCMP_ACT_ALLOW, SCMP_CMP_EQ):
        comparison = Comparison(0, operator, socket.AF_UNIX, 0)
        add(context, action, number, 1, ctypes.byref(comparison))
    for call in calls - {"socket"}:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number != SCMP_ERROR:
            add(context, SCMP_ACT_ALLOW, number, 0, None)
    require(seccomp.seccomp_load(context) == 0, "the kernel did not load the filter")


class ConfinedService:
    """The program under the filter, with inherited sockets and a service manager."""

    def __init__(self, program, calls, directory):
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(f"{directory}/echo")
        self.unix.listen()
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(f"{directory}/notify")
        self.manager.settimeout(LIMIT)
        sockets = self.tcp.fileno(), self.udp.fileno(), self.unix.fileno()
        environment = {"NOTIFY_SOCKET": f"{directory}/notify", "WATCHDOG_USEC": "200000"}
        self.pid = os.fork()
        if self.pid == 0:
            self.become(program, calls, sockets, environment)

    def become(self, program, calls, sockets, environment):
        """In the child: replaces this script with the program."""
        try:
            high = [os.dup2(number, 100 + index) for index, number in enumerate(sockets)]
            for index, number in enumerate(high):
                os.dup2(number, 3 + index)
            environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high))}
            confine(calls)
            os.execve(program, [program, "-q", "--drain-timeout=100ms"], environment)
        finally:
            os._exit(1)

    def wait_for_message(self, message):
        while self.manager.recv(4096).decode() != message:
            pass

    def wait(self):
        """Waits for the end of the program. Returns its exit status."""

        def end():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return (pid, status) if pid else None

        _, status = wait_until(end, "the program ends")
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        for opened in self.tcp, self.udp, self.unix, self.manager:
            opened.close()


@contextlib.contextmanager
def confined(program, calls):
    with tempfile.TemporaryDirectory() as directory:
        with ConfinedService(program, calls, directory) as service:
            yield service


def echo_datagrams(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        for _ in range(50):
            client.sendto(b"hello", address)
        for _ in range(50):
            require(client.recv(6) == b"hello", "another datagram came back")


def program_runs_under_the_filter(program):
    with confined(program, allowed()) as service:
        service.wait_for_message("READY=1\nSTATUS=0 connections")
        echo(service.tcp.getsockname(), DATA)
        echo(service.unix.getsockname(), DATA)
        echo_datagrams(service.udp.getsockname())
        service.wait_for_message("WATCHDOG=1")
        # A connection that stays open, so that the drain time passes.
        with connect(service.tcp.getsockname()) as client:
            exchange(client, b"!")
            os.kill(service.pid, signal.SIGTERM)
            service.wait_for_message("STOPPING=1")
            status = service.wait()
        require(status == 0, f"exit status {status}")


def program_is_killed_by_a_call_that_the_filter_denies(program):
    """splice(2) is called at the start. So the filter of the check before is in force."""
    with confined(program, allowed() - {"splice"}) as service:
        status = service.wait()
        require(status == -signal.SIGSYS, f"exit status {status}")


CHECKS = [
    exposure_is_low,
    units_have_no_errors,
    program_runs_under_the_filter,
    program_is_killed_by_a_call_that_the_filter_denies,
]

if __name__ == "__main__":
    harness.main(__doc__, harness.each(CHECKS))
