"""A checkpoint directory -> its config, tokenizer and tensors, from any of the usual containers."""

import re
from dataclasses import dataclass
from pathlib import Path

from quantize.checkpoint.tokenizer_files import CheckpointTokenizer, read_tokenizer
from quantize.containers.safetensors_map import map_safetensors
from quantize.containers.source_tensor import SourceTensor
from quantize.containers.torch_zip import map_torch_zip
from quantize.description.config import ModelConfig, read_config
from quantize.description.tensor_map import is_unused
from quantize.files.errors import UserError
from quantize.files.input_file import exists, map_input, quoted, read_input
from quantize.files.json_object import parse_json_object

# In the order of preference that transformers has.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What holds a checkpoint's weights or lists the files that do; the first that exists is read."""

_PLAIN_NAME = re.compile(r"(?!\.\.?$)[^/\\:\0]{1,255}")
_LARGEST_INDEX_BYTES = 64 << 20
_NAMED_PROBLEMS = 8
# Parameters over one storage, as of a tied embedding and head, need more bytes than the files have:
# twice as many. Beyond this a small file would fill the disk.
_MOST_SHARING = 4
_HARMLESS_BYTES = 64 << 20
_HINT_DOWNLOAD = "Download the whole checkpoint again."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as its authors published it; the tensors stay in their files until they are read.

    path            the directory
    tensors         by the checkpoint's own names
    unused          names of those that are left out (tensor_map.is_unused)
    tokenizer       tokenizer.json, built from older files where it is absent, and settings
    files           the weight files
    weights_bytes   their size
    """

    path: Path
    config: ModelConfig
    tensors: dict[str, SourceTensor]
    unused: tuple[str, ...]
    tokenizer: CheckpointTokenizer
    files: tuple[Path, ...]
    weights_bytes: int


def open_checkpoint(source: Path) -> Checkpoint:
    """Open a checkpoint directory, or the directory around a weight file using just that file.

    Weights are one file or the shards of an index, torch zips or safetensors. Raises UserError,
    naming what was found and needed, when anything is absent, damaged or of another architecture.
    Whether the tensors fit the config is for `tensor_map.match_tensors` to judge.
    """
    is_directory = _is_directory(source)
    directory = source if is_directory else source.parent
    weights = _find_weights(directory) if is_directory else source
    config = read_config(_required(directory, "config.json"))
    tokenizer = read_tokenizer(directory)
    files, found = _map_weights(weights)
    tensors = {name: tensor for name, tensor in found.items() if not is_unused(name)}
    weights_bytes = sum(file.stat().st_size for file in files)
    _judge_sharing(tensors, weights_bytes, weights)
    return Checkpoint(
        path=directory,
        config=config,
        tensors=tensors,
        unused=tuple(name for name in found if name not in tensors),
        tokenizer=tokenizer,
        files=files,
        weights_bytes=weights_bytes,
    )


def _is_directory(source: Path) -> bool:
    if not exists(source):
        raise UserError(
            f"{source} does not exist, need a checkpoint directory or a weight file in one",
            "Check the path.",
        )
    return source.is_dir()


def _find_weights(directory: Path) -> Path:
    for name in WEIGHT_FILES:
        if exists(directory / name):
            return directory / name
    raise UserError(
        f"{directory} holds no weights, need one of {', '.join(WEIGHT_FILES)}",
        "Give the directory of a downloaded CodeGen or GPT-J checkpoint.",
    )


def _required(directory: Path, name: str) -> Path:
    if not exists(directory / name):
        raise UserError(
            f"{directory} holds no {name}, need it beside the weights",
            f"Download {name} from the weights' own repository.",
        )
    return directory / name


def _map_weights(path: Path) -> tuple[tuple[Path, ...], dict[str, SourceTensor]]:
    """The weight files and the tensors in them; `path` is a weight file or an index."""
    start = map_input(path)[:8]
    if start.startswith(b"{") and not _is_safetensors(start):
        return _map_shards(path)
    return (path,), _map_file(path)


def _map_file(path: Path) -> dict[str, SourceTensor]:
    """Map a weight file by what it begins with, whatever it is called."""
    start = map_input(path)[:24]
    if _is_safetensors(start):
        return map_safetensors(path)[0]
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return map_torch_zip(path)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a git-lfs pointer, need the weights that it stands for",
            "Run `git lfs pull` where it was cloned, or download the checkpoint.",
        )
    raise UserError(
        f"{path} begins with {quoted(start)}, need a torch zip or a safetensors file",
        _HINT_DOWNLOAD,
    )


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins with a plausible header length: less than 2**32 as 64 bits."""
    return start[4:8] == bytes(4)


def _map_shards(index: Path) -> tuple[tuple[Path, ...], dict[str, SourceTensor]]:
    shards = _read_index(index)
    missing = [name for name in shards if not exists(index.parent / name)]
    if missing:
        raise UserError(
            f"{index} names {len(shards)} shards; missing: {_listed(missing)}", _HINT_DOWNLOAD
        )
    tensors: dict[str, SourceTensor] = {}
    for name, listed in shards.items():
        found = _map_file(index.parent / name)
        _judge_shard(index, name, listed, {name for name in found if not is_unused(name)})
        tensors |= found
    return tuple(index.parent / name for name in shards), tensors


def _read_index(index: Path) -> dict[str, set[str]]:
    """The parameters that an index expects in each of its shards."""
    fields = parse_json_object(read_input(index, _LARGEST_INDEX_BYTES), str(index))
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(
            f"{index}: weight_map is {quoted(weight_map)}, need tensor names and their files",
            _HINT_DOWNLOAD,
        )
    shards: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        if not (isinstance(file, str) and file.isprintable() and _PLAIN_NAME.fullmatch(file)):
            raise UserError(
                f"{index} places tensor {quoted(tensor)} in {quoted(file)}, need the name of a "
                "file in the same directory",
                "Use the index as it was published.",
            )
        names = shards.setdefault(file, set())
        if not is_unused(tensor):
            names.add(tensor)
    return shards


def _judge_shard(index: Path, shard: str, listed: set[str], found: set[str]) -> None:
    if listed - found:
        raise UserError(
            f"{index.parent / shard} lacks tensors that {index.name} places in it: "
            f"{_listed(sorted(listed - found))}",
            _HINT_DOWNLOAD,
        )
    if found - listed:
        raise UserError(
            f"{index.parent / shard} has tensors that {index.name} does not place in it: "
            f"{_listed(sorted(found - listed))}",
            _HINT_DOWNLOAD,
        )


def _judge_sharing(tensors: dict[str, SourceTensor], weights_bytes: int, path: Path) -> None:
    """Refuse tensors that lie over each other so often that they are not a model's parameters."""
    tensor_bytes = sum(tensor.data.nbytes for tensor in tensors.values())
    most_bytes = _MOST_SHARING * weights_bytes + _HARMLESS_BYTES
    if tensor_bytes > most_bytes:
        raise UserError(
            f"{path} has tensors of {tensor_bytes} bytes over the same {weights_bytes} bytes of "
            f"weights, need at most {most_bytes}",
            "Use the checkpoint as its authors published it.",
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_PROBLEMS
    named = ", ".join(quoted(name) for name in names[:_NAMED_PROBLEMS])
    return named + (f" and {more} more" if more > 0 else "")
