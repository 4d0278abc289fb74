"""Where the comparison keeps what it builds: all of it under BENCH_HOME.

venvs/PEER/                 one virtual environment per peer
limits                      the compiled limits.c
SIZE/checkpoint/            a random checkpoint
SIZE/ENGINE-FORMAT[.EXT]    the checkpoint as each engine wants it
SIZE/scores/                what verify compares
home/                       CODEGEN_HOME: what is packed here is to be nobody's default model
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
RESULTS = HERE / "results"
BENCH_HOME = Path(os.environ.get("BENCH_HOME") or Path.home() / ".cache" / "codegen-bench")
LIMITS = BENCH_HOME / "limits"
os.environ["CODEGEN_HOME"] = str(BENCH_HOME / "home")
SUFFIXES = {"codegen": ".safetensors", "llamacpp": ".gguf", "openvino": ""}


def checkpoint(size: str) -> Path:
    return BENCH_HOME / size / "checkpoint"


def model(size: str, engine: str, format: str) -> Path:
    return BENCH_HOME / size / f"{engine}-{format}{SUFFIXES[engine]}"


def python(engine: str) -> str:
    """The interpreter of a peer's virtual environment; codegen runs under this one."""
    if engine == "codegen":
        return sys.executable
    return str(BENCH_HOME / "venvs" / engine / "bin" / "python")


def script(engine: str) -> str:
    return str(HERE / f"engine_{engine}.py")
