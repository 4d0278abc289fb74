"""A checkpoint -> the bundled model, and all that this project states of it, replaced in one step.

    python training/bundle_model.py CHECKPOINT [--tree DIRECTORY]

    nano.int8.safetensors        the checkpoint, packed as int8
    sources.csv, NOTICES.md      the checkpoint's sources.csv, if it has one, and a list made of it
    tests/data/bundled.npz       what the unquantized model predicts in 256 places of held-out code
    models.toml, MODEL_CARD.md,  its figures (bundled_figures.py), and what it writes for the
    README.md, docs/             README's example

All of it is made before any of it is replaced; a failure leaves the tree as it was. What the card
says of training and quality is written by hand.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import bundled_figures  # noqa: E402
import fidelity  # noqa: E402
import make_notices  # noqa: E402
from replace_files import replacing_files  # noqa: E402

import codegen_cli  # noqa: E402
from codegen_cli.hub.entries import BUNDLED  # noqa: E402
from codegen_cli.machine.cores import usable_cores  # noqa: E402
from codegen_cli.machine.places import PACKAGE, bundled_model  # noqa: E402
from quantize.packed.packed_file import read_packed_file  # noqa: E402
from quantize.quantize_model import quantize  # noqa: E402

MODEL = bundled_model().relative_to(PACKAGE.parent)
GOLDENS = Path("tests/data/bundled.npz")
N_CONTEXTS, N_TOKENS = 4, 64
# Of each distribution the likeliest ids are stored one by one, the rest as one number.
N_STORED = 256


def bundle(source: Path, tree: Path = ROOT) -> None:
    """Replace the bundled model of a tree by the checkpoint at `source`.

    Raises UserError for a checkpoint that cannot be packed, and ValueError where a text of the tree
    has no place for a figure.
    """
    with replacing_files(tree) as staged, tempfile.TemporaryDirectory() as scratch:
        for directory in {MODEL.parent, GOLDENS.parent, Path("docs")}:
            (staged / directory).mkdir(parents=True)
        quantize(source, staged / MODEL, "int8", name=BUNDLED)
        stage_notices(source, tree, staged)
        checkpoint = fidelity.Checkpoint(source, Path(scratch))
        sets = fidelity.sets_of(checkpoint)
        np.savez_compressed(staged / GOLDENS, **goldens(checkpoint, sets))
        figures = measured_figures(checkpoint, sets) | figures_of(staged / MODEL)
        for name, text in bundled_figures.restate(tree, figures).items():
            (staged / name).write_text(text, "utf-8", newline="\n")


def stage_notices(source: Path, tree: Path, staged: Path) -> None:
    """Stage sources.csv and NOTICES.md if the checkpoint says what it was trained on."""
    if (source / "sources.csv").exists():
        target = staged / MODEL.parent
        shutil.copyfile(source / "sources.csv", target / "sources.csv")
        shutil.copyfile(tree / MODEL.parent / "NOTICES.md", target / "NOTICES.md")
        make_notices.main(target)


def goldens(checkpoint: fidelity.Checkpoint, sets: fidelity.Sets) -> dict[str, np.ndarray]:
    """Return what the unquantized model predicts.

    contexts     [4, 64] i32       ids, read from the start of a context
    ids          [4, 64, 256] u16  the likeliest ids at each position, likeliest first
    logits       [4, 64, 256] f32  their logits, less the log of the sum of all exponentials
    """
    documents = [np.concatenate(contexts) for _, contexts in sets]
    starts = np.linspace(0, min(map(len, documents)) - N_TOKENS, N_CONTEXTS).astype(int)
    contexts = [documents[i % len(documents)][start:][:N_TOKENS] for i, start in enumerate(starts)]
    found = checkpoint.logits("f16", contexts, usable_cores().n_threads)
    logits = np.stack([fidelity.log_softmax(each) for each in found])
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :N_STORED]
    return {
        "contexts": np.stack(contexts),
        "ids": ids.astype(np.uint16),
        "logits": np.take_along_axis(logits, ids, -1).astype(np.float32),
    }


def measured_figures(checkpoint: fidelity.Checkpoint, sets: fidelity.Sets) -> dict[str, str]:
    """Return what rounding costs."""
    scores = dict.fromkeys(fidelity.LABELS, fidelity.Score())
    for _, label, score in fidelity.measure(checkpoint, sets, usable_cores().n_threads):
        scores[label] += score
    ratios = checkpoint.weight_error_ratios()
    return bundled_figures.figures_of_fidelity(checkpoint.config, scores, ratios)


def figures_of(model: Path) -> dict[str, str]:
    """Return what the packed file tells, and what it writes for the README's example."""
    with codegen_cli.load(model) as loaded:
        example = loaded.complete("def fib(n):", temperature=0)
    if "```" in example:
        raise ValueError(f"the README cannot show what this model writes: {example!r}")
    lines = example if example.endswith("\n") else f"{example}\n"
    return bundled_figures.figures_of_file(read_packed_file(model)) | {"example": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tree", type=Path, default=ROOT, help="Another copy of this project.")
    arguments = parser.parse_args()
    bundle(arguments.checkpoint, arguments.tree)


if __name__ == "__main__":
    main()
