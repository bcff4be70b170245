"""The image of examples/container/Dockerfile, without a container engine.

PROGRAM is the static program, which the image is built from: the last stage copies it into an empty
root. The service runs there as a container engine runs it: with what ENTRYPOINT and CMD say, as USER,
as the first process, with a read-only root and no /proc. The health check joins it as `docker exec`
does. buildah(1), where it is installed, says whether it reads the Dockerfile in the same way. Needs
root, and util-linux.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import harness
from harness import LIMIT, Skipped, require
from service import Ended, Service, require_one_error

PROJECT = pathlib.Path(__file__).parents[2]
DOCKERFILE = PROJECT / "examples" / "container" / "Dockerfile"

# $0 is the root. chroot(1) comes last, because there is no shell in it.
RUN = """\
ip link set lo up
mount --bind "$0" "$0"
mount -o remount,bind,ro "$0"
exec setpriv --no-new-privs chroot --userspec={user} --groups= "$0" "$@"
"""


class Image:
    """The last stage of the Dockerfile."""

    def __init__(self):
        text = DOCKERFILE.read_text(encoding="utf-8")
        base, _, self.stage = text.rpartition("\nFROM ")[2].partition("\n")
        require(base == "scratch", f"the last stage begins with {base}")
        self.user = self.one(r"USER (\d+:\d+)")
        self.command = json.loads(self.one(r"ENTRYPOINT (.*)"))
        self.endpoints = json.loads(self.one(r"CMD (.*)"))
        self.health_check = json.loads(self.one(r"HEALTHCHECK .*?CMD (.*)"))
        self.health_timeout = int(self.one(r"HEALTHCHECK .*--timeout=(\d+)s .*"))

    def one(self, instruction):
        found = re.findall(f"^{instruction}$", self.stage, re.MULTILINE)
        require(len(found) == 1, f"{len(found)} times {instruction!r} in the last stage")
        return found[0]

    def build(self, program, root):
        """COPY of the program, which is all that the stage copies."""
        target = self.one(r"COPY --from=build \S+/mio-echo /(\S+)")
        shutil.copy(program, pathlib.Path(root, target))


class Container:
    """The service in a root and in namespaces of its own."""

    def __init__(self, image, service):
        self.image, self.service = image, service
        self.pid = service.child()

    def join(self, *command):
        """Runs a command in the container, as its user. Returns the exit status and the errors."""
        user, group = self.image.user.split(":")
        join = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--root", "--wd"]
        join += [f"--setuid={user}", f"--setgid={group}"]
        # timeout(1) is not in the image. Its status is 124.
        limit = ["timeout", str(self.image.health_timeout)]
        done = subprocess.run(
            [*limit, *join, *command], stderr=subprocess.PIPE, text=True, timeout=LIMIT
        )
        return done.returncode, done.stderr

    def require_health(self, expected, *command):
        status, problem = self.join(*(command or self.image.health_check))
        require(status == expected, f"status {status} of the health check: {problem}")
        return problem

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """Not left to unshare(1): the change of the user has cleared the parent death signal."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)

    def wait(self):
        """The exit status of the program, which unshare(1) passes on."""
        return self.service.process.wait(LIMIT)


@contextlib.contextmanager
def container(program, arguments=None, environment=()):
    image = Image()
    with tempfile.TemporaryDirectory(prefix="mio-echo-") as root:
        # mkdtemp(3) lets only root in.
        os.chmod(root, 0o755)
        image.build(program, root)
        private = ["env", *environment, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        run = [*private, "sh", "-ec", RUN.format(user=image.user), root]
        entry, *fixed = image.command
        with Service(entry, *fixed, *(arguments or image.endpoints), prefix=run) as service:
            it = Container(image, service)
            try:
                yield it
            finally:
                it.kill()


def holds_the_program_alone(program):
    with container(program) as it:
        names = os.listdir(f"/proc/{it.pid}/root")
        require(names == ["mio-echo"], f"the image has {names}")
        return f"{os.path.getsize(program) / 1e6:.1f} MB"


def has_no_rights(program):
    with container(program) as it:
        status = pathlib.Path(f"/proc/{it.pid}/status").read_text(encoding="ascii")
        ids = " ".join(re.findall(r"^[UG]id:\t(.*)$", status, re.MULTILINE)).split()
        require(set(ids) == set(it.image.user.split(":")), f"it runs as {ids}")
        rights = int(re.search(r"^CapEff:\t(.*)$", status, re.MULTILINE)[1], 16)
        require(rights == 0, f"capabilities {rights:x}")
        try:
            open(f"/proc/{it.pid}/root/file", "w", encoding="ascii")
        except OSError as error:
            require("Read-only" in str(error), str(error))
        else:
            raise AssertionError("the root can be written to")


def serves_and_is_healthy(program):
    with container(program) as it:
        it.require_health(0)


def documented_arguments_are_healthy(program):
    """Those of docs/operations.md, which limit the clients."""
    text = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
    [arguments] = re.findall(r"`\.\.\. mio-echo (--allow .*)`", text)
    with container(program, arguments.replace("--allow ", "--allow=").split()) as it:
        it.require_health(0)


def hanging_service_is_unhealthy_in_time(program):
    with container(program) as it:
        it.signal(signal.SIGSTOP)
        problem = it.require_health(1)
        require("no answer in time" in problem, problem)


def slow_look_up_is_named(program):
    """The image has no /etc/hosts and no resolver."""
    with container(program) as it:
        problem = it.require_health(1, *it.image.command, "check", "localhost:7007")
        require("look-up of the name" in problem, problem)


def too_many_announced_descriptors_get_one_line(program):
    """LISTEN_FDS of systemd. Without /proc the program cannot see which descriptors are open."""
    try:
        with container(program, environment=["LISTEN_PID=1", "LISTEN_FDS=4000000000"]):
            raise AssertionError("it serves")
    except Ended as ended:
        require_one_error(ended.status, ended.log)
        require("it is not open" in ended.log, ended.log)


def first_process_is_stopped_by_sigterm(program):
    with container(program) as it:
        it.signal(signal.SIGTERM)
        require(it.wait() == 0, f"exit status {it.wait()}")


def first_process_ends_at_once(program):
    """At SIGHUP, and at the second signal to stop."""
    with container(program) as it:
        it.signal(signal.SIGHUP)
        require(it.wait() == 128 + signal.SIGHUP, f"exit status {it.wait()}")
    with container(program) as it:
        # Both signals are pending when it goes on. So it cannot finish its shutdown between them.
        it.signal(signal.SIGSTOP)
        it.signal(signal.SIGINT)
        it.signal(signal.SIGTERM)
        it.signal(signal.SIGCONT)
        expected = 128 + signal.SIGINT, 128 + signal.SIGTERM
        require(it.wait() in expected, f"exit status {it.wait()}")


def buildah_builds_the_same_image(program):
    """Of the last stage. The first one, which compiles, gets the program instead."""
    if not shutil.which("buildah"):
        raise Skipped("buildah is not installed")
    image = Image()
    with tempfile.TemporaryDirectory(prefix="mio-echo-") as directory:
        storage = [f"--root={directory}/storage", f"--runroot={directory}/run"]

        def buildah(*arguments):
            command = ["buildah", "--storage-driver=vfs", *storage, *arguments]
            return subprocess.run(
                command, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True
            ).stdout.strip()

        try:
            buildah("from", "scratch")
        except subprocess.CalledProcessError as error:
            raise Skipped("buildah does not run here") from error
        context = pathlib.Path(directory, "context")
        context.mkdir()
        shutil.copy(program, context / "mio-echo")
        source = image.one(r"COPY --from=build (\S+) \S+")
        build = f"FROM scratch AS build\nCOPY mio-echo {source}\nFROM scratch\n{image.stage}"
        (context / "Dockerfile").write_text(build, encoding="utf-8")
        options = ["--quiet", "--isolation=chroot", "--format=docker", "--tag=mio-echo"]
        buildah("build", *options, str(context))
        config = json.loads(buildah("inspect", "--type=image", "mio-echo"))["Docker"]["config"]
        require(config["User"] == image.user, f"user {config['User']}")
        require(config["Entrypoint"] == image.command, f"entry point {config['Entrypoint']}")
        require(config["Cmd"] == image.endpoints, f"command {config['Cmd']}")
        check = config["Healthcheck"]
        require(check["Test"] == ["CMD", *image.health_check], f"health check {check}")
        require(check["Timeout"] == image.health_timeout * 10**9, f"health check {check}")
        name = buildah("from", "--pull=never", "mio-echo")
        names = os.listdir(buildah("mount", name))
        buildah("umount", name)
        require(names == ["mio-echo"], f"the image has {names}")


CHECKS = [
    holds_the_program_alone,
    has_no_rights,
    serves_and_is_healthy,
    documented_arguments_are_healthy,
    hanging_service_is_unhealthy_in_time,
    slow_look_up_is_named,
    too_many_announced_descriptors_get_one_line,
    first_process_is_stopped_by_sigterm,
    first_process_ends_at_once,
    buildah_builds_the_same_image,
]

if __name__ == "__main__":
    harness.main(__doc__, harness.each(CHECKS))
