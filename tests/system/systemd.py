"""The units in examples/systemd: what systemd says of them, and the program under their filter.

usage: systemd.py PROGRAM

No systemd runs here. It checks the units offline; and the system calls that the service's unit
does not allow kill the program, instead of failing, while it does all that it can. Needs the
packages systemd, for systemd-analyze(1), and libseccomp2.
"""

import contextlib
import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile

from harness import echo, require

UNITS = "examples/systemd"
EXPOSURE = 1.0  # at most
LIMIT = 60  # seconds, for each wait
BULK = os.urandom(16_000_000)

# Of <seccomp.h>.
SCMP_ACT_KILL_PROCESS = 0x80000000
SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO = 0x00050000
SCMP_CMP_NE = 1
SCMP_CMP_EQ = 4
SCMP_ERROR = -1


def analyze(*arguments):
    run = subprocess.run(["systemd-analyze", *arguments], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    require(run.returncode == 0, f"systemd-analyze {' '.join(arguments)}:\n{run.stdout}")
    return run.stdout


def exposure_is_low():
    said = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}",
                   f"{UNITS}/mio-echo.service")
    print(said.strip().splitlines()[-1])


def units_are_sound(program):
    """As far as they can be verified where their program is not installed."""
    with tempfile.TemporaryDirectory() as directory:
        for name in "mio-echo.socket", "mio-echo.service":
            with open(f"{UNITS}/{name}", encoding="utf-8") as unit:
                text = unit.read().replace("/usr/local/bin/mio-echo", os.path.abspath(program))
            with open(f"{directory}/{name}", "w", encoding="utf-8") as unit:
                unit.write(text)
        said = analyze("verify", f"{directory}/mio-echo.socket", f"{directory}/mio-echo.service")
        # It says what it overlooks, and exits with 0.
        about_these = [line for line in said.splitlines() if "mio-echo" in line]
        require(not about_these, "\n".join(about_these))


def groups():
    """The names in each group of system calls, groups among them."""
    groups = {}
    for line in analyze("syscall-filter", "--no-pager").splitlines():
        if line.startswith("@"):
            names = groups.setdefault(line.strip(), set())
        elif name := re.match(r" +(@?[a-z0-9_-]+)$", line):
            names.add(name[1])
    return groups


def allowed():
    """The system calls that the service may make."""
    known, calls = groups(), {"@default"}

    def expanded(names):
        for name in names:
            yield from expanded(known[name]) if name.startswith("@") else [name]

    with open(f"{UNITS}/mio-echo.service", encoding="utf-8") as unit:
        lines = re.findall(r"^SystemCallFilter=(~?)(.*)$", unit.read(), re.MULTILINE)
    calls = set(expanded(calls))
    for is_denied, names in lines:
        names = set(expanded(names.split()))
        calls = calls - names if is_denied else calls | names
    return calls


class Comparison(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("operator", ctypes.c_int),
                ("datum", ctypes.c_uint64), ("unused", ctypes.c_uint64)]


def confine(calls):
    """From now on this process may make these calls alone, and has no sockets but Unix sockets."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_init.argtypes = [ctypes.c_uint32]
    seccomp.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int,
                                         ctypes.c_uint]
    seccomp.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int,
                                               ctypes.c_uint, ctypes.c_void_p]
    seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
    context = seccomp.seccomp_init(SCMP_ACT_KILL_PROCESS)
    # As RestrictAddressFamilies=AF_UNIX has it.
    others = Comparison(0, SCMP_CMP_NE, socket.AF_UNIX, 0)
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    refuse = SCMP_ACT_ERRNO | errno.EAFNOSUPPORT
    seccomp.seccomp_rule_add_array(context, refuse, number, 1, ctypes.byref(others))
    same = Comparison(0, SCMP_CMP_EQ, socket.AF_UNIX, 0)
    seccomp.seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, ctypes.byref(same))
    for call in calls - {"socket"}:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number != SCMP_ERROR:
            seccomp.seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0)
    require(seccomp.seccomp_load(context) == 0, "the filter is not taken")


class Service:
    """The program under the filter, with sockets and a supervisor."""

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
        try:
            high = [os.dup2(number, 100 + index) for index, number in enumerate(sockets)]
            for index, number in enumerate(high):
                os.dup2(number, 3 + index)
            environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high))}
            confine(calls)
            os.execve(program, [program, "--drain-timeout", "100ms"], environment)
        finally:
            os._exit(1)

    def hears(self, message):
        while self.manager.recv(4096).decode() != message:
            pass

    def status(self):
        """How it ends."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def echo_datagrams(place):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        for _ in range(50):
            client.sendto(b"hello", place)
        for _ in range(50):
            require(client.recv(6) == b"hello", "another datagram")


def runs_under_its_filter(program):
    with tempfile.TemporaryDirectory() as directory:
        service = Service(program, allowed(), directory)
        service.hears("READY=1\nSTATUS=0 connections")
        echo(service.tcp.getsockname(), BULK)
        echo(f"{directory}/echo", BULK)
        echo_datagrams(service.udp.getsockname())
        service.hears("WATCHDOG=1")
        # One that does not end by itself, so that the drain time passes.
        with socket.create_connection(service.tcp.getsockname()) as client:
            client.sendall(b"!")
            require(client.recv(1) == b"!", "another byte")
            os.kill(service.pid, signal.SIGTERM)
            service.hears("STOPPING=1")
            status = service.status()
        require(status == 0, f"status {status}")


def the_filter_kills(program):
    """Without splice(2) it is killed: what is checked above is more than nothing."""
    with tempfile.TemporaryDirectory() as directory:
        service = Service(program, allowed() - {"splice"}, directory)
        service.hears("READY=1\nSTATUS=0 connections")
        with contextlib.suppress(AssertionError):
            echo(service.tcp.getsockname(), BULK)
        require(service.status() == -signal.SIGSYS, "it was not killed")


def main(program):
    exposure_is_low()
    units_are_sound(program)
    runs_under_its_filter(program)
    the_filter_kills(program)
    print("4 passed, 0 failed")


main(sys.argv[1])
