"""A config and arrays -> a checkpoint directory in any container, written without torch.

Written from the formats' descriptions and importing nothing of the project, so that a fault in the
reader is not mirrored here.
"""

import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOKENIZER = Path(__file__).parent / "data" / "tokenizer.json"
CONTAINERS = ("torch", "safetensors", "torch-sharded", "safetensors-sharded")
DTYPES = ("f16", "bf16", "f32")
TORCH_STORAGES = {
    "F16": "torch HalfStorage",
    "BF16": "torch BFloat16Storage",
    "F32": "torch FloatStorage",
    "U8": "torch ByteStorage",
    "BOOL": "torch BoolStorage",
}


def small_config(**changes: object) -> dict[str, object]:
    """The fields of a config.json for a tiny CodeGen, with some of them changed.

    With model_type="gptj" they are those of a GPT-J, whose checkpoints have q, k and v apart.
    """
    fields: dict[str, object] = {
        "architectures": ["CodeGenForCausalLM"],
        "model_type": "codegen",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 50256,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 64,
        "n_embd": 64,
        "n_head": 4,
        "n_inner": None,
        "n_layer": 2,
        "n_positions": 64,
        "rotary_dim": 8,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
        "vocab_size": 96,
    }
    return fields | changes


def random_tensors(config: Mapping[str, object], seed: int) -> dict[str, np.ndarray]:
    """float32 values for every parameter of the config, under a checkpoint's names.

    Every parameter has noise, norms and biases too. A matrix [n_out, n_in] keeps its input's scale.
    """
    random = np.random.RandomState(seed)
    return {name: _random_values(random, name, shape) for name, shape in parameter_shapes(config)}


def parameter_shapes(config: Mapping[str, object]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter in a checkpoint, as transformers orders them."""
    n_embd, vocab_size = config["n_embd"], config["vocab_size"]
    n_inner = config.get("n_inner") or 4 * n_embd
    yield "transformer.wte.weight", (vocab_size, n_embd)
    for layer in range(config["n_layer"]):
        block = f"transformer.h.{layer}."
        yield block + "ln_1.weight", (n_embd,)
        yield block + "ln_1.bias", (n_embd,)
        if config["model_type"] == "gptj":
            for projection in ("k_proj", "v_proj", "q_proj"):
                yield f"{block}attn.{projection}.weight", (n_embd, n_embd)
        else:
            yield block + "attn.qkv_proj.weight", (3 * n_embd, n_embd)
        yield block + "attn.out_proj.weight", (n_embd, n_embd)
        yield block + "mlp.fc_in.weight", (n_inner, n_embd)
        yield block + "mlp.fc_in.bias", (n_inner,)
        yield block + "mlp.fc_out.weight", (n_embd, n_inner)
        yield block + "mlp.fc_out.bias", (n_embd,)
    yield "transformer.ln_f.weight", (n_embd,)
    yield "transformer.ln_f.bias", (n_embd,)
    if not config.get("tie_word_embeddings", False):
        yield "lm_head.weight", (vocab_size, n_embd)
    yield "lm_head.bias", (vocab_size,)


def stored_values(values: np.ndarray, dtype: str) -> np.ndarray:
    """The float32 values that remain of `values` once they are stored as f16, bf16 or f32."""
    stored = _encode(values, dtype)[1]
    if dtype == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def write_checkpoint(
    directory: Path,
    config: Mapping[str, object],
    tensors: Mapping[str, np.ndarray],
    container: str = "safetensors",
    dtype: str = "f16",
) -> Path:
    """Write config.json, tokenizer.json and the weights; return the directory.

    `container` is one of CONTAINERS, `dtype` one of DTYPES. The torch containers hold the masks too
    that the published checkpoints have.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    shutil.copyfile(TOKENIZER, directory / "tokenizer.json")
    stored = {name: _encode(values, dtype) for name, values in tensors.items()}
    kind, _, sharded = container.partition("-")
    if kind == "torch":
        stored |= _masks(config)
    write = {"torch": write_torch_zip, "safetensors": write_safetensors}[kind]
    stem, suffix = {"torch": ("pytorch_model", "bin"), "safetensors": ("model", "safetensors")}[
        kind
    ]
    if not sharded:
        write(directory / f"{stem}.{suffix}", stored)
        return directory
    weight_map = {}
    for shard in range(2):
        file = f"{stem}-0000{shard + 1}-of-00002.{suffix}"
        part = dict(list(stored.items())[shard::2])
        write(directory / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[str, np.ndarray]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write (dtype name, array) pairs as a safetensors file."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name, (dtype, values) in tensors.items():
        start, end = end, end + values.nbytes
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [start, end]}
    content = b"".join(values.tobytes() for _, values in tensors.values())
    path.write_bytes(safetensors_bytes(header, content))


def safetensors_bytes(header: object, content: bytes = b"") -> bytes:
    """A safetensors file of this header, right or wrong, and this content."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content


@dataclass(frozen=True)
class Global:
    """A name that a pickle imports: "module name"."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call that a pickle makes."""

    function: Global
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Persistent:
    """A persistent id: in torch's files the tuple that stands for a storage."""

    identity: object


def storage(key: str, dtype: str, numel: int) -> Persistent:
    """The persistent id that torch writes for the zip entry data/{key}."""
    return Persistent(("storage", Global(TORCH_STORAGES[dtype]), key, "cpu", numel))


def tensor_call(
    of: object, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
) -> Call:
    """The call that torch writes for a tensor over a storage."""
    hooks = Call(Global("collections OrderedDict"), ())
    return Call(
        Global("torch._utils _rebuild_tensor_v2"), (of, offset, shape, stride, False, hooks)
    )


def pickled(value: object) -> bytes:
    """A protocol 2 pickle of plain values, Global, Call and Persistent, memoized as torch does."""
    return pickle.PROTO + b"\x02" + b"".join(_opcodes(value, {})) + pickle.STOP


def write_torch_zip(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Write (dtype name, array) pairs as torch.save writes a state dict.

    Equal arrays of one type share a storage.
    """
    entries: dict[str, bytes] = {}
    keys: dict[tuple[str, bytes], str] = {}
    state = {}
    for name, (dtype, values) in tensors.items():
        content = values.tobytes()
        key = keys.setdefault((dtype, content), str(len(keys)))
        entries[f"data/{key}"] = content
        stride = tuple(np.array(values.strides, int) // values.itemsize)
        shape = values.shape
        state[name] = tensor_call(storage(key, dtype, values.size), shape, tuple(map(int, stride)))
    write_zip(path, {"data.pkl": pickled(state), "byteorder": b"little", **entries})


def write_zip(
    path: Path, entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED
) -> None:
    """Write a torch zip of these entries, right or wrong, under the name that torch gives it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{path.stem}/{name}", content)
        archive.writestr(f"{path.stem}/version", b"3\n")


def _random_values(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = random.standard_normal(shape).astype(np.float32)
    if len(shape) == 2:
        return noise if "wte" in name else noise / np.float32(np.sqrt(shape[1]))
    return np.float32("ln_" in name and "weight" in name) + np.float32(0.1) * noise


def _encode(values: np.ndarray, dtype: str) -> tuple[str, np.ndarray]:
    if dtype == "f16":
        return "F16", values.astype("<f2")
    if dtype == "f32":
        return "F32", values.astype("<f4")
    # Round to nearest, ties to even, on the upper half of the float32; finite values only.
    bits = values.astype(np.float32).view(np.uint32)
    return "BF16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _masks(config: Mapping[str, object]) -> dict[str, tuple[str, np.ndarray]]:
    n_positions = config["n_positions"]
    mask = ("U8", np.tril(np.ones((1, 1, n_positions, n_positions), np.uint8)))
    masks = {"causal_mask": mask}
    if config["model_type"] == "gptj":
        masks = {"bias": mask, "masked_bias": ("F16", np.array(-np.inf, "<f2"))}
    return {
        f"transformer.h.{layer}.attn.{name}": values
        for layer in range(config["n_layer"])
        for name, values in masks.items()
    }


def _opcodes(value: object, memo: dict[object, int]) -> Iterator[bytes]:
    if isinstance(value, Global | str):
        yield from _memoized(value, memo)
    elif isinstance(value, bool):
        yield pickle.NEWTRUE if value else pickle.NEWFALSE
    elif value is None:
        yield pickle.NONE
    elif isinstance(value, int):
        digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        yield pickle.LONG1 + bytes([len(digits)]) + digits
    elif isinstance(value, tuple):
        yield pickle.MARK
        for item in value:
            yield from _opcodes(item, memo)
        yield pickle.TUPLE
    elif isinstance(value, dict):
        yield pickle.EMPTY_DICT + pickle.MARK
        for key, item in value.items():
            yield from _opcodes(key, memo)
            yield from _opcodes(item, memo)
        yield pickle.SETITEMS
    elif isinstance(value, Call):
        yield from _opcodes(value.function, memo)
        yield from _opcodes(value.arguments, memo)
        yield pickle.REDUCE
    elif isinstance(value, Persistent):
        yield from _opcodes(value.identity, memo)
        yield pickle.BINPERSID
    else:
        raise TypeError(f"cannot pickle {value!r}")


def _memoized(value: Global | str, memo: dict[object, int]) -> Iterator[bytes]:
    if value in memo:
        yield pickle.LONG_BINGET + struct.pack("<I", memo[value])
        return
    if isinstance(value, Global):
        module, name = value.name.split(" ")
        yield pickle.GLOBAL + f"{module}\n{name}\n".encode()
    else:
        text = value.encode()
        yield pickle.BINUNICODE + struct.pack("<I", len(text)) + text
    memo[value] = len(memo)
    yield pickle.LONG_BINPUT + struct.pack("<I", memo[value])
