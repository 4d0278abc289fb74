"""Nodes of a Ray cluster on this machine, each started as by hand, and looked at from outside."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PATIENCE_SECONDS = 60
TOKEN = "7" * 64


class Cluster:
    """A head, more nodes, and the address of the head.

    environment  what its nodes and users have beside that of this process: a token
    """

    def __init__(self, stack: contextlib.ExitStack, n_cpus: int) -> None:
        # Sockets lie in there: their names may be no longer than some 100 characters.
        self._directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp"))
        self._stack = stack
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._start("--head", f"--port={port}", f"--num-cpus={n_cpus}")
        self.n_nodes = 1
        self._wait()

    def add(
        self,
        n_cpus: int,
        hides: Sequence[Path] = (),
        stack: contextlib.ExitStack | None = None,
        **environment: str,
    ) -> None:
        """Start another node.

        hides  directories that it finds empty; needs root
        stack  at whose end it ends; None: the cluster's
        """
        # Of nodes with one address a driver would join any.
        own_address = f"--node-ip-address=127.0.0.{self.n_nodes + 1}"
        options = (f"--address={self.address}", f"--num-cpus={n_cpus}", own_address)
        if stack:
            stack.callback(self._has_lost_one)  # after it has ended
        self._start(*options, hides=hides, stack=stack, **environment)
        self.n_nodes += 1
        self._wait()

    def _has_lost_one(self) -> None:
        self.n_nodes -= 1
        self._wait()

    def _start(
        self,
        *options: str,
        hides: Sequence[Path] = (),
        stack: contextlib.ExitStack | None = None,
        **environment: str,
    ) -> None:
        is_head = "--head" in options
        options += (f"--temp-dir={self._directory}",) * is_head
        options += ("--disable-usage-stats", "--include-dashboard=false") * is_head
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        if hides:
            mounts = " && ".join(f"mount -t tmpfs none '{path}'" for path in hides)
            ray = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *ray]
        process = subprocess.Popen(
            ray,
            env=os.environ | self.environment | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (stack or self._stack).callback(_end, process)

    def _wait(self) -> None:
        command = [sys.executable, "-c", _COUNT, self.address]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            result = subprocess.run(
                command,
                env=os.environ | self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if result.stdout.strip() == str(self.n_nodes):
                return
            time.sleep(0.5)
        raise AssertionError(f"{self.n_nodes} nodes are not there: {result}")


_COUNT = """
import sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
print(sum(info.state == 0 for info in client.get_all_node_info().values()))
"""


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a node as a power cut does, with all that belongs to it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def can_hide() -> bool:
    """Tell whether a process of this user's can have another view of the file system."""
    unshare = shutil.which("unshare")
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        bool(unshare) and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


def workers() -> Iterator[int]:
    """Yield the processes that answer lines."""
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (directory / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                yield int(directory.name)
