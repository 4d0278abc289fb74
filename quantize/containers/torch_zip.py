"""A pytorch_model.bin (torch's zip format) -> its tensors, memory-mapped; nothing in it is run.

    {stem}/data.pkl     the pickle of a dict: name -> tensor over a storage
    {stem}/data/{key}   the numbers of one storage, uncompressed
    {stem}/byteorder    "little" (since torch 2.1)

Format: torch/serialization.py (torch.save since torch 1.6) and PKWARE's APPNOTE.TXT for the zip.
"""

import io
import math
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantize.containers.inert_pickle import StorageRecord, TensorRecord, read_state_dict
from quantize.containers.source_tensor import NUMPY_DTYPES, SourceTensor, fits_numpy, view_tensor
from quantize.files.errors import UserError
from quantize.files.input_file import map_input, quoted, shown

# A state dict of a thousand layers takes 3 MB; what is longer would only keep the reader busy.
_LARGEST_PICKLE_BYTES = 16 << 20
# The list of entries has some 100 bytes for each, of which zipfile makes ten times as many.
_LARGEST_LIST_BYTES = 4 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED, _SIZE_FOLLOWS = 0x1, 0x8
# torch's magic number, pickled: how a file that torch wrote before 1.6 begins.
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_HINT_DOWNLOAD = "The file is damaged or incomplete; download it again."


class _Entry(NamedTuple):
    """Where an entry of the zip lies: its local header, its content, the end of its content."""

    header: int
    start: int
    end: int
    name: str


def map_torch_zip(path: Path) -> dict[str, SourceTensor]:
    """Map a file: the tensors of its state dict by name, in the state dict's order.

    The numbers stay in the file until they are read. Raises UserError, naming the file, the entry
    or tensor, what was found and needed, for anything but a sound zip of a plain state dict.
    """
    content = np.frombuffer(map_input(path), np.uint8)
    _judge_start(content, path)
    entries = _map_entries(content, path)
    stem, pickle_bytes = _read_pickle(content, entries, path)
    state = read_state_dict(pickle_bytes, f"{shown(stem)}/data.pkl in {path}")
    _judge_byte_order(content, entries.get(f"{stem}/byteorder"), path)
    return {
        name: _map_tensor(name, tensor, content, entries, f"{stem}/data/", path)
        for name, tensor in state.items()
    }


def _judge_start(content: npt.NDArray[np.uint8], path: Path) -> None:
    start = content[:16].tobytes()
    if start.startswith(_LEGACY_START):
        raise UserError(
            f"{path} has the format of torch before 1.6, need torch's zip format",
            "Load it with torch and save it again with torch.save.",
        )
    if not start.startswith(_LOCAL_SIGNATURE):
        raise UserError(
            f"{path} is not a torch zip: begins with {quoted(start)}, need b'PK\\x03\\x04'",
            "Give a checkpoint that torch.save wrote; if this should be one, download it again.",
        )


def _map_entries(content: npt.NDArray[np.uint8], path: Path) -> dict[str, _Entry]:
    """Every entry by name: stored plainly, inside the file, and apart from all others."""
    try:
        with zipfile.ZipFile(_ZipReader(content)) as archive:
            listed = archive.infolist()
            end_of_entries = archive.start_dir
    # What zipfile raises for a central directory that is absent or makes no sense.
    except (zipfile.BadZipFile, ValueError, OSError, OverflowError, NotImplementedError) as error:
        raise UserError(
            f"{path} is truncated or damaged: {content.size} bytes without the list of entries "
            f"that ends a torch zip ({error})",
            _HINT_DOWNLOAD,
        ) from error
    entries: dict[str, _Entry] = {}
    for info in listed:
        if info.filename in entries:
            raise _invalid(path, info.filename, "is listed twice, need unique names")
        entries[info.filename] = _locate(info, content, path)
    end, before = 0, ""
    for entry in sorted(entries.values()):
        if entry.header < end:
            raise _invalid(path, entry.name, f"overlaps {quoted(before)}")
        end, before = entry.end, entry.name
    if end > end_of_entries:
        raise _invalid(path, before, f"ends at byte {end}, need at most {end_of_entries}")
    return entries


class _ZipReader(io.RawIOBase):
    """The mapped bytes as the file that zipfile reads its list of entries from."""

    def __init__(self, content: npt.NDArray[np.uint8]) -> None:
        self._content = content
        self._at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._content.size}[whence]
        if base + offset < 0:
            raise OSError("it begins before the file")  # which zipfile expects
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_LIST_BYTES:
            raise zipfile.BadZipFile(f"it has {size} bytes, need at most {_LARGEST_LIST_BYTES}")
        end = None if size < 0 else self._at + size
        read = self._content[self._at : end].tobytes()
        self._at += len(read)
        return read


def _locate(info: zipfile.ZipInfo, content: npt.NDArray[np.uint8], path: Path) -> _Entry:
    """Check an entry's local header against the list of entries, and find its content."""
    method, flags = info.compress_type, info.flag_bits
    if method != zipfile.ZIP_STORED or info.compress_size != info.file_size or flags & _ENCRYPTED:
        raise _invalid(path, info.filename, "is compressed or encrypted, need it stored plainly")
    header = content[info.header_offset : info.header_offset + _LOCAL_HEADER.size].tobytes()
    if info.header_offset < 0 or len(header) < _LOCAL_HEADER.size:
        what = f"begins at byte {info.header_offset}, need less than {content.size}"
        raise _invalid(path, info.filename, what)
    signature, _, flags, method, _, _, _, size, _, n_name, n_extra = _LOCAL_HEADER.unpack(header)
    name_start = info.header_offset + _LOCAL_HEADER.size
    start = name_start + n_name + n_extra
    # 0xFFFFFFFF stands for a size in the zip64 field; with the flag the size stands after the data.
    sizes = (info.file_size, 0xFFFFFFFF, *([0] if flags & _SIZE_FOLLOWS else []))
    name = content[name_start : name_start + n_name].tobytes()
    listed_name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    if (signature, method, name) != (_LOCAL_SIGNATURE, 0, listed_name) or size not in sizes:
        raise _invalid(path, info.filename, "has a header that contradicts the list of entries")
    if start + info.file_size > content.size:
        raise UserError(
            f"{path} is truncated: {content.size} bytes, need {start + info.file_size} for "
            f"its entry {quoted(info.filename)}",
            _HINT_DOWNLOAD,
        )
    return _Entry(info.header_offset, start, start + info.file_size, info.filename)


def _read_pickle(
    content: npt.NDArray[np.uint8], entries: dict[str, _Entry], path: Path
) -> tuple[str, bytes]:
    """The name of the folder that holds data.pkl, and the pickle's bytes."""
    found = [entry for name, entry in entries.items() if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise UserError(
            f"{path} is not a torch zip: {len(found)} entries named data.pkl, need 1",
            "Give a checkpoint that torch.save wrote.",
        )
    entry = found[0]
    if entry.end - entry.start > _LARGEST_PICKLE_BYTES:
        what = f"has {entry.end - entry.start} bytes, need at most {_LARGEST_PICKLE_BYTES}"
        raise _invalid(path, entry.name, what)
    return entry.name.removesuffix("/data.pkl"), content[entry.start : entry.end].tobytes()


def _judge_byte_order(content: npt.NDArray[np.uint8], entry: _Entry | None, path: Path) -> None:
    order = b"little" if entry is None else content[entry.start : entry.end][:16].tobytes()
    if order != b"little":
        raise UserError(
            f"{path} was written with byte order {quoted(order)}, need b'little'",
            "Save the checkpoint again on a little-endian machine.",
        )


def _map_tensor(
    name: str,
    tensor: TensorRecord,
    content: npt.NDArray[np.uint8],
    entries: dict[str, _Entry],
    folder: str,
    path: Path,
) -> SourceTensor:
    storage, offset, shape, stride = tensor
    itemsize = NUMPY_DTYPES[storage.dtype].itemsize
    entry = _storage_entry(name, storage, entries, folder, path)
    # The last value that the tensor reaches; Python's integers cannot overflow.
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    is_empty = 0 in shape
    # Values that repeat (a stride of 0) would make a tensor of any size out of a small file.
    is_inside = is_empty or (last < storage.numel and math.prod(shape) <= storage.numel)
    if not fits_numpy(shape, itemsize) or not is_inside:
        raise UserError(
            f"{path}: tensor {quoted(name)} has size {quoted(list(shape))}, stride "
            f"{quoted(list(stride))} and offset {offset}, need one that stays within the "
            f"{storage.numel} values of its storage",
            _HINT_DOWNLOAD,
        )
    if is_empty:
        return view_tensor(name, storage.dtype, shape, content, entry.start)
    start = entry.start + offset * itemsize
    strides = tuple(step * itemsize for step in stride)
    return view_tensor(name, storage.dtype, shape, content, start, strides)


def _storage_entry(
    name: str, storage: StorageRecord, entries: dict[str, _Entry], folder: str, path: Path
) -> _Entry:
    entry = entries.get(folder + storage.key)
    if entry is None:
        raise UserError(
            f"{path} has no entry {quoted(folder + storage.key)}, need it for tensor "
            f"{quoted(name)}",
            _HINT_DOWNLOAD,
        )
    need_bytes = storage.numel * NUMPY_DTYPES[storage.dtype].itemsize
    if entry.end - entry.start < need_bytes:
        raise UserError(
            f"{path}: entry {quoted(entry.name)} has {entry.end - entry.start} bytes, tensor "
            f"{quoted(name)} needs at least {need_bytes}",
            _HINT_DOWNLOAD,
        )
    return entry


def _invalid(path: Path, entry: str, problem: str) -> UserError:
    return UserError(f"{path}: entry {quoted(entry)} {problem}", _HINT_DOWNLOAD)
