"""Checks in which strace(1) injects every error that a manual page names into a system call."""

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

from clients import DATA, Conversation, udp_client
from harness import LIMIT, require
from service import Ended, EveryEndpoint, Trace, require_one_error

SOCKET = "EBADF EFAULT EINTR EINVAL ENOTSOCK ENOMEM EAGAIN"
SEND = f"""{SOCKET} EACCES EALREADY ECONNRESET EDESTADDRREQ EISCONN EMSGSIZE ENOBUFS ENOTCONN
    EOPNOTSUPP EPIPE"""
RECEIVE = f"{SOCKET} ECONNREFUSED ENOTCONN"
ERRORS = {
    "accept4": f"""{SOCKET} ECONNABORTED EMFILE ENFILE ENOBUFS EOPNOTSUPP EPERM EPROTO ENOSR
        ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET
        EHOSTUNREACH ENETUNREACH""",
    "recvfrom": f"{RECEIVE} ECONNRESET ETIMEDOUT",
    "sendto": SEND,
    "recvmmsg": RECEIVE,
    "sendmmsg": SEND,
    "splice": "EAGAIN EBADF EINVAL ENOMEM ESPIPE",
    "epoll_wait": "EBADF EFAULT EINTR EINVAL",
    "epoll_ctl": "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    # The descriptor stays open, which Linux never does: so there are stale events as well.
    "close": "EBADF EINTR EIO ENOSPC EDQUOT",
}
# After these the loop cannot wait for events any more.
FATAL = {("epoll_wait", error) for error in ("EBADF", "EFAULT", "EINVAL")}
BULK, TEXT = DATA[:500_000], DATA[:2_000]
LATE = b"a client that connects later"
PATIENCE = 2  # seconds, after which a datagram is taken for lost


def faults(program):
    """The call, the error, and the number of the call that fails; see `inject` in strace(1)."""
    for call, errors in ERRORS.items():
        before = calls_during_start(program, call)
        for error in errors.split():
            for when in 1, 10:
                yield call, error, str(before + when)
            # Not without end: handling the signal that ends the program takes calls too.
            first, step = before + random.randint(2, 8), random.randint(3, 7)
            yield call, error, f"{first}..{first + 2 * step}+{step}"
    for error in "EMFILE", "ENFILE", "ECONNABORTED", "EPERM":
        yield "accept4", error, "5..14"
    for call in "epoll_ctl", "epoll_wait":
        yield call, "EINVAL", "1"
    for call in "epoll_create1", "eventfd2", "socketpair":
        yield call, "EMFILE", "1"


def calls_during_start(program, call):
    """The number of calls before the first one that waits for events."""
    trace = Trace(call, "epoll_wait")
    with EveryEndpoint(program, trace=trace) as service:
        service.stop()
    start = "".join(trace.lines()).partition(" epoll_wait(")[0]
    return start.count(f" {call}(")


class Totals:
    """The sums of all trials, and their checks."""

    def __init__(self):
        self.lock = threading.Lock()
        self.tried = self.survived = self.fatal = self.injected = self.hit = 0
        self.compared = self.lost = self.resent = 0

    def error_closes_at_most_its_connection(self, program, call, error, when):
        self.add(tried=1)
        try:
            trial = Trial(program, f"{call}:error={error}:when={when}")
        except Ended as ended:
            return self.require_end(ended.status, ended.log)
        with trial.service:
            trial.run()
            if (call, error) in FATAL:
                return self.require_end(*trial.service.wait())
            self.add_trial(trial)
            trial.judge()
        self.add(survived=1)
        return f"{len(trial.hit)} connections hit"

    def require_end(self, status, log):
        require_one_error(status, log)
        require("mio-echo: cannot " in log, f"the error does not say what failed:\n{log}")
        self.add(fatal=1)
        return "ended with one error"

    def add(self, **counts):
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def add_trial(self, trial):
        self.add(injected=len(trial.injected), hit=len(trial.hit), resent=trial.resent)
        for conversation in trial.conversations:
            left_alone = conversation.name not in trial.hit
            lost = len(conversation.data) - conversation.received if left_alone else 0
            self.add(compared=conversation.received, lost=lost)

    def no_byte_is_lost_on_other_connections(self):
        require(self.compared, "nothing was compared")
        require(self.lost == 0, str(self))
        return str(self)

    def __str__(self):
        return (
            f"{self.tried} faults tried, {self.survived} survived, {self.fatal} ended the program "
            f"as they should; {self.injected} calls failed, {self.hit} connections were hit; "
            f"{self.compared} bytes compared, {self.lost} lost on connections that were not hit; "
            f"{self.resent} datagrams sent again"
        )


class Trial:
    """Conversations of all kinds with a service under a fault."""

    def __init__(self, program, fault):
        self.trace = Trace(fault)
        self.service = EveryEndpoint(program, trace=self.trace)
        self.conversations = []
        self.resent = 0
        self.injected, self.hit = [], set()

    def run(self):
        addresses = itertools.cycle(self.service.stream_addresses)
        crowd = [Conversation(next(addresses), BULK, len(BULK)) for _ in range(6)]
        crowd += [Conversation(next(addresses), TEXT, 100) for _ in range(9)]
        with ThreadPoolExecutor(40) as pool:
            running = [pool.submit(self.echo_datagrams)]
            running += [self.start(conversation, pool) for conversation in crowd]
            late = (Conversation(address, LATE, len(LATE)) for address in addresses)
            for conversation in itertools.islice(late, 25):
                running.append(self.start(conversation, pool))
                time.sleep(0.02)
            # If accept(2) failed with EAGAIN though a connection was in the queue, the next
            # connection makes the listener readable again. More often, they would keep a busy
            # machine from getting to the end.
            while wait(running, timeout=0.2).not_done:
                running.append(self.start(next(late), pool))
        for future in running:
            future.result()
        names = {conversation.name for conversation in self.conversations}
        self.injected, self.hit = self.trace.injected(), self.trace.hit() & names

    def start(self, conversation, pool):
        self.conversations.append(conversation)
        return pool.submit(conversation.run, self.is_hit)

    def is_hit(self, name):
        return not self.service.is_running() or name in self.trace.hit()

    def echo_datagrams(self):
        for number, address in zip(range(40), itertools.cycle(self.service.udp_addresses)):
            try:
                self.resend_until_echoed(address, b"%d" % number)
            except ConnectionRefusedError:
                self.service.process.wait(LIMIT)
                break

    def resend_until_echoed(self, address, data):
        with udp_client(self.service, address) as client:
            client.settimeout(PATIENCE)
            for _ in range(10):
                client.send(data)
                try:
                    require(client.recv(65_536) == data, "another datagram came back")
                    return
                except TimeoutError:
                    self.resent += 1
        raise AssertionError("a datagram was sent ten times without a reply")

    def judge(self):
        require(self.injected, "no call has failed")
        others = [other for other in self.conversations if other.name not in self.hit]
        problems = [other.problem for other in others if other.problem]
        require(not problems, f"connections without a fault: {problems}; {self.injected}")
        # One datagram is on its way at a time, so an error costs at most one.
        require(self.resent <= len(self.injected), f"{self.resent} datagrams without a reply")
        self.service.require_idle(0.3)
        self.service.stop()
