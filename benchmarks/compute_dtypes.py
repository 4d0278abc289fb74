"""What computing in float16 or bfloat16 costs on a GPU: KL divergence from float32, by PyTorch.

    python benchmarks/compute_dtypes.py [--device torch:cpu] [FILE ...]

The engine takes the dtype whose distributions are nearest to float32's first. Held-out code of
tests/data is read by each packed file (default: the bundled one) in each dtype; every number is a
mean over its tokens. Arithmetic in these dtypes on the CPU rounds as a GPU's does, except in sums,
which a GPU keeps in float32 and the CPU does, too.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from validation import shipped_sets

from codegen_cli.contract.device_name import parse_device
from codegen_cli.engine_torch.devices import find_devices
from codegen_cli.engine_torch.placement import Placement
from codegen_cli.engine_torch.torch_engine import TorchEngine
from codegen_cli.machine.places import bundled_model
from codegen_cli.session.one_part import logits_of
from codegen_cli.text.tokenizer import Tokenizer
from quantize.packed.packed_file import PackedFile, read_packed_file

DTYPES = (torch.float16, torch.bfloat16)
N_TOKENS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=[bundled_model()], metavar="FILE")
    parser.add_argument("--device", default="torch:cpu")
    arguments = parser.parse_args()
    print(f"{'file':30} {'dtype':10} {'KL, nats':>10} {'largest':>10} {'same top-1':>10}")
    for path in arguments.files:
        packed = read_packed_file(path)
        exact = list(log_softmax(packed, arguments.device, torch.float32))
        for dtype in DTYPES:
            kl, same = [], []
            for p, q in zip(exact, log_softmax(packed, arguments.device, dtype), strict=True):
                kl.append((np.exp(p) * (p - q)).sum(-1))
                same.append(p.argmax(-1) == q.argmax(-1))
            divergences = np.concatenate(kl)
            print(
                f"{path.name:30} {str(dtype).removeprefix('torch.'):10} {divergences.mean():10.2e} "
                f"{divergences.max():10.2e} {np.concatenate(same).mean():10.4f}",
                flush=True,
            )


def log_softmax(packed: PackedFile, device: str, dtype: torch.dtype) -> Iterator[np.ndarray]:
    """Yield ln p [n_tokens, vocab_size] f64 of each context."""
    [found] = find_devices(parse_device(device))
    engine = TorchEngine(packed, Placement((found,) * packed.config.n_layer), [dtype])
    tokenizer = Tokenizer.from_json(packed.tokenizer_json)
    for _, contexts in shipped_sets(tokenizer, N_TOKENS):
        for ids in contexts:
            logits = logits_of(engine, ids, engine.new_cache(len(ids))).astype(np.float64)
            shifted = logits - logits.max(-1, keepdims=True)
            yield shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    engine.close()


if __name__ == "__main__":
    main()
