"""Which codegen is on a machine: its version, and a hash of its sources."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import quantize
from codegen_cli.contract.version import __version__
from codegen_cli.machine import places
from quantize.files.errors import UserError


class Versions(NamedTuple):
    """What must be the same wherever lines of one job are answered.

    version  codegen's own
    sources  16 hexadecimal digits of a hash of all its modules: a checkout may be any state
    """

    version: str
    sources: str

    def __str__(self) -> str:
        return f"{self.version} (sources {self.sources[:8]})"


def versions() -> Versions:
    """Return those of this process: 350 files are read."""
    digest = hashlib.sha256()
    for root in (places.PACKAGE, Path(quantize.__file__).parent):
        for path in _modules(root):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return Versions(__version__, digest.hexdigest()[:16])


def _modules(root: Path) -> Iterator[Path]:
    yield from sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix())


def require_same(found: Versions, need: Versions, where: str) -> None:
    """Raise UserError unless a machine has the codegen that is needed."""
    if found != need:
        raise UserError(
            f"{where} has codegen {found}, the driver {need}",
            "Install the same on all: the bytes of answers depend on it.",
        )
