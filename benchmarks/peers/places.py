"""Where the comparison keeps what it builds: all of it under BENCH_HOME.

venvs/PEER/                 one virtual environment per peer
limits                      the compiled limits.c
SIZE/checkpoint/            a random checkpoint
SIZE/ENGINE-FORMAT[.EXT]    the checkpoint as each engine wants it
SIZE/scores/                what verify compares
home/                       CODEGEN_HOME: what is packed here is to be nobody's default model
baseline/                   if it is there: a checkout of another commit, one more engine
baseline-home/              CODEGEN_HOME of that
"""

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
RESULTS = HERE / "results"
_CACHE = Path.home() / ".cache" / "codegen-bench"
BENCH_HOME = Path(os.environ.get("BENCH_HOME") or _CACHE).absolute()
LIMITS = BENCH_HOME / "limits"
BASELINE = BENCH_HOME / "baseline"
os.environ["CODEGEN_HOME"] = str(BENCH_HOME / "home")
SUFFIXES = {
    "codegen": ".safetensors",
    "baseline": ".safetensors",
    "llamacpp": ".gguf",
    "openvino": "",
}


def checkpoint(size: str) -> Path:
    return BENCH_HOME / size / "checkpoint"


def model(size: str, engine: str, format: str) -> Path:
    return BENCH_HOME / size / f"{engine}-{format}{SUFFIXES[engine]}"


def python(engine: str) -> str:
    """The interpreter of a peer's virtual environment; codegen and baseline run under this one."""
    if engine in ("codegen", "baseline"):
        return sys.executable
    return str(BENCH_HOME / "venvs" / engine / "bin" / "python")


def script(engine: str) -> str:
    """The file that answers for an engine: the baseline has its own, which knows its modules."""
    if engine == "baseline":
        return str(BASELINE / "benchmarks" / "peers" / "engine_codegen.py")
    return str(HERE / f"engine_{engine}.py")


def surroundings(engine: str) -> dict[str, Any]:
    """Where an engine's commands run, as arguments for subprocess: a baseline's find its code."""
    if engine != "baseline":
        return {}
    own = {"PYTHONPATH": str(BASELINE), "CODEGEN_HOME": str(BENCH_HOME / "baseline-home")}
    return {"cwd": BASELINE, "env": os.environ | own}
