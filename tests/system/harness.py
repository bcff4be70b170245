"""Runs the checks of a script. All scripts of this folder are called in the same way:

    SCRIPT PROGRAM [CHECK]...

A CHECK is the beginning of a check's name; without one all checks run. A script prints a line for
each check, and at the end `N passed, N failed`. It exits with 0 if at least one check passed and
none failed.
"""

import argparse
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

LIMIT = 60  # seconds, for each wait
CONCURRENT_CHECKS = 6  # most of their time is spent waiting


class Skipped(Exception):
    """A check cannot run on this host. The message says what is missing."""


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def wait_until(condition, description, limit=LIMIT, interval=0.002):
    """Returns the first result of `condition` that is true."""
    end = time.monotonic() + limit
    while not (result := condition()):
        require(time.monotonic() < end, f"waited {limit} s until {description}")
        time.sleep(interval)
    return result


# The command lines of the program's tools.


def check_command(program, endpoint):
    return [program, "check", endpoint]


def load_command(program, *arguments):
    return [program, "load", *arguments]


class Check:
    """A function with its arguments. It fails by raising; what it returns is printed."""

    def __init__(self, function, *arguments, name=None, is_concurrent=False):
        self.function, self.arguments = function, arguments
        self.name = name or function.__name__
        self.is_concurrent = is_concurrent

    def run(self):
        """Prints a line, and returns whether the check passed; None if it was skipped."""
        start = time.monotonic()
        details = ""
        try:
            result = self.function(*self.arguments)
            passed, text = True, f"ok, {result}" if result else "ok"
        except Skipped as reason:
            passed, text = None, f"skipped: {reason}"
        except Exception as error:  # whatever it is, it is the result of this check
            passed, text = False, f"FAILED: {error!r}"
            details = "".join(traceback.format_exception(error))
        seconds = time.monotonic() - start
        # In one piece: other threads print as well.
        print(f"{self.name}: {text} ({seconds:.1f} s)\n{details}", end="", flush=True)
        return passed


def each(functions):
    """The `checks` of a script whose functions take the program alone."""
    return lambda options: [Check(function, options.program) for function in functions]


def main(description, checks, configure=lambda parser: None, limit=600):
    """Runs the checks that `checks(options)` returns or yields, and exits.

    `configure` adds options to the parser. All checks together may take `limit` seconds.
    """
    # Where nohup(1) or a service manager ignores it, the program would inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop_by_signals()
    options = parse_arguments(description, configure)
    signal.alarm(limit)
    chosen = choose(list(checks(options)), options.checks)
    results = run_all(chosen)
    signal.alarm(0)
    sys.exit(report(results))


def parse_arguments(description, configure):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    parser.add_argument("program", type=os.path.abspath)
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    configure(parser)
    return parser.parse_args()


def stop_by_signals():
    """SIGINT, SIGTERM and the end of the time raise `SystemExit`, so that everything is removed."""
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGALRM:
        signal.signal(number, stop)


def stop(number, _frame):
    # The first signal alone: the removal that follows must not be interrupted.
    for ignored in signal.SIGINT, signal.SIGTERM, signal.SIGALRM:
        signal.signal(ignored, signal.SIG_IGN)
    sys.exit(f"stopped by {signal.Signals(number).name}")


def choose(checks, beginnings):
    """The checks whose names begin so. A beginning without a match is an error: it is misspelt."""
    names = [check.name for check in checks]
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            sys.exit(f"no check has a name that begins with '{beginning}'")
    return [check for check in checks if not beginnings or check.name.startswith(tuple(beginnings))]


def run_all(checks):
    """Runs first the concurrent checks, then the others one by one. Returns their results."""
    concurrent = [check for check in checks if check.is_concurrent]
    alone = [check for check in checks if not check.is_concurrent]
    with ThreadPoolExecutor(CONCURRENT_CHECKS) as pool:
        results = [pool.submit(check.run) for check in concurrent]
        try:
            results = [result.result() for result in results]
        finally:
            # After a signal, checks that have not begun are not run any more.
            pool.shutdown(wait=False, cancel_futures=True)
    return results + [check.run() for check in alone]


def report(results):
    """Prints the sums, and returns the exit status."""
    passed, failed, skipped = (results.count(result) for result in (True, False, None))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    # A script that has checked nothing must not look as if it had.
    return 0 if passed and not failed else 1
