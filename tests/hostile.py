"""Each reader of a stranger's file as a function of bytes: what it may do is read, or UserError.

For the hypothesis tests and benchmarks/fuzz.py. Whatever else a reader raises passes through.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from checkpoints import random_tensors, small_config, write_checkpoint
from hypothesis import HealthCheck, settings

from codegen_cli.text.token_text import BYTE_OF_CHARACTER
from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.tokenizer_options import options_from
from quantize.checkpoint import tokenizer_files
from quantize.checkpoint.reading import open_checkpoint
from quantize.containers.inert_pickle import read_state_dict
from quantize.containers.safetensors_map import map_safetensors
from quantize.containers.source_tensor import FLOAT_DTYPES, SourceTensor
from quantize.containers.torch_zip import map_torch_zip
from quantize.description.config import parse_config
from quantize.description.tensor_map import match_tensors, tensor_specs
from quantize.files.errors import UserError
from quantize.files.json_object import parse_json_object
from quantize.packed.packed_file import read_packed_file
from quantize.quantize_model import quantize

LONGEST_MESSAGE = 4000


def examples(most: int) -> settings:
    """A budget of random inputs, the same in every run."""
    return settings(
        max_examples=most,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


TINY = small_config(n_embd=8, n_head=4, rotary_dim=2, n_layer=1, vocab_size=272, n_positions=16)
# A token for every byte, whose id it is, and two more.
TINY_TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": 257,
            "content": "<|endoftext|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "vocab": BYTE_OF_CHARACTER | {"ab": 256, "<|endoftext|>": 257},
        "merges": ["a b"],
    },
}


def refused(read: Callable[[], object]) -> UserError | None:
    """What a reader says of a file that it refuses: short, and nothing that a terminal acts on."""
    try:
        read()
        return None
    except UserError as error:
        refusal = error
    assert refusal.message.isprintable(), refusal.message
    assert len(refusal.message) < LONGEST_MESSAGE, refusal.message
    return refusal


def read_pickle(data: bytes) -> None:
    for tensor in read_state_dict(data, "data.pkl").values():
        numbers = (tensor.offset, *tensor.shape, *tensor.stride, tensor.storage.numel)
        assert all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
        assert type(tensor.storage.key) is str


def read_torch_zip(path: Path) -> None:
    size_bytes = path.stat().st_size
    for tensor in map_torch_zip(path).values():
        read_values(tensor, size_bytes)


def read_safetensors(path: Path) -> None:
    size_bytes = path.stat().st_size
    for tensor in map_safetensors(path)[0].values():
        read_values(tensor, size_bytes)


def read_values(tensor: SourceTensor, size_bytes: int) -> None:
    """Read every value; a value outside the mapped file would end the process."""
    assert tensor.data.nbytes <= size_bytes
    tensor.data.copy()
    if tensor.dtype in FLOAT_DTYPES:
        tensor.read_float32()


def read_config(data: bytes) -> None:
    config = parse_config(parse_json_object(data, "config.json"), "config.json")
    assert config.head_dim * config.n_head == config.n_embd
    assert 0 < config.rotary_dim <= config.head_dim
    if config.n_layer < 100:
        tensor_specs(config)


def read_tokenizer(data: bytes) -> None:
    tokenizer = Tokenizer.from_json(data)
    for text in ("ab a<|endoftext|>b\n", "é\0 \U0001f600 "):
        ids = tokenizer.encode(text)
        assert tokenizer.encode_with_starts(text)[0] == ids
        # Blanks may come (add_prefix_space) and go (lstrip and rstrip of an added token).
        decoded = tokenizer.decode(ids)
        assert "".join(decoded.split()) == "".join(text.split()) or tokenizer.vocab_size != 258
        tokenizer.decode([*ids, 7, 1 << 22])
        b"".join(map(tokenizer.token_bytes, ids))
    tokenizer.missing_ids(300)


def read_old_tokenizer(directory: Path) -> None:
    """Read vocab.json, merges.txt and what stands beside them."""
    tokenizer = tokenizer_files.read_tokenizer(directory)
    read_tokenizer(tokenizer.json)
    options_from(tokenizer.settings, "the files")


def read_checkpoint(directory: Path) -> None:
    """Open a checkpoint as `codegen quantize` does, and read every value that it would pack."""
    checkpoint = open_checkpoint(directory)
    for file in checkpoint.files:
        assert file.parent == directory
    specs = tensor_specs(checkpoint.config)
    for _, stack in match_tensors(specs, checkpoint.tensors):
        for tensor in stack.parts:
            read_values(tensor, checkpoint.weights_bytes)


def read_packed(path: Path) -> None:
    """Read a packed file and every byte that it says it has."""
    packed = read_packed_file(path)
    assert sum(tensor.payload.size for tensor in packed.tensors.values()) < path.stat().st_size
    for tensor in packed.tensors.values():
        np.bitwise_xor.reduce(tensor.payload)


def write_tiny_packed(path: Path, format: str = "int8", **changes: object) -> Path:
    """Pack a random model of a few kilobytes, with the tiny tokenizer."""
    checkpoint = path.with_name(path.name + ".checkpoint")
    write_tiny_checkpoint(checkpoint, **changes)
    quantize(checkpoint, path, format)
    return path


def write_tiny_checkpoint(
    directory: Path, container: str = "safetensors", **changes: object
) -> Path:
    config = TINY | changes
    write_checkpoint(directory, config, random_tensors(config, 3), container)
    (directory / "tokenizer.json").write_text(json.dumps(TINY_TOKENIZER), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text('{"pad_token": "ab"}', encoding="utf-8")
    return directory


def write_old_tokenizer(directory: Path, files: Mapping[str, object]) -> None:
    """Write the older files of a tokenizer, JSON or text, in the place of those that are there."""
    for path in directory.iterdir():
        path.unlink()
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (directory / name).write_text(text, encoding="utf-8", errors="surrogatepass")


OLD_TOKENIZER: dict[str, object] = {
    "vocab.json": BYTE_OF_CHARACTER | {"ab": 256, "<|endoftext|>": 257},
    "merges.txt": "#version: 0.2\na b\n",
    "added_tokens.json": {"  ": 258},
    "special_tokens_map.json": {"eos_token": "<|endoftext|>", "pad_token": {"content": "<pad>"}},
    "tokenizer_config.json": {
        "add_prefix_space": False,
        "added_tokens_decoder": {"257": {"content": "<|endoftext|>", "special": True}},
    },
}


def packed_header(content: bytes) -> bytes:
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def with_header(content: bytes, header: dict[str, object]) -> bytes:
    """The bytes of a packed file with another header and the hash that then fits, as forgers do.

    Embedded JSON (config, tensors and so on) may be given as the values that it stands for.
    """
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict):
        metadata = {
            key: json.dumps(value) if isinstance(value, dict) else value
            for key, value in metadata.items()
        }
        metadata["header_sha256"] = "0" * 64
        header = header | {"__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    digits = hashlib.sha256(text).hexdigest().encode()
    text = text.replace(b'"header_sha256":"' + b"0" * 64, b'"header_sha256":"' + digits, 1)
    return len(text).to_bytes(8, "little") + text + content[8 + len(packed_header(content)) :]


def open_header(content: bytes) -> dict[str, object]:
    """A packed file's header with its embedded JSON opened."""
    header = json.loads(packed_header(content))
    metadata = header["__metadata__"]
    for key in ("config", "tensors", "provenance", "tokenizer_settings"):
        metadata[key] = json.loads(metadata[key])
    return header


# Values that a field of some JSON may be replaced by.
NASTY = (
    *(None, True, False, 0, 1, -1, 2, 3, 4, 7, 16, 31, 64, 255, 65536, 1 << 20, 1 << 22),
    *((1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, 10**400, -(1 << 63)),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, 1e-5, 2.0),
    *("", "x", "int4", "int8", "f16", "f32", "codegen", "\x1b[31m\n", "\ud800", "\0", "9" * 5000),
    *([], {}, [[]], [0], [1, 1], [16, 8], [1 << 40, 1 << 40], [-1], {"a": 1}, ["a"] * 50),
)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The paths of all values in some JSON, outermost first."""
    items: list[tuple[object, object]] = []
    if isinstance(value, dict):
        items = list(value.items())[:32]
    elif isinstance(value, list):
        items = list(enumerate(value[:8]))
    return [path, *(each for key, inner in items for each in places(inner, (*path, key)))]


def replaced(value: object, path: tuple[object, ...], new: object) -> object:
    """A copy of some JSON with the value at a path replaced; `new` may be a DELETED."""
    if not path:
        return new
    if isinstance(value, list):
        changed = [
            replaced(inner, path[1:], new) if index == path[0] else inner
            for index, inner in enumerate(value)
        ]
        return [inner for inner in changed if inner is not DELETED]
    assert isinstance(value, dict)
    copy = value | {path[0]: replaced(value.get(path[0]), path[1:], new)}
    return {key: inner for key, inner in copy.items() if inner is not DELETED}


DELETED = object()


def limit_memory(extra_bytes: int) -> None:
    """From now on this process may take so much more memory, mapped files included."""
    import resource

    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read_all(extra_mb: str, *cases: str) -> None:
    """Read files under a limit of memory and print, for each, what was said of it.

    A case is READER=PATH. For tests, which start this in a process of its own.
    """
    arguments = []
    for case in cases:
        reader, _, path = case.partition("=")
        source = Path(path)
        arguments.append((reader, source.read_bytes() if reader in OF_BYTES else source))
    limit_memory(int(extra_mb) << 20)
    for reader, argument in arguments:
        try:
            error = refused(lambda: globals()[reader](argument))  # noqa: B023
        except MemoryError:
            print("MemoryError")
            continue
        print(error.message if error else "accepted")


OF_BYTES = ("read_pickle", "read_config", "read_tokenizer")

if __name__ == "__main__":
    _read_all(*sys.argv[1:])
