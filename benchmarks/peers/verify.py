"""Every engine's scores after 64 ids, beside those of transformers in float32.

A wrong conversion shows at 16 and 8 bits (leaving out a bias or a norm, or not reordering the
rotary pairs, moves f16 scores by 0.2 to 0.5 of their spread); in 4 bits it can hide.
"""

import json
import subprocess
import sys
from pathlib import Path

import places
from engine_client import EngineProcess, Series
from prepare import run
from rounds import N_TEXTS, many_series

SERIES = (
    Series("codegen", "f16", 2),
    Series("codegen", "int8", 2),
    Series("codegen", "int4", 2),
    Series("llamacpp", "f16", 2),
    Series("llamacpp", "Q8_0", 2),
    Series("llamacpp", "Q4_0", 2),
    Series("openvino", "int8", 2),
)
# rms difference as a share of the scores' spread: about five times what sound conversions showed.
MOST = {"f16": 0.02, "int8": 0.1, "Q8_0": 0.1, "int4": 0.5, "Q4_0": 0.5}
COMPARE = """
import sys, numpy
found, need = (numpy.load(path) for path in sys.argv[1:])
print(float(numpy.sqrt(numpy.mean((found - need) ** 2)) / need.std()))
"""


def compare(name: str, path: Path, reference: Path, most: float) -> float:
    """Print and return the difference of some scores; end if it is too large."""
    command = [places.python("openvino"), "-c", COMPARE, str(path), str(reference)]
    difference = float(subprocess.check_output(command, text=True))
    print(f"{name:34} {difference:.4f} of the spread (at most {most})")
    if not difference <= most:
        sys.exit(f"{name} does not compute the same model")
    return difference


def verify() -> dict[str, float]:
    """Print and return, by "engine format", the difference; end if one is too large."""
    directory = places.BENCH_HOME / "350M" / "scores"
    directory.mkdir(parents=True, exist_ok=True)
    reference = directory / "reference.npy"
    script = str(places.HERE / "reference_scores.py")
    run(places.python("openvino"), script, str(places.checkpoint("350M")), str(reference))
    differences = {}
    for series in SERIES:
        path = directory / f"{series.engine}-{series.format}.npy"
        with EngineProcess(series) as engine:
            engine.ask("scores", path=str(path))
            name = f"{series.engine} {series.format}"
            differences[name] = compare(name, path, reference, MOST[series.format])
            if series in many_series(series.threads):
                engine.ask("scores", path=str(path), n_texts=N_TEXTS)
                name = f"{name} among {N_TEXTS} texts"
                differences[name] = compare(name, path, reference, MOST[series.format])
    (places.BENCH_HOME / "verified.json").write_text(json.dumps(differences))
    return differences
