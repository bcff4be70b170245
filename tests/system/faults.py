"""What can fail does, one way after the other; what the built program promises holds.

usage: faults.py PROGRAM [CHECK]... [--soak SECONDS]

System calls fail, because strace(1) puts errors in their place; peers reset, stall and vanish;
signals come; and all of it at once for a while, of two minutes if not told otherwise. A CHECK is
the beginning of a name; without one all checks run. Needs strace, and the right to trace.
"""

import argparse
import errno
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import syscall_errors
import stress
from harness import CountedService, Ended, Service, Talk, connect, echo, require, wait_until

BULK = os.urandom(16_000_000)


def splice_that_fails_at_start_is_not_used(program, error, when):
    """The trial at the start fails: bytes are read and written instead, and one line says so."""
    with CountedService(program, faults=[f"splice:error={error}:when={when}"]) as service:
        warnings = "".join(service.log).count("no zero copy")
        require(warnings == 1, f"{warnings} warnings before the first connection")
        for _ in range(3):
            echo(service.place, BULK)
        require(service.counters()["zero_copied_bytes_total"] == 0, "bytes were spliced")
        log = service.stop()
    require(log.count("no zero copy") == 1, log)


def splice_error_closes_that_connection_alone(program, error, when):
    """splice(2) also returns what is pending on the socket: `EACCES` after an ICMP message."""
    with CountedService(program, "-v", faults=[f"splice:error={error}:when={when}"]) as service:
        talks = [Talk(service.place, BULK, len(BULK)) for _ in range(3)]
        with ThreadPoolExecutor(len(talks)) as pool:
            list(pool.map(Talk.run, talks))
        failed = {talk.end for talk in talks if not talk.is_complete}
        require(len(failed) == 1 and failed == service.hit(), f"{failed} failed: {service.hit()}")
        before = service.counters()["zero_copied_bytes_total"]
        echo(service.place, BULK)
        spliced = service.counters()["zero_copied_bytes_total"] - before
        require(spliced > len(BULK) / 2, f"only {spliced} bytes were spliced afterwards")
        closed = service.closed()
        require(closed == {"peer_closed": len(talks), "error": 1}, f"closed by reason: {closed}")
        log = service.stop()
    require("no zero copy" not in log, log)
    reason = rf"closed: .*\(os error {getattr(errno, error)}\)"
    require(len(re.findall(reason, log)) == 1, log)


def no_pipe_is_to_be_had(program, error, when):
    with Service(program, faults=[f"pipe2:error={error}:when={when}"]) as service:
        echo(service.place, BULK)
        service.stop()


def connections_are_lost_among_those_that_are_refused(program, error, when):
    """Somebody is dealt with, so accepting goes on without a pause."""
    fault = f"accept4:error={error}:when={when}"
    with Service(program, "--allow", "192.0.2.1", faults=[fault]) as service:
        service.signal(signal.SIGSTOP)
        clients = [connect(service.place) for _ in range(100)]
        service.signal(signal.SIGCONT)
        for client in clients:
            try:
                require(client.recv(1) is None, "not refused")
            except ConnectionResetError:
                client.close()
        log = service.stop()
    require("cannot accept" not in log, log)


def socket_file_gets_its_mode_without_its_path(program):
    """chmod(2) follows symbolic links. fchmod(2) on the socket, before bind(2), needs no path."""
    calls = ["?chmod", "?fchmodat", "?fchmodat2"]
    with Service(program, "--unix-mode", "0666", faults=calls) as service:
        mode = os.lstat(service.places[-1]).st_mode & 0o7777
        require(mode == 0o666, f"mode {mode:04o}")
        service.stop()
        with open(service.trace, encoding="ascii", errors="replace") as file:
            changes = [line for line in file if "chmod" in line]
    require(not changes, "".join(changes))


def link_in_place_of_socket_file_leads_to_no_other_file(program):
    """Right after bind(2), which is made to take longer, another user replaces the socket file."""
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as pool:
        path, victim, link = (f"{directory}/{name}" for name in ("socket", "victim", "link"))
        with open(victim, "w", encoding="ascii"):
            os.chmod(victim, 0o600)
        os.symlink(victim, link)

        def replace():
            wait_until(lambda: os.path.lexists(path), "the socket file is there")
            os.rename(link, path)

        replaced = pool.submit(replace)
        delay = "bind:delay_exit=300ms"
        try:
            with Service(program, f"unix:{path}", "--unix-mode", "0666", faults=[delay]) as service:
                service.stop()
        except Ended as ended:
            syscall_errors.require_clean_end(ended.status, ended.log)
        replaced.result()
        mode = os.stat(victim).st_mode & 0o7777
        require(mode == 0o600, f"the mode of another file became {mode:04o}")


def mode_that_cannot_be_set_ends_the_start(program):
    """With one line, and without a file."""
    with tempfile.TemporaryDirectory(prefix="mio-echo-") as directory:
        path = f"{directory}/socket"
        arguments = f"unix:{path}", "--unix-mode", "0666"
        try:
            with Service(program, *arguments, faults=["fchmod:error=EPERM"]):
                raise AssertionError("it started")
        except Ended as ended:
            syscall_errors.require_clean_end(ended.status, ended.log)
        require(not os.path.lexists(path), "the file was left behind")


def special_cases(program):
    """Checks, and what each of them makes fail: an error, and the number of the call."""
    trial = syscall_errors.calls_of_the_start(program, "splice")
    for error in "EACCES", "EPERM", "ENOSYS", "EINVAL", "EAGAIN":
        for when in "1+", *map(str, range(1, trial + 1)):
            yield splice_that_fails_at_start_is_not_used, error, when
    for error in "EACCES", "EPERM", "ENOSYS", "EINVAL":
        # One of them is a call into a pipe, the other one out of it.
        for when in trial + 10, trial + 11:
            yield splice_error_closes_that_connection_alone, error, str(when)
    for error in "EMFILE", "ENFILE", "ENOMEM":
        yield no_pipe_is_to_be_had, error, "1+"
    # Every other call.
    yield connections_are_lost_among_those_that_are_refused, "ECONNABORTED", "2+2"


SOCKET_FILE_CHECKS = [
    socket_file_gets_its_mode_without_its_path,
    link_in_place_of_socket_file_leads_to_no_other_file,
    mode_that_cannot_be_set_ends_the_start,
]


def attempt(name, check, *arguments):
    """Says whether it went well."""
    start = time.monotonic()
    try:
        told = check(*arguments)
        problem = None
    except (OSError, AssertionError, ValueError, subprocess.SubprocessError) as failure:
        told, problem = None, repr(failure)
    took = time.monotonic() - start
    print(f"{name}: {problem or told or 'ok'} ({took:.1f} s)", flush=True)
    return problem is None


def checks(program, totals, soak):
    """Those that may run at once, and those that are to be alone."""
    together = [
        (f"{check.__name__}: {error} at call {when}", check, program, error, when)
        for check, error, when in special_cases(program)
    ]
    together += [(check.__name__, check, program) for check in SOCKET_FILE_CHECKS]
    for call, error, when in syscall_errors.faults(program):
        name = f"{call}: {error} at call {when}"
        together.append((name, totals.attempt, program, call, error, when))
    alone = [(check.__name__, check, program) for check in stress.CHECKS]
    alone.append((f"soak for {soak} s", stress.soak, program, soak))
    return together, alone


def is_chosen(name, beginnings):
    return not beginnings or name.startswith(tuple(beginnings))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    parser.add_argument("--soak", type=int, default=120, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    random.seed(options.seed)
    start = time.monotonic()
    totals = syscall_errors.Totals()
    together, alone = (
        [check for check in part if is_chosen(check[0], options.checks)]
        for part in checks(options.program, totals, options.soak)
    )
    # Most of their time is spent waiting.
    with ThreadPoolExecutor(6) as pool:
        good = list(pool.map(lambda check: attempt(*check), together))
    good += [attempt(*check) for check in alone]
    print(totals)
    print(f"{good.count(True)} passed, {good.count(False)} failed, {time.monotonic() - start:.0f} s")
    return 0 if good and all(good) else 1


sys.exit(main())
