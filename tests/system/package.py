"""The Debian package: built, installed, used and removed.

The package is what [package.metadata.deb] in Cargo.toml says, as `cargo deb` builds it; here
dpkg-deb(1) does, because building `cargo deb` takes longer than all checks. It is installed by dpkg(1)
in a copy of this system: an overlay whose changes are thrown away. No systemd runs there. Needs root,
bash, dpkg-dev, mandoc, systemd and util-linux.
"""

import contextlib
import os
import pathlib
import pty
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
import tomllib

import harness
from harness import LIMIT, Check, require, wait_until

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ROOT / "target" / "package"
PAGE_NAMES = "check", "ping", "load"
SHELLS = "bash", "fish", "zsh"
SCRIPTS = "postinst", "prerm", "postrm"

# $0 is an empty directory.
OVERLAY = """\
mount -t tmpfs tmpfs "$0"
mkdir "$0/changes" "$0/work" "$0/root"
mount -t overlay -o lowerdir=/,upperdir="$0/changes",workdir="$0/work" overlay "$0/root"
mount -t proc proc "$0/root/proc"
mount --rbind /dev "$0/root/dev"
ip link set lo up
echo ready
exec sleep 600
"""

# Stands for systemctl(1), which needs a running systemd.
SYSTEMCTL = '#!/bin/sh\necho "$*" >> /root/systemctl.log\n'


def output_of(command, **options):
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT, **options
    )
    text = done.stdout.decode()
    require(done.returncode == 0, f"{shlex.join(command)}: status {done.returncode}:\n{text}")
    return text


def make_pages(program):
    """The files that the program makes, as CONTRIBUTING.md says."""
    PAGES.mkdir(parents=True, exist_ok=True)

    def make(name, *arguments):
        (PAGES / name).write_text(output_of([program, *arguments]), encoding="utf-8")

    make("mio-echo.1", "man")
    for name in PAGE_NAMES:
        make(f"mio-echo-{name}.1", "man", name)
    for shell in SHELLS:
        make(f"mio-echo.{shell}", "completions", shell)


def dependencies(program):
    """$auto: the packages that the program's libraries are in."""
    with tempfile.TemporaryDirectory() as directory:
        control = pathlib.Path(directory, "debian", "control")
        control.parent.mkdir()
        control.write_text("Source: any\n\nPackage: any\nArchitecture: any\n", encoding="ascii")
        output = output_of(["dpkg-shlibdeps", "-O", program], cwd=directory)
    return re.search(r"^shlibs:Depends=(.*)$", output, re.MULTILINE)[1]


def build(program, directory):
    """Builds the package. Returns its path, and the path and mode of each of its files."""
    package = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["package"]
    metadata = package["metadata"]["deb"]
    make_pages(program)
    tree = pathlib.Path(directory, "tree")
    files = {}
    for source, target, mode in metadata["assets"]:
        source = program if source == "target/release/mio-echo" else ROOT / source
        name = target + (os.path.basename(source) if target.endswith("/") else "")
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tree / name)
        (tree / name).chmod(int(mode, 8))
        files[f"/{name}"] = int(mode, 8)
    control = tree / "DEBIAN"
    control.mkdir()
    for script in SCRIPTS:
        shutil.copy(ROOT / metadata["maintainer-scripts"] / script, control / script)
        (control / script).chmod(0o755)
    fields = {
        "Package": package["name"],
        "Version": package["version"] + "-1",
        "Architecture": output_of(["dpkg", "--print-architecture"]).strip(),
        # Only the owner can fill it in: see CONTRIBUTING.md.
        "Maintainer": metadata.get("maintainer", "not set"),
        "Section": metadata["section"],
        "Depends": metadata["depends"].replace("$auto", dependencies(program)),
        "Description": package["description"] + "\n " + metadata["extended-description"],
    }
    text = "".join(f"{name}: {value}\n" for name, value in fields.items())
    (control / "control").write_text(text, encoding="utf-8")
    path = pathlib.Path(directory, "mio-echo.deb")
    output_of(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(path)])
    return path, files


class System:
    """A copy of this system, with the package in /root and a network of its own."""

    def __init__(self, package, directory):
        self.directory = directory
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", OVERLAY, directory],
            stdout=subprocess.PIPE,
        )
        require(self.holder.stdout.readline() == b"ready\n", "there is no overlay")
        self.enter = ["nsenter", f"--target={self.holder.pid}", "--mount", "--net"]
        self.root = f"{directory}/root"
        output_of([*self.enter, "cp", str(package), f"{self.root}/root/mio-echo.deb"])
        self.write("/root/bin/systemctl", SYSTEMCTL)
        self.run("mkdir", "-p", "/run/systemd/system")

    def write(self, path, text):
        self.run("mkdir", "-p", os.path.dirname(path))
        output_of([*self.enter, "tee", f"{self.root}{path}"], input=text.encode())
        self.run("chmod", "755", path)

    def command(self, *command):
        return [*self.enter, "chroot", self.root, "env", *command]

    def run(self, *command):
        return output_of(self.command(*command))

    def dpkg(self, *arguments):
        return self.run("PATH=/root/bin:/usr/sbin:/usr/bin:/sbin:/bin", "dpkg", *arguments)

    def systemctl_calls(self):
        """Since the last call."""
        calls = self.run("cat", "/root/systemctl.log").splitlines()
        self.run("rm", "/root/systemctl.log")
        return calls

    def close(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


class Package:
    """The package, built in a directory that ends with the script."""

    def __init__(self, program):
        self.directory = tempfile.TemporaryDirectory(prefix="mio-echo-")
        self.path, self.files = build(program, self.directory.name)

    @contextlib.contextmanager
    def installed(self):
        with tempfile.TemporaryDirectory(prefix="mio-echo-") as directory:
            with contextlib.closing(System(self.path, directory)) as system:
                # The triggers are of other packages, such as man-db, and take long.
                system.dpkg("--no-triggers", "--install", "/root/mio-echo.deb")
                yield system


def has_its_files(package):
    with package.installed() as system:
        for path, mode in package.files.items():
            found = int(system.run("stat", "--format=%a", path), 8)
            require(found == mode, f"{path} has mode {found:o}")
        return f"{package.path.stat().st_size / 1e6:.1f} MB"


def units_have_no_errors(package):
    with package.installed() as system:
        units = [path for path in package.files if path.endswith((".service", ".socket"))]
        require(len(units) == 2, f"units: {units}")
        output = system.run("systemd-analyze", "verify", *units)
        # Warnings do not change the exit status.
        warnings = [line for line in output.splitlines() if "mio-echo" in line]
        require(not warnings, "\n".join(warnings))


def service_of_the_unit_serves(package):
    """Its command, started by systemd-socket-activate(1) as the service's user would."""
    with package.installed() as system:
        unit = system.run("cat", "/usr/lib/systemd/system/mio-echo.service")
        command = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit, re.MULTILINE)[1]
        arguments = command.replace("\\\n", " ").split()
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        activate = ["systemd-socket-activate", "--listen=127.0.0.1:7007", *arguments]
        service = subprocess.Popen(system.command(*user, *activate), stderr=subprocess.PIPE)
        try:
            check = system.command("mio-echo", "-q", "check", "tcp://127.0.0.1:7007")

            def is_served():
                return subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 0

            wait_until(is_served, "the service echoes", interval=0.05)
        finally:
            service.terminate()
            _, log = service.communicate(timeout=LIMIT)
        require(service.returncode == 0, f"exit status {service.returncode}")
        require(b"<6>[mio_echo::echo::engine] listening on" in log, log.decode())


def manual_pages_have_no_warnings(package):
    with package.installed() as system:
        pages = [path for path in package.files if path.endswith(".1")]
        require(len(pages) == 1 + len(PAGE_NAMES), f"pages: {pages}")
        # Below warnings is style: such as input lines of more than 80 bytes.
        system.run("mandoc", "-T", "lint", "-W", "warning,stop", *pages)
        for page in pages:
            text = system.run("mandoc", "-T", "ascii", "-O", "width=80", page)
            plain = re.sub(".\b", "", text)
            for section in "SYNOPSIS", "EXAMPLES", "EXIT STATUS":
                require(f"\n{section}\n" in plain, f"{page} has no {section}")


def bash_completes(package):
    """What is typed, with a tab, in an interactive bash with the installed completions."""
    with package.installed() as system:
        shell = system.command("bash", "--norc", "-i")
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp(shell[0], shell)
        try:
            script = "/usr/share/bash-completion/completions/mio-echo"
            os.write(terminal, f"PS1=; source {script}\n".encode())
            for typed, completed in [
                ("mio-echo --drain-t\t", "--drain-timeout "),
                ("mio-echo comp\tz\t", "completions zsh "),
                ("mio-echo load --chu\t", "--churn "),
            ]:
                # The comment keeps bash from running it.
                os.write(terminal, f"# {typed.partition(' ')[0]}\n{typed}".encode())
                wait_for(terminal, completed)
                os.write(terminal, b"\x15")  # Ctrl-U: clears the line
        finally:
            os.write(terminal, b"\x15exit\n")
            os.close(terminal)
            os.waitpid(pid, 0)


def wait_for(terminal, text):
    seen, end = "", time.monotonic() + LIMIT
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        require(ready, f"no {text!r} in {seen!r}")
        seen += os.read(terminal, 4096).decode(errors="replace")


def removal_stops_the_units_and_leaves_nothing(package):
    with package.installed() as system:
        calls = system.systemctl_calls()
        require(calls == ["daemon-reload", "try-restart mio-echo.service"], f"installed: {calls}")
        system.dpkg("--no-triggers", "--purge", "mio-echo")
        calls = system.systemctl_calls()
        expected = ["disable --now mio-echo.socket mio-echo.service", "daemon-reload"]
        require(calls == expected, f"removed: {calls}")
        left = system.run("sh", "-c", 'ls -d "$@" 2> /dev/null || true', "-", *package.files)
        require(not left, f"left behind: {left}")


CHECKS = [
    has_its_files,
    units_have_no_errors,
    service_of_the_unit_serves,
    manual_pages_have_no_warnings,
    bash_completes,
    removal_stops_the_units_and_leaves_nothing,
]


def checks(options):
    package = Package(options.program)
    return [Check(function, package) for function in CHECKS]


if __name__ == "__main__":
    harness.main(__doc__, checks)
