"""A peer's name -> a virtual environment with that engine at a pinned version.

The versions were tried together on Python 3.11.
"""

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import places

LLAMACPP = ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors", "numpy<2.5")
# llama.cpp's AMX code ends in a general protection fault on some virtual machines of Intel's CPUs.
# All else that -march=native finds stays; a list of GGML_AVX512... has no FP16, and tunes nothing.
WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
TORCH = "torch==2.13.0"
OPENVINO = (
    "openvino==2026.4.1",
    "nncf==3.4.0",
    "transformers==5.5.4",  # optimum-intel 2.2.0 needs one this old
    "huggingface-hub==1.21.0",
    "requests",
    "numpy<2.5",
)
# Without their dependencies, which lead through torchvision to a torch for CUDA; what they import
# is among those above.
OPTIMUM = ("optimum==2.3.0", "optimum-intel==2.2.0", "openvino-tokenizers==2026.4.1.0")
CUDA = ("nvidia", "cuda", "triton")


def set_up(peer: str) -> None:
    """Make one peer ready, unless it is; a mark is left once all went well."""
    mark = places.BENCH_HOME / "venvs" / peer / "ready"
    if mark.exists():
        return
    print(f"setting up {peer}", flush=True)
    venv.create(mark.parent, with_pip=True, clear=True)
    {"llamacpp": _set_up_llamacpp, "openvino": _set_up_openvino}[peer]()
    mark.touch()


def compile_limits() -> None:
    """Compile limits.c for this CPU; needs gcc."""
    places.BENCH_HOME.mkdir(parents=True, exist_ok=True)
    source = str(places.HERE / "limits.c")
    options = ["-O3", "-march=native", "-fopenmp"]
    subprocess.run(["gcc", *options, source, "-o", str(places.LIMITS)], check=True)


def _set_up_llamacpp() -> None:
    """pip compiles llama.cpp from its sdist, for this very CPU: 10 minutes or more on 2 cores."""
    options = llamacpp_options(Path("/proc/cpuinfo").read_text())
    _pip("llamacpp", "install", *LLAMACPP, CMAKE_ARGS=shlex.join(options))


def llamacpp_options(cpuinfo: str) -> list[str]:
    """Return cmake's options for the CPU that /proc/cpuinfo describes: all it has, but for AMX."""
    options = ["-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF"]
    if "amx_tile" in cpuinfo:
        options += [f"-DCMAKE_{language}_FLAGS={WITHOUT_AMX}" for language in ("C", "CXX")]
    return options


def _set_up_openvino() -> None:
    """OpenVINO, what converts for it, and torch with transformers, which is also the reference."""
    _refuse_cuda("openvino", TORCH)
    _pip("openvino", "install", TORCH)
    _refuse_cuda("openvino", TORCH, *OPENVINO)
    _pip("openvino", "install", TORCH, *OPENVINO)
    _pip("openvino", "install", "--no-deps", *OPTIMUM)
    subprocess.run([places.python("openvino"), "-c", "import optimum.intel.openvino"], check=True)


def _refuse_cuda(peer: str, *packages: str) -> None:
    """End where pip would install gigabytes that a CPU never loads."""
    plan = _pip(peer, "install", "--dry-run", *packages)
    chosen = [line for line in plan.splitlines() if line.startswith("Would install")]
    if any(word in line for line in chosen for word in CUDA):
        sys.exit(
            f"pip would install CUDA packages for {peer}: point it at a CPU wheel of {TORCH}, "
            "for example with PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL."
        )


def _pip(peer: str, *arguments: str, **environment: str) -> str:
    """Run a venv's pip and return what it printed; end with that if it failed."""
    result = subprocess.run(
        [places.python(peer), "-m", "pip", *arguments],
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if result.returncode:
        sys.exit(f"{result.stdout[-4000:]}\npip failed for {peer}")
    return result.stdout
