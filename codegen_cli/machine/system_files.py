"""Text files under /proc and /sys -> lines, numbers, and the control groups of this process.

Nothing is an error here: a file that another system, or a container, does not have holds nothing.
"""

from collections.abc import Iterator
from pathlib import Path


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file; none if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def number_in(path: Path) -> int | None:
    """Return a file's whole number; None if there is no file, or it says "max" or "-1"."""
    text = "".join(lines_of(path)).strip()
    return int(text) if text.isdecimal() and text.isascii() else None


def control_groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield (version, directory) of each control group whose limits may hold for this process.

    controller  "memory" or "cpu"
    root        where /proc and /sys are looked for

    The process's own group comes first, then those around it: all their limits count.
    https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/cgroups.html
    """
    mounts = root / "sys/fs/cgroup"
    for line in lines_of(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        version = 2 if number == "0" else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        # Version 1 mounts each controller by itself, or those that go together at "cpu,cpuacct".
        folders = [""] if version == 2 else dict.fromkeys((controller, controllers))
        for top in (mounts / folder for folder in folders):
            inner = top / group.lstrip("/")
            # In a container the path may be the host's: then the top is the container's own group.
            for directory in dict.fromkeys((inner, *inner.parents)):
                if directory == top or top in directory.parents:
                    yield version, directory
