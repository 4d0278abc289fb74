"""A size -> a checkpoint directory with random fp16 weights of that CodeGen's shape, for timing.

python benchmarks/make_checkpoint.py 350M DIRECTORY
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from codegen_cli.store.registry import entries
from quantize.config import parse_config
from quantize.tensor_map import tensor_specs

TOKENIZER = Path(__file__).parent.parent / "tests" / "data" / "tokenizer.json"


def main(size: str, directory: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors."""
    shape = next(entry.size for entry in entries() if entry.name == f"{size}-mono")
    assert shape is not None
    config = {
        "model_type": "codegen",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "n_inner": None,
        "tie_word_embeddings": False,
    }
    for name in ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions"):
        config[name] = getattr(shape, name)
    random = np.random.default_rng(0)
    tensors = {}
    for spec in tensor_specs(parse_config(config, "config.json")):
        centre = 1.0 if "ln_" in spec.name and spec.name.endswith("weight") else 0.0
        values = random.standard_normal(spec.shape, np.float32) * np.float32(0.02)
        tensors[spec.source] = (values + np.float32(centre)).astype(np.float16)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    save_file(tensors, directory / "model.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
