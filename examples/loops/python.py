#!/usr/bin/env python3
"""A Server in asyncio, through c_interface.rs. Ctrl-C shuts it down.

    cargo build --lib && python3 python.py target/debug/libmio_echo_c.so [PORT]
"""

import asyncio
import ctypes
import os
import signal
import sys


def load(path):
    library = ctypes.CDLL(path)
    library.echo_new.restype = ctypes.c_void_p
    library.echo_is_finished.restype = ctypes.c_bool
    for name in ["fd", "timeout", "turn", "shutdown", "is_finished", "free"]:
        getattr(library, f"echo_{name}").argtypes = [ctypes.c_void_p]
    return library


async def serve(library, server):
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    timer = None
    turns = 0

    def turn():
        nonlocal timer, turns
        turns += 1
        error = library.echo_turn(server)
        if timer is not None:
            timer.cancel()
        timeout = library.echo_timeout(server)
        timer = loop.call_later(timeout / 1000, turn) if timeout >= 0 else None
        if error and not finished.done():
            finished.set_exception(OSError(error, os.strerror(error)))
        elif library.echo_is_finished(server) and not finished.done():
            finished.set_result(turns)

    loop.add_reader(library.echo_fd(server), turn)
    loop.add_signal_handler(signal.SIGINT, library.echo_shutdown, server)
    return await finished


def main(path, port="7007"):
    library = load(path)
    server = library.echo_new(int(port))
    if server is None:
        sys.exit(1)
    turns = asyncio.run(serve(library, server))
    print(f"served in {turns} turns")
    library.echo_free(server)


if __name__ == "__main__":
    USAGE = "usage: python.py LIBRARY [PORT]"
    arguments = sys.argv[1:]
    if arguments == ["--help"]:
        print(USAGE)
    elif len(arguments) in (1, 2) and os.path.exists(arguments[0]):
        main(*arguments)
    else:
        sys.exit(USAGE)
