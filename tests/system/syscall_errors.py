"""Every error that their manual pages name, in place of the system calls of the program."""

import itertools
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import LIMIT, Ended, Service, Talk, require

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
    # The descriptor stays open, which Linux never does: so there are events for nobody as well.
    "close": "EBADF EINTR EIO ENOSPC EDQUOT",
}
# After these the loop cannot wait for anything any more.
FATAL = {("epoll_wait", error) for error in ("EBADF", "EFAULT", "EINVAL")}
BULK = os.urandom(500_000)
TEXT = BULK[:2_000]
NEWCOMER = b"is anybody there?"


def faults(program):
    for call, errors in ERRORS.items():
        before = calls_of_the_start(program, call)
        for error in errors.split():
            for when in 1, 10:
                yield call, error, str(before + when)
            # Not for ever: to catch the signal at the end takes calls too.
            first, step = before + random.randint(2, 8), random.randint(3, 7)
            yield call, error, f"{first}..{first + 2 * step}+{step}"
    for error in "EMFILE", "ENFILE", "ECONNABORTED", "EPERM":
        yield "accept4", error, "5..14"
    for call in "epoll_ctl", "epoll_wait":
        yield call, "EINVAL", "1"


def calls_of_the_start(program, call):
    """How many come before the first one that waits for events."""
    with Service(program, faults=[call, "epoll_wait"]) as service:
        service.stop()
        with open(service.trace, encoding="ascii", errors="replace") as file:
            start = file.read().partition(" epoll_wait(")[0]
    return start.count(f" {call}(")


class Totals:
    """What has happened to all of them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.tried = self.survived = self.fatal = self.injected = self.hit = 0
        self.compared = self.lost = self.unanswered = 0

    def attempt(self, program, call, error, when):
        with self.lock:
            self.tried += 1
        try:
            trial = Trial(program, f"{call}:error={error}:when={when}")
        except Ended as ended:
            require_clean_end(ended.status, ended.log)
            return self.count_fatal()
        with trial.service:
            trial.run()
            if (call, error) in FATAL:
                require_clean_end(*trial.service.wait())
                return self.count_fatal()
            self.count(trial)
            trial.judge()
        with self.lock:
            self.survived += 1
        return f"ok, {len(trial.hit)} connections hit"

    def count_fatal(self):
        with self.lock:
            self.fatal += 1
        return "ended with one line"

    def count(self, trial):
        with self.lock:
            self.injected += len(trial.injected)
            self.hit += len(trial.hit)
            self.unanswered += trial.unanswered
            for talk in trial.talks:
                self.compared += talk.received
                if talk.end not in trial.hit:
                    self.lost += len(talk.data) - talk.received

    def __str__(self):
        return (
            f"{self.tried} faults tried, {self.survived} survived, {self.fatal} ended the program "
            f"as they should; {self.injected} calls failed, {self.hit} connections were hit; "
            f"{self.compared} bytes compared, {self.lost} lost on connections that were not hit; "
            f"{self.unanswered} datagrams sent again"
        )


def require_clean_end(status, log):
    require(status == 1, f"exit status {status}\n{log}")
    last = log.splitlines()[-1]
    require(log.count("mio-echo: ") == 1 and last.startswith("mio-echo: "), log)


class Trial:
    """Conversations of all kinds with a service under a fault."""

    def __init__(self, program, fault):
        self.fault = fault
        self.service = Service(program, faults=[fault])
        self.talks = []
        self.unanswered = 0
        self.injected, self.hit = [], set()

    def run(self):
        places = itertools.cycle(self.service.places)
        crowd = [Talk(next(places), BULK, len(BULK)) for _ in range(6)]
        crowd += [Talk(next(places), TEXT, 100) for _ in range(9)]
        with ThreadPoolExecutor(40) as pool:
            done = [pool.submit(self.ask_all)]
            done += [self.start(talk, pool) for talk in crowd]
            # Somebody comes all the time. Where accept(2) said that nobody is there, and somebody
            # is, the next one's coming tells of both.
            while len(done) < 40 or not all(future.done() for future in done):
                done.append(self.start(Talk(next(places), NEWCOMER, len(NEWCOMER)), pool))
                time.sleep(0.02)
        for future in done:
            future.result()
        ends = {talk.end for talk in self.talks}
        self.injected, self.hit = self.service.injected(), self.service.hit() & ends

    def start(self, talk, pool):
        self.talks.append(talk)
        return pool.submit(talk.run, self.is_hit)

    def is_hit(self, end):
        return not self.is_alive() or end in self.service.hit()

    def is_alive(self):
        return self.service.process.poll() is None

    def ask_all(self):
        for number, place in zip(range(40), itertools.cycle(self.service.datagram_places)):
            try:
                self.unanswered += self.service.ask(place, b"%d" % number) - 1
            except ConnectionRefusedError:
                self.service.process.wait(LIMIT)
                break

    def judge(self):
        require(self.injected, "no call has failed")
        unhit = [talk for talk in self.talks if talk.end not in self.hit]
        problems = [talk.problem for talk in unhit if talk.problem]
        require(not problems, f"{problems} of those that were not hit; {self.injected}")
        # One is on its way at a time.
        require(self.unanswered <= len(self.injected), f"{self.unanswered} datagrams unanswered")
        self.service.require_idle(0.3)
        self.service.stop()
