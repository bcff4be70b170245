"""The console sessions in the documents, run by the built program.

usage: documents.py PROGRAM

A session is a block with the language `console`. Its lines that begin with `$ ` are commands for sh,
and the lines after a command are its output, standard error included. A comment directly above the
block names the service that the session talks to:

    <!-- serve: mio-echo --metrics tcp://127.0.0.1:9007 -->

Each session has a network, a process table and an empty working directory of its own. The service is
started first, and its log is in the file `log` there. PROGRAM is found as `mio-echo`.

What differs from run to run is left out of the comparison, on both sides: see VARIABLE.
Needs root, iproute2, and what the sessions call: curl and OpenBSD netcat.
"""

import difflib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = ["*.md", "docs/**/*.md", "examples/**/*.md", "benches/*.md"]
LIMIT = 60  # seconds, for each session

BLOCK = re.compile(r"(?:^<!-- serve: (.*) -->\n)?^```console\n((?:.*\n)*?)^```$", re.MULTILINE)

DURATION = r"[\d./]+ ?(?:ns|us|µs|ms|s|m|h)\b"  # or several of one unit, with slashes
VARIABLE = {
    "time stamps": r"\d{4}-\d\d-\d\dT[\d:.]+Z",
    "durations": rf"{DURATION}(?: {DURATION})*",
    "ports that the system chose": r"(?<=:)\d{5}\b",
    "iterations of the loop": r"\d+(?= iterations)",
}

PREPARE = "exec 2>&1 </dev/null\nip link set lo up\n"
# The service is ready when it sleeps: it listens everywhere, and waits for events.
START = """\
>log
{service} 2>>log &
service=$!
until grep -q 'listening on' log && grep -q '^State:.S' /proc/$service/status; do
    kill -0 $service 2>/dev/null || {{ cat log; exit; }}
    sleep 0.01
done
"""
STOP = "kill $service 2>/dev/null; wait $service || echo exit status $?\n"


def sessions():
    """The name, the service and the text of each session."""
    for document in sorted({path for glob in DOCUMENTS for path in ROOT.glob(glob)}):
        text = document.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start(2))
            yield f"{document.relative_to(ROOT)}:{line}", block[1], block[2]


def script(service, text):
    """The session as a shell script that prints what the document shows."""
    commands = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    lines = [f"printf '%s\\n' {shlex.quote('$ ' + line)}\n{line}\n" for line in commands]
    start, stop = (START.format(service=service), STOP) if service else ("", "")
    return "".join([PREPARE, start, *lines, stop])


def run(program, service, text):
    """Returns the transcript of a session."""
    with tempfile.TemporaryDirectory(prefix="mio-echo-") as directory:
        names, work = pathlib.Path(directory, "bin"), pathlib.Path(directory, "work")
        names.mkdir()
        work.mkdir()
        (names / "mio-echo").symlink_to(program)
        # With the shell, which is the first process, everything in the process table ends.
        private = ["unshare", "--net", "--pid", "--mount-proc", "--kill-child"]
        done = subprocess.run(
            [*private, "sh", "-c", script(service, text)],
            cwd=work,
            env={"PATH": f"{names}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            encoding="utf-8",
        )
        return done.stdout


def comparable(text):
    for pattern in VARIABLE.values():
        text = re.sub(pattern, "N", text)
    return [line.rstrip() for line in text.splitlines()]


def problem_of(program, service, text):
    try:
        transcript = run(program, service, text)
    except subprocess.TimeoutExpired:
        return f"not over after {LIMIT} s"
    expected, actual = comparable(text), comparable(transcript)
    return "\n".join(difflib.unified_diff(expected, actual, "document", "program", lineterm=""))


def main(program):
    passed = failed = 0
    for name, service, text in sessions():
        problem = problem_of(os.path.abspath(program), service, text)
        print(f"{name}: {problem or 'ok'}", flush=True)
        passed, failed = passed + (not problem), failed + bool(problem)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
