"""Control groups of a check's own: children of the root of a hierarchy; see cgroups(7).

They are named after this process and removed at the end. That needs root. A check that needs a
hierarchy that this host does not have is skipped.
"""

import contextlib
import itertools
import os

from harness import Skipped, wait_until

numbers = itertools.count()


class ControlGroup:
    def __init__(self, mount):
        self.root = mount
        self.path = f"{mount}/mio-echo-{os.getpid()}-{next(numbers)}"
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise Skipped(f"no control group can be made: {error}") from error

    def read(self, name):
        with open(f"{self.path}/{name}", encoding="ascii") as file:
            return file.read()

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w", encoding="ascii") as file:
            file.write(str(value))

    def has(self, name):
        return os.path.exists(f"{self.path}/{name}")

    def add(self, service):
        self.write("cgroup.procs", service.pid)

    def remove(self):
        """Moves the processes to the root: a group with processes cannot be removed."""
        for pid in self.read("cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):
                with open(f"{self.root}/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(pid)
        wait_until(self.try_to_remove, "the control group is removed")

    def try_to_remove(self):
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
            return True


def mounts(controller):
    """Where a controller of version 1 is mounted; for None, version 2."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _, place, kind, options = line.split()[:4]
            if controller is None and kind == "cgroup2":
                yield place
            if kind == "cgroup" and controller in options.split(","):
                yield place


@contextlib.contextmanager
def control_group(controller):
    place = next(mounts(controller), None)
    if place is None:
        raise Skipped(f"no hierarchy with {controller or 'version 2'} is mounted")
    group = ControlGroup(place)
    try:
        yield group
    finally:
        group.remove()


@contextlib.contextmanager
def frozen_v1(service):
    with control_group("freezer") as group:
        group.add(service)
        group.write("freezer.state", "FROZEN")
        wait_until(lambda: group.read("freezer.state") == "FROZEN\n", "the process is frozen")
        try:
            yield
        finally:
            group.write("freezer.state", "THAWED")


@contextlib.contextmanager
def frozen_v2(service):
    with control_group(None) as group:
        group.add(service)
        group.write("cgroup.freeze", "1")
        wait_until(lambda: "frozen 1" in group.read("cgroup.events"), "the process is frozen")
        try:
            yield
        finally:
            group.write("cgroup.freeze", "0")


@contextlib.contextmanager
def memory_group(size, socket_memory):
    """A control group with `size` bytes of memory, without swap.

    Version 2 charges the buffers of sockets to it as well, so it gets `socket_memory` in addition.
    """
    version = "memory" if next(mounts("memory"), None) else None
    with control_group(version) as group:
        if version:
            group.write("memory.limit_in_bytes", size)
        elif group.has("memory.max"):
            group.write("memory.max", size + socket_memory)
            if group.has("memory.swap.max"):
                group.write("memory.swap.max", 0)
        else:
            raise Skipped("the root of the control groups does not control memory")
        yield group
