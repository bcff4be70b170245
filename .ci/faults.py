"""What can fail does, one way after the other; what the built program promises holds.

usage: faults.py PROGRAM [--soak SECONDS]

System calls fail, because strace(1) puts errors in their place; peers reset, stall and vanish;
signals come; and all of it at once for a while, of two minutes if not told otherwise. Needs strace,
and the right to trace.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import injected
import ordeals
from service import Service, connect, echo, require

BULK = os.urandom(16_000_000)


def splice_is_refused(program, error, when):
    """Bytes are read and written instead, for good, and one line says so."""
    with Service(program, faults=[f"splice:error={error}:when={when}"]) as service:
        for _ in range(3):
            echo(service.place, BULK)
        log = service.stop()
    require(log.count("no zero copy") == 1, log)


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


def special_cases():
    # The first call is one into a pipe, the second one out of it again.
    for error in "EPERM", "ENOSYS", "EINVAL":
        for when in "1", "2+", "10+", "11+":
            yield splice_is_refused, error, when
    for error in "EMFILE", "ENFILE", "ENOMEM":
        yield no_pipe_is_to_be_had, error, "1+"
    # Every other call.
    yield connections_are_lost_among_those_that_are_refused, "ECONNABORTED", "2+2"


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
        for check, error, when in special_cases()
    ]
    for call, error, when in injected.faults(program):
        name = f"{call}: {error} at call {when}"
        together.append((name, totals.attempt, program, call, error, when))
    alone = [(check.__name__, check, program) for check in ordeals.CHECKS]
    alone.append((f"soak for {soak} s", ordeals.soak, program, soak))
    return together, alone


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--soak", type=int, default=120, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    random.seed(options.seed)
    start = time.monotonic()
    totals = injected.Totals()
    together, alone = checks(options.program, totals, options.soak)
    # Most of their time is spent waiting.
    with ThreadPoolExecutor(6) as pool:
        good = list(pool.map(lambda check: attempt(*check), together))
    good += [attempt(*check) for check in alone]
    print(totals)
    print(f"{good.count(True)} passed, {good.count(False)} failed, {time.monotonic() - start:.0f} s")
    return 0 if all(good) else 1


sys.exit(main())
