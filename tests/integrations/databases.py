"""Local servers of databases for tests, from Debian's packages redis-server and postgresql."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import subprocess

__all__ = ["postgres_server", "redis_server"]


@contextlib.contextmanager
def redis_server(folder):
    """Run a redis-server that stores nothing; yield the path of its socket."""
    path = f"{folder}/redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stdout:
                if "accept connections at" in line:
                    break
            else:
                raise RuntimeError("redis-server did not start")
            yield path
        finally:
            server.terminate()
            server.stdout.close()


def postgres_programs():
    """Return the folder of PostgreSQL's programs, or None."""
    found = shutil.which("initdb")
    if found:
        return os.path.dirname(os.path.realpath(found))
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return folders[-1] if folders else None


@contextlib.contextmanager
def postgres_server(folder):
    """Run a PostgreSQL server with the database postgres; yield the folder of its socket. It does not run as root."""
    programs = postgres_programs()
    user = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = {"user": "postgres"}
    data = f"{folder}/data"
    make = [f"{programs}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **user)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    command = [f"{programs}/postgres", "-D", data, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/", **user) as server:
        try:
            for line in server.stderr:
                if "ready to accept connections" in line:
                    break
            else:
                raise RuntimeError("postgres did not start")
            yield str(folder)
        finally:
            server.send_signal(signal.SIGINT)  # it does not wait for its clients
            server.stderr.close()
