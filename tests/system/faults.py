"""System calls that fail, peers that reset or do not read, signals, and all of it at once.

Errors are injected by strace(1), which needs the right to trace. The last check takes two minutes
unless `--soak` says otherwise.
"""

import errno
import os
import random
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor

import harness
import stress
import syscall_errors
from clients import DATA, Conversation, connect, echo
from harness import Check, require, wait_until
from service import Ended, EveryEndpoint, MeteredService, Service, Trace, require_one_error


def falls_back_to_copy_if_trial_of_splice_fails(program, error, when):
    """The trial is at the start: one warning, and bytes are read and written."""
    trace = Trace(f"splice:error={error}:when={when}")
    with MeteredService(program, trace=trace) as service:
        warnings = service.log().count("no zero copy")
        require(warnings == 1, f"{warnings} warnings before the first connection")
        for _ in range(3):
            echo(service.address, DATA)
        require(service.counters()["zero_copied_bytes_total"] == 0, "bytes were spliced")
        log = service.stop()
    require(log.count("no zero copy") == 1, log)


def splice_error_closes_that_connection_alone(program, error, when):
    """splice(2) also returns the pending error of the socket: `EACCES` after an ICMP message."""
    trace = Trace(f"splice:error={error}:when={when}")
    with MeteredService(program, "-v", trace=trace) as service:
        conversations = [Conversation(service.address, DATA, len(DATA)) for _ in range(3)]
        with ThreadPoolExecutor(len(conversations)) as pool:
            list(pool.map(Conversation.run, conversations))
        failed = {conversation.name for conversation in conversations if conversation.problem}
        require(len(failed) == 1 and failed == trace.hit(), f"{failed} failed: {trace.hit()}")
        before = service.counters()["zero_copied_bytes_total"]
        echo(service.address, DATA)
        spliced = service.counters()["zero_copied_bytes_total"] - before
        require(spliced > len(DATA) / 2, f"only {spliced} bytes were spliced afterwards")
        closed = service.closed()
        expected = {"peer_closed": len(conversations), "error": 1}
        require(closed == expected, f"closed by reason: {closed}")
        log = service.stop()
    require("no zero copy" not in log, log)
    reason = rf"closed: .*\(os error {getattr(errno, error)}\)"
    require(len(re.findall(reason, log)) == 1, log)


def falls_back_to_copy_without_pipes(program, error, when):
    with EveryEndpoint(program, trace=Trace(f"pipe2:error={error}:when={when}")) as service:
        echo(service.address, DATA)
        service.stop()


def accept_errors_between_rejected_connections_cause_no_pause(program, error, when):
    trace = Trace(f"accept4:error={error}:when={when}")
    with EveryEndpoint(program, "--allow=192.0.2.1", trace=trace) as service:
        with service.stopped():
            clients = [connect(service.address) for _ in range(100)]
        for client in clients:
            require_reset(client)
        log = service.stop()
    require("cannot accept" not in log, log)


def require_reset(client):
    with client:
        try:
            received = client.recv(1)
        except ConnectionResetError:
            return
    raise AssertionError(f"{received} came in place of a reset")


def unix_mode_is_set_without_the_path(program):
    """chmod(2) follows symbolic links. fchmod(2) on the socket, before bind(2), needs no path."""
    trace = Trace("?chmod", "?fchmodat", "?fchmodat2")
    with EveryEndpoint(program, "--unix-mode=0666", trace=trace) as service:
        mode = os.lstat(service.stream_addresses[-1]).st_mode & 0o7777
        require(mode == 0o666, f"mode {mode:04o}")
        service.stop()
    changes = [line for line in trace.lines() if "chmod" in line]
    require(not changes, "".join(changes))


def symbolic_link_in_place_of_socket_file_is_not_followed(program):
    """Another user replaces the socket file right after bind(2), which a delay makes longer."""
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as pool:
        path, victim, link = (f"{directory}/{name}" for name in ("socket", "victim", "link"))
        with open(victim, "w", encoding="ascii"):
            os.chmod(victim, 0o600)
        os.symlink(victim, link)

        def replace():
            wait_until(lambda: os.path.lexists(path), "the socket file exists")
            os.rename(link, path)

        replaced = pool.submit(replace)
        trace = Trace("bind:delay_exit=300ms")
        try:
            with Service(program, f"unix:{path}", "--unix-mode=0666", trace=trace) as service:
                service.stop()
        except Ended as ended:
            require_one_error(ended.status, ended.log)
        replaced.result()
        mode = os.stat(victim).st_mode & 0o7777
        require(mode == 0o600, f"the mode of another file became {mode:04o}")


def unix_mode_that_cannot_be_set_is_an_error(program):
    """One error, and no socket file is left."""
    with tempfile.TemporaryDirectory(prefix="mio-echo-") as directory:
        path = f"{directory}/socket"
        try:
            with Service(
                program, f"unix:{path}", "--unix-mode=0666", trace=Trace("fchmod:error=EPERM")
            ):
                raise AssertionError("it started")
        except Ended as ended:
            require_one_error(ended.status, ended.log)
        require(not os.path.lexists(path), "the socket file was left behind")


def special_cases(program):
    """Checks, each with an error and the number of the call that fails."""
    trial = syscall_errors.calls_during_start(program, "splice")
    for error in "EACCES", "EPERM", "ENOSYS", "EINVAL", "EAGAIN":
        for when in "1+", *map(str, range(1, trial + 1)):
            yield falls_back_to_copy_if_trial_of_splice_fails, error, when
    for error in "EACCES", "EPERM", "ENOSYS", "EINVAL":
        # Of two calls in a row, one moves bytes into a pipe, the other out of it.
        for when in trial + 10, trial + 11:
            yield splice_error_closes_that_connection_alone, error, str(when)
    for error in "EMFILE", "ENFILE", "ENOMEM":
        yield falls_back_to_copy_without_pipes, error, "1+"
    # Every other call.
    yield accept_errors_between_rejected_connections_cause_no_pause, "ECONNABORTED", "2+2"


SOCKET_FILE_CHECKS = [
    unix_mode_is_set_without_the_path,
    symbolic_link_in_place_of_socket_file_is_not_followed,
    unix_mode_that_cannot_be_set_is_an_error,
]


def concurrent_checks(program, totals):
    for check, error, when in special_cases(program):
        name = f"{check.__name__}: {error} at call {when}"
        yield Check(check, program, error, when, name=name, is_concurrent=True)
    for check in SOCKET_FILE_CHECKS:
        yield Check(check, program, is_concurrent=True)
    check = totals.error_closes_at_most_its_connection
    for call, error, when in syscall_errors.faults(program):
        name = f"{call}: {error} at call {when}"
        yield Check(check, program, call, error, when, name=name, is_concurrent=True)


def checks(options):
    print(f"seed {options.seed}", flush=True)
    random.seed(options.seed)
    totals = syscall_errors.Totals()
    return [
        *concurrent_checks(options.program, totals),
        Check(totals.no_byte_is_lost_on_other_connections),
        *(Check(check, options.program) for check in stress.CHECKS),
        Check(stress.soak, options.program, options.soak),
    ]


def configure(parser):
    parser.add_argument("--soak", type=int, default=120, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))


if __name__ == "__main__":
    harness.main(__doc__, checks, configure, limit=900)
