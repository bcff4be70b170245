"""The harness notices what fails. A green gate rests on that, so this is tested without it."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

import clients

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {here!r})
import harness
from harness import Check, Skipped, require

def passes(): pass
def fails(): require(False, "the reason")
def raises(): return [][0]
def is_skipped(): raise Skipped("something is missing")
def waits():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        print("removed")
def takes_too_long(): time.sleep(60)

harness.main("A script.", lambda options: [{checks}], limit=2)
"""


def run(*checks, chosen=()):
    """Returns the exit status and the output of a script with these checks."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(SCRIPT.format(here=HERE, checks=", ".join(checks)))
        script.flush()
        command = [sys.executable, script.name, "program", *chosen]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr


class Scripts(unittest.TestCase):
    def require(self, result, status, *texts):
        self.assertEqual(result[0], status, result[1])
        for text in texts:
            self.assertIn(text, result[1])

    def test_passes_if_all_checks_pass(self):
        result = run("Check(passes)", "Check(passes, is_concurrent=True)")
        self.require(result, 0, "passes: ok", "2 passed, 0 failed\n")

    def test_fails_if_one_check_fails(self):
        for options in "", ", is_concurrent=True":
            result = run("Check(passes)", f"Check(fails{options})", "Check(passes)")
            self.require(result, 1, "fails: FAILED", "the reason", "2 passed, 1 failed\n")

    def test_fails_if_a_check_raises_an_unexpected_exception(self):
        for options in "", ", is_concurrent=True":
            result = run("Check(passes)", f"Check(raises{options})")
            self.require(result, 1, "IndexError", "1 passed, 1 failed\n")

    def test_fails_without_checks(self):
        self.require(run(), 1, "0 passed, 0 failed\n")

    def test_fails_if_all_checks_are_skipped(self):
        result = run("Check(is_skipped)")
        self.require(result, 1, "something is missing", "0 passed, 0 failed, 1 skipped\n")

    def test_passes_if_some_checks_are_skipped(self):
        result = run("Check(is_skipped)", "Check(passes)")
        self.require(result, 0, "1 passed, 0 failed, 1 skipped\n")

    def test_runs_the_checks_whose_names_begin_so(self):
        result = run("Check(passes)", "Check(fails)", chosen=["pass"])
        self.require(result, 0, "1 passed, 0 failed\n")

    def test_fails_if_no_check_has_a_chosen_name(self):
        result = run("Check(passes)", chosen=["passes", "misspelt"])
        self.require(result, 1, "'misspelt'")

    def test_fails_and_cleans_up_after_a_signal(self):
        result = run("Check(passes)", "Check(waits)", "Check(passes)")
        self.require(result, 1, "removed", "stopped by SIGTERM")

    def test_fails_at_the_end_of_its_time(self):
        result = run("Check(passes)", "Check(takes_too_long)")
        self.require(result, 1, "stopped by SIGALRM")


def echo_through(alter):
    """An echo of `DATA`, with all bytes altered on their way."""
    data = clients.DATA[:100_000]

    def serve(listener):
        with listener, listener.accept()[0] as connection:
            received = b"".join(iter(lambda: connection.recv(65_536), b""))
            connection.sendall(alter(received))

    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = threading.Thread(target=serve, args=[listener])
    server.start()
    try:
        clients.echo(address, data)
    finally:
        server.join()


class Echoes(unittest.TestCase):
    def test_accepts_the_same_bytes(self):
        echo_through(lambda data: data)

    def test_notices_another_byte(self):
        with self.assertRaises(ValueError):
            echo_through(lambda data: data[:-1] + bytes([data[-1] ^ 1]))

    def test_notices_missing_bytes(self):
        for alter in (lambda data: data[:-1]), (lambda data: b""):
            with self.assertRaises(AssertionError):
                echo_through(alter)

    def test_notices_additional_bytes(self):
        with self.assertRaises(ValueError):
            echo_through(lambda data: data + b"!")


if __name__ == "__main__":
    unittest.main()
