"""Takes a golden's name, returns its model and ids with the logits that transformers computed.

make_goldens.py describes the files and makes the same tensors by its own code; the hash in the file
keeps the two together.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from checkpoints import random_tensors, stored_values

GOLDENS = Path(__file__).parent / "goldens"
QUERY_KEY_VALUE = ("qkv_proj.weight", "q_proj.weight", "k_proj.weight", "v_proj.weight")
GOLDEN_NAMES = sorted(path.stem for path in GOLDENS.glob("*.npz"))


@dataclass(frozen=True)
class Golden:
    """One small random model and what transformers says about it."""

    config: dict[str, object]
    tensors: dict[str, np.ndarray]  # f32, each value one that fp16 can hold
    ids: np.ndarray  # [n_tokens] i32
    positions: np.ndarray  # [n_stored] i32, the positions whose logits are stored
    logits: np.ndarray  # [n_stored, vocab_size] f32

    @property
    def spread(self) -> float:
        """Standard deviation of the stored logits, the unit of every whole-model bound."""
        return float(self.logits.std(dtype=np.float64))

    def largest_difference(self, logits: np.ndarray) -> float:
        """Largest |logits - stored|, in spreads, for logits [n_tokens, vocab_size]."""
        return float(np.abs(logits[self.positions] - self.logits).max()) / self.spread


def read_golden(name: str) -> Golden:
    """Read tests/goldens/NAME.npz and make its tensors; AssertionError if they have drifted."""
    with np.load(GOLDENS / f"{name}.npz") as stored:
        config = json.loads(str(stored["config"]))
        tensors = sharpened(random_tensors(config, int(stored["seed"])))
        tensors = {name: stored_values(values, "f16") for name, values in tensors.items()}
        assert tensors_sha256(tensors) == str(stored["weights_sha256"])
        return Golden(config, tensors, stored["ids"], stored["positions"], stored["logits"])


def sharpened(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with q, k and v 1.25 times as large, so that attention has preferences."""
    return {
        name: np.float32(1.25) * values if name.endswith(QUERY_KEY_VALUE) else values
        for name, values in tensors.items()
    }


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Hash of every tensor in the order of the names: the name, then its fp16 bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].astype("<f2").tobytes())
    return digest.hexdigest()
