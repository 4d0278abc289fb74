"""The packed file that the driver runs -> the same one on another node, found there or brought.

A node looks where the driver has it (a shared disk), then among its own models. What it lacks it
gets from the hub, if that was asked for, else from the driver in pieces, each with its hash: into
its cache, whole or not at all, and once where several of its workers want it. That two files are
the same, the hash of their headers tells, which state the hash of all else.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codegen_cli.hub.entries import BUNDLED
from codegen_cli.machine import places
from codegen_cli.models.registry import find_packed
from quantize.files.errors import UserError
from quantize.files.input_file import unreadable
from quantize.files.partial_file import BeingWritten
from quantize.files.whole_file import SHARED, resuming_file, write_all
from quantize.packed.packed_file import verify
from quantize.packed.packed_header import PackedHeader, read_packed_header
from quantize.rounding.groups import Bytes

PIECE_BYTES = 256_000_000
_WAIT_SECONDS = 0.5


class SharedModel(NamedTuple):
    """A packed file, as the driver tells of it.

    name         as the command line names the model
    path         where the driver has it
    n_bytes      of the file
    sha256       of its header
    piece_bytes  of a piece, the last one has what is left
    hub          what to download and pack where it is missing, "350M-mono"; None: it is brought
    """

    name: str
    format: str
    path: Path
    n_bytes: int
    sha256: str
    piece_bytes: int = PIECE_BYTES
    hub: str | None = None

    @property
    def n_pieces(self) -> int:
        """How many pieces the file has."""
        return -(-self.n_bytes // self.piece_bytes)


class Piece(NamedTuple):
    """A part of a file's bytes, u8 [n], and their SHA-256."""

    content: Bytes
    sha256: str


ReadPiece = Callable[[int], Piece]
"""Brings a piece of the driver's file, by its number."""


def shared_model(
    header: PackedHeader, name: str, format: str, hub: str | None, piece_bytes: int = PIECE_BYTES
) -> SharedModel:
    """Return what to tell other nodes of a packed file."""
    path = header.path.absolute()
    return SharedModel(name, format, path, len(header.content), header.sha256, piece_bytes, hub)


def read_piece(model: SharedModel, index: int) -> Piece:
    """Read a piece, where the file is; UserError where that cannot be done."""
    try:
        with model.path.open("rb", buffering=0) as file:
            content = np.fromfile(file, np.uint8, model.piece_bytes, offset=_start(model, index))
    except OSError as error:
        raise unreadable(model.path, error) from error
    return Piece(content, hashlib.sha256(content.data).hexdigest())


def find_model(model: SharedModel) -> Path | None:
    """Return where this node has a model, if it has it."""
    return next((path for path in _places(model) if _is_same(path, model)), None)


def bring_model(model: SharedModel, read: ReadPiece) -> Path:
    """Return where this node has a model, from now on if not before.

    Raises UserError: there is no room for it, or what arrived is not what the driver has.
    """
    if found := find_model(model):
        return found
    return _from_hub(model, model.hub) if model.hub else _in_pieces(model, read)


def _places(model: SharedModel) -> Iterator[Path]:
    yield model.path
    if model.name == BUNDLED:
        yield places.bundled_model()
    if path := find_packed(model.name, model.format):
        yield path
    yield _copy_path(model)


def _copy_path(model: SharedModel) -> Path:
    return places.packed_copies_dir() / f"{model.sha256[:16]}.{model.format}.safetensors"


def _is_same(path: Path, model: SharedModel) -> bool:
    """Tell whether a packed file is the driver's; its payloads are taken for what it states."""
    try:
        return path.stat().st_size == model.n_bytes and (
            read_packed_header(path).sha256 == model.sha256
        )
    except (OSError, UserError):
        return False


def _from_hub(model: SharedModel, name: str) -> Path:
    from codegen_cli.hub.download import download
    from codegen_cli.models.packing import pack
    from codegen_cli.models.registry import packed_path, resolve_download

    entry = resolve_download(name).entry
    target = packed_path(entry.name, model.format)
    pack(download(entry), entry.name, model.format, target)
    if not _is_same(target, model):
        raise UserError(
            f"{entry.name}, downloaded from the hub and packed as {model.format}, is not what the "
            "driver has",
            "Another revision? Without --ray-hub the driver's file is brought here.",
        )
    return target


def _in_pieces(model: SharedModel, read: ReadPiece) -> Path:
    target = _copy_path(model)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {target.parent}: {error.strerror}", places.CHOOSE_HOME
        ) from error
    while not _is_same(target, model):
        with contextlib.suppress(BeingWritten):
            _write_pieces(model, target, read)
            break
        time.sleep(_WAIT_SECONDS)  # another worker of this node brings it
    return target


def _write_pieces(model: SharedModel, target: Path, read: ReadPiece) -> None:
    """Write all pieces; raises BeingWritten while another process does."""
    with resuming_file(target, mode=SHARED, fits=lambda part: False) as claim:
        if _is_same(target, model):  # it came between the look and the claim: look again
            raise BeingWritten(claim.partial)
        for index in range(model.n_pieces):
            piece = read(index)
            if hashlib.sha256(piece.content.data).hexdigest() != piece.sha256:
                raise UserError(
                    f"piece {index} of {model.name} did not arrive as it was sent",
                    "A network or memory that flips bits; give the same command again.",
                )
            write_all(claim.file, piece.content.data, target)
        # The hash of each tensor, too: a file that was replaced while it was read is neither.
        if not _is_same(claim.partial, model) or verify(claim.partial):
            raise UserError(
                f"{model.path} is damaged, or has changed while it was read",
                "`codegen models verify` tells which; give the same command again.",
            )


def _start(model: SharedModel, index: int) -> int:
    return index * model.piece_bytes
