"""A checkpoint -> the bundled model: its packed file and the goldens that the tests hold it to.

python training/bundle_model.py CHECKPOINT

Packs the checkpoint as int8 into codegen_cli/data/nano/ and writes tests/data/bundled.npz: what the
unquantized model (packed as f16) predicts at 256 positions of held-out code. When the checkpoint
holds a sources.csv, it replaces the one we ship, and NOTICES.md follows it. The model card, and the
sizes in models.toml if the new model has others, are edited by hand; tests hold them to the file.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import make_notices
import numpy as np

from codegen_cli.engine.model import load_model
from codegen_cli.store.paths import bundled_model
from codegen_cli.store.registry import BUNDLED
from quantize.quantize_model import quantize

TESTS = Path(__file__).parent.parent / "tests"
GOLDEN = TESTS / "data" / "bundled.npz"
N_CONTEXTS, N_TOKENS = 4, 64
# Of each distribution the likeliest ids are stored one by one, the rest as one number.
N_STORED = 256


def main(checkpoint: Path) -> None:
    """Replace the bundled model."""
    quantize(checkpoint, bundled_model(), "int8", name=BUNDLED)
    np.savez_compressed(GOLDEN, **reference(checkpoint))
    if (checkpoint / "sources.csv").exists():
        shutil.copyfile(checkpoint / "sources.csv", bundled_model().parent)
        make_notices.main(bundled_model().parent)


def reference(checkpoint: Path) -> dict[str, np.ndarray]:
    """Return what the unquantized model predicts.

    contexts     [4, 64] i32       ids, read from the start of a context
    ids          [4, 64, 256] u16  the likeliest ids at each position, likeliest first
    logits       [4, 64, 256] f32  their logits, less the log of the sum of all exponentials
    """
    with np.load(TESTS / "data" / "validation_ids.npz") as sets:
        documents = [sets[name].ravel() for name in sorted(sets.files)]
    starts = np.linspace(0, min(map(len, documents)) - N_TOKENS, N_CONTEXTS).astype(int)
    contexts = np.stack(
        [documents[i % len(documents)][start:][:N_TOKENS] for i, start in enumerate(starts)]
    ).astype(np.int32)
    with tempfile.TemporaryDirectory() as directory:
        quantize(checkpoint, Path(directory) / "f16", "f16")
        model = load_model(Path(directory) / "f16")
        logits = np.stack([model.forward(context, model.new_cache()) for context in contexts])
        model.close()
    logits = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :N_STORED]
    return {
        "contexts": contexts,
        "ids": ids.astype(np.uint16),
        "logits": np.take_along_axis(logits, ids, -1).astype(np.float32),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
