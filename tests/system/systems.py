"""The program and the tests as they are built for another system: for Windows under Wine, and for
64-bit ARM under QEMU.

PROGRAM is where Cargo puts it: DIRECTORY/TARGET/debug/mio-echo. The tests beside it are those of
`cargo test --no-run --target TARGET`.

Needs wine64 and gcc-mingw-w64-x86-64, or qemu-user-static.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import harness
from clients import DATA, connect, echo, exchange
from harness import LIMIT, Check, require
from service import KILLED_WITH_SCRIPT, Service

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS_LIMIT = 300  # seconds, for each test binary
DATAGRAM_SIZES = 0, 1, 1_472, 8_000, 65_507

# Rust's standard library takes random numbers from a library that Wine 8 does not have.
BCRYPTPRIMITIVES = """
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(PUCHAR bytes, SIZE_T size) {
    return RtlGenRandom(bytes, size);
}
"""


class Wine:
    NO_ECONNRESET = "recv and accept do not return the error of a reset"
    # Beginnings of names of tests that are not run, and why.
    EXCLUDED = {
        "reset::": NO_ECONNRESET,
        "control::events_tell_of_each_connection": NO_ECONNRESET,
        "control::limits_and_allow_list_hold_for_adopted": NO_ECONNRESET,
        "peer::that_resets": NO_ECONNRESET,
    }
    SEEDS = 5_000
    # One by one: now and then Wine fails to start several processes at once.
    OPTIONS = ["--test-threads=1"]
    ENVIRONMENT = {}

    @contextlib.contextmanager
    def emulator(self):
        """The command that executes a program, in a directory of its own."""
        # Debian has the commands there if only the package wine64 is installed.
        path = f"{os.environ['PATH']}:/usr/lib/wine"
        wine, server = (shutil.which(name, path=path) for name in ("wine64", "wineserver64"))
        require(wine and server, "wine64 is missing")
        with tempfile.TemporaryDirectory(
            prefix="mio-echo-wine-", ignore_cleanup_errors=True
        ) as directory:
            settings = ["env", f"WINEPREFIX={directory}", "WINEDEBUG=-all"]
            try:
                output_of([*settings, wine, "wineboot"])
                add_bcryptprimitives(pathlib.Path(directory, "drive_c/windows/system32"))
                yield [*settings, wine]
            finally:
                # It ends with its last program, if that has not happened already.
                output_of([*settings, server, "--wait"])

    def stop(self, service, client):
        """There are no signals. The program ends with the `with` block."""


class Qemu:
    NO_OPTION = "QEMU lacks a socket option"
    EXCLUDED = {
        "bound_socket::error_queue_of": NO_OPTION,
        "bound_socket::options_that_would_break": NO_OPTION,
        "bound_socket::receive_buffer_drops": NO_OPTION,
        "control::options_that_would_break": NO_OPTION,
        "datagram::receive_buffer_drops": NO_OPTION,
        "dropped::broadcast_and_multicast": NO_OPTION,
        "guide::": "measures processor time and latency, and runs steps behind a shell",
    }
    SEEDS = 500  # it is slow
    OPTIONS = []
    # For the processes that tests start.
    ENVIRONMENT = {"EMULATOR": "qemu-aarch64-static"}

    @contextlib.contextmanager
    def emulator(self):
        yield ["qemu-aarch64-static"]

    def stop(self, service, client):
        """SIGTERM drains: open connections are served."""
        service.signal(signal.SIGTERM)
        service.wait_for_log("shutting down")
        exchange(client, b"drained")
        client.close()
        service.require_success()


OVER_SOCKETS = "--test=library", "--test=process", "--test=examples"
SYSTEMS = {"x86_64-pc-windows-gnu": Wine(), "aarch64-unknown-linux-musl": Qemu()}


def output_of(command, limit=LIMIT, **options):
    """The output of a command that succeeds."""
    run = subprocess.run(
        [*KILLED_WITH_SCRIPT, *command],
        capture_output=True, text=True, errors="replace", timeout=limit, check=False, **options,
    )
    if run.returncode != 0:
        print(run.stdout, run.stderr, sep="\n")
    require(run.returncode == 0, f"exit status {run.returncode} of {' '.join(command)}")
    return run.stdout


def add_bcryptprimitives(directory):
    library = directory / "bcryptprimitives.dll"
    if not library.exists():
        compiler = ["x86_64-w64-mingw32-gcc", "-shared", "-x", "c", "-", "-o", str(library)]
        output_of([*compiler, "-ladvapi32"], input=BCRYPTPRIMITIVES)


class Tests:
    """The tests that Cargo has built for the target of the program."""

    def __init__(self, program, system, emulator):
        self.target = pathlib.Path(program).parents[1]
        self.options, self.excluded = system.OPTIONS, system.EXCLUDED
        runner = f"CARGO_TARGET_{self.target.name.upper().replace('-', '_')}_RUNNER"
        self.environment = {
            **os.environ,
            "CARGO_TARGET_DIR": str(self.target.parent),
            "SEEDS": str(system.SEEDS),
            **system.ENVIRONMENT,
            runner: " ".join(["timeout", str(TESTS_LIMIT), *emulator]),
        }

    def cargo_test(self, binaries, *arguments):
        command = ["cargo", "test", "--locked", "--target", self.target.name, *binaries, "--"]
        limit = 2 * TESTS_LIMIT
        return output_of([*command, *arguments], limit, cwd=ROOT, env=self.environment)

    def run(self, *binaries):
        """Runs all tests that are not excluded. Returns how many, and those that are excluded."""
        names = re.findall(r"^(\S+): test$", self.cargo_test(binaries, "--list"), re.MULTILINE)
        excluded = [name for name in names if name.startswith(tuple(self.excluded))]
        skips = [argument for name in excluded for argument in ("--skip", name)]
        output = self.cargo_test(binaries, "--exact", *self.options, *skips)
        passed = len(re.findall(r"^test .* \.\.\. ok$", output, re.MULTILINE))
        ignored = re.findall(r"^test (.* \.\.\. ignored.*)$", output, re.MULTILINE)
        others = len(names) - len(excluded) - len(ignored)
        require(passed and passed == others, f"{passed} of {others} tests passed")
        lines = [f"{passed} tests", *ignored, *map(self.exclusion, excluded)]
        return "\n  ".join(lines)

    def exclusion(self, name):
        reasons = (text for start, text in self.excluded.items() if name.startswith(start))
        return f"{name} ... excluded, {next(reasons)}"


class Program:
    """The program, on its system."""

    def __init__(self, path, system, emulator):
        self.path, self.system, self.emulator = path, system, emulator

    def serves(self):
        """TCP and UDP, to clients of this system, until it is stopped."""
        with Service(self.path, "127.0.0.1:0", "[::1]:0", prefix=self.emulator) as service:
            for address in service.stream_addresses:
                echo(address, DATA[:5_000_000])
            for address in service.udp_addresses:
                for size in DATAGRAM_SIZES:
                    exchange_datagram(address, DATA[:size])
            with connect(service.address) as client:
                exchange(client, b"hello")
                self.system.stop(service, client)

    def measures(self):
        """With its own clients."""
        commands = ["check"], ["ping", "-c", "3", "-i", "0.1"], ["load", "-c", "4", "-d", "1"]
        with Service(self.path, "127.0.0.1:0", prefix=self.emulator) as service:
            port = service.address[1]
            for command in commands:
                for scheme in "tcp", "udp":
                    endpoint = f"{scheme}://127.0.0.1:{port}"
                    output_of([*self.emulator, self.path, *command, endpoint])


def exchange_datagram(address, data):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.connect(address)
        client.send(data)
        require(client.recv(65_536) == data, f"not these {len(data)} bytes came back")


def checks_in(stack):
    """The emulator that the checks use ends with `stack`."""

    def checks(options):
        system = SYSTEMS[pathlib.Path(options.program).parents[1].name]
        emulator = stack.enter_context(system.emulator())
        tests = Tests(options.program, system, emulator)
        program = Program(options.program, system, emulator)
        yield Check(tests.run, "--lib", "--bins", name="unit tests")
        yield Check(tests.run, *OVER_SOCKETS, name="tests over sockets")
        yield Check(program.serves, name="program serves")
        yield Check(program.measures, name="program measures")

    return checks


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        harness.main(__doc__, checks_in(stack), limit=900)
