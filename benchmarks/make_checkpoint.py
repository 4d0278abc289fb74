"""A size -> a checkpoint directory with random fp16 weights of that CodeGen's shape, for timing.

python benchmarks/make_checkpoint.py 350M DIRECTORY [--seed 0]

The speed of a step does not depend on the values of the weights, so timings hold for the real
checkpoint; that of a draw from its logits does, see GAINS. Every parameter has noise: a freshly
initialised model has zero biases and unit norms, so it would hide a forgotten bias or norm from a
comparison of engines (benchmarks/peers/verify.py).
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codegen_cli.hub.entries import entries
from quantize.description.config import parse_config
from quantize.description.tensor_map import TensorSpec, tensor_specs

TOKENIZER = Path(__file__).parent.parent / "tests" / "data" / "tokenizer.json"
ARCHITECTURE = {
    "architectures": ["CodeGenForCausalLM"],
    "model_type": "codegen",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_inner": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 50256,
    "torch_dtype": "float16",
}
DIMENSIONS = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions")

# Attention is far from uniform, and some ids are much likelier than others: at temperature 0.2 a
# few can be drawn (of random ones 240, of trained ones 20), while of flat logits all 50,000 could.
GAINS = {"qkv_proj": 1.5, "lm_head": 6.0}


def make_config(size: str) -> dict[str, object]:
    """The fields of config.json of the published checkpoints of a size."""
    sizes = {entry.name.removesuffix("-mono"): entry.size for entry in entries() if entry.size}
    return ARCHITECTURE | {name: getattr(sizes[size], name) for name in DIMENSIONS}


def standard_deviation(spec: TensorSpec) -> float:
    """How far a parameter's values spread: around 1 for a norm's weight, around 0 for all else.

    A matrix keeps the scale of its input, but for GAINS.
    """
    if spec.kind == "vector":
        return 0.3 if spec.name.endswith("weight") else 0.5
    if spec.name == "wte.weight":
        return 1.0
    gain = GAINS.get(spec.name.split(".")[-2], 1.0)
    return gain / float(np.sqrt(spec.shape[1]))


def random_tensor(spec: TensorSpec, random: np.random.Generator) -> npt.NDArray[np.float16]:
    """The values of one tensor, of the spec's shape."""
    values = random.standard_normal(spec.shape, np.float32)
    values *= np.float32(standard_deviation(spec))
    if "ln_" in spec.name and spec.name.endswith("weight"):
        values += np.float32(1)
    return values.astype("<f2")


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterator[npt.NDArray[np.float16]],
) -> None:
    """Write fp16 tensors, in the order of their shapes, with one of them in memory at a time.

    u64 header length, JSON header, data (https://github.com/huggingface/safetensors#format).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(tensor.data)


def make_checkpoint(size: str, directory: Path, seed: int = 0) -> None:
    """Write config.json, tokenizer.json and model.safetensors; the weights last, by a rename."""
    config = make_config(size)
    specs = tensor_specs(parse_config(config, "config.json"))
    random = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    part = directory / "model.safetensors.part"
    shapes = {spec.source: spec.shape for spec in specs}
    write_safetensors(part, shapes, (random_tensor(spec, random) for spec in specs))
    part.rename(directory / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", help="350M, 2B, 6B or 16B")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_checkpoint(arguments.size, arguments.directory, arguments.seed)


if __name__ == "__main__":
    main()
