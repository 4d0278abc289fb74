"""Print as JSON what Triton makes of a kernel for a GPU that need not be here.

Usage: compiled_product.py ARCH FORMAT TOKENS N_OUT

ARCH is 80, 90, ... (NVIDIA) or gfx942, ... (AMD). A program of its own, as TRITON_INTERPRET=1 is
read once in a process and leaves nothing to compile in it.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as nvidia
from triton.compiler import ASTSource

from codegen_cli.engine_torch import triton_product

N_IN = 2560
TYPES = {"y": "*fp32", "x": "*fp16", "words": "*i32", "scales": "*i16", "weights": "*fp16"}
TYPES |= dict.fromkeys(["n", "n_in", "n_out", "n_groups", "unit"], "i32")
ALIGNED = ["words", "scales", "weights"]  # to 16 bytes, which triton_product's tensors are


def compiled_product(arch: str, format: str, n: int, n_out: int):
    """Return Triton's compiled kernel for n tokens by a matrix [n_out, 2560]."""
    is_amd = arch.startswith("gfx")
    target = GPUTarget("hip", arch, 64) if is_amd else GPUTarget("cuda", int(arch), 32)
    of_format = "f16" if format == "f16" else "grouped"
    kernel = getattr(triton_product, f"_product_{of_format}")
    constants = triton_product.programs_read(format, n, n_out, N_IN, target.warp_size)
    warps = constants.pop("num_warps")
    source = ASTSource(
        kernel,
        {name: TYPES.get(name, "constexpr") for name in kernel.arg_names},
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, v in enumerate(kernel.arg_names) if v in ALIGNED},
    )
    return triton.compile(source, target=target, options={"num_warps": warps})


def facts_of(asm) -> dict[str, int | str]:
    """Return wide loads, barriers, bytes that registers spill, and which lane sums what."""
    if "amdgcn" in asm:
        text = asm["amdgcn"]
        spilled = re.findall(r"[sv]gpr_spill_count: +(\d+)", text)
        wide, barriers = "global_load_dwordx4", "s_barrier"
    else:
        text = asm["ptx"]
        spilled = re.findall(r"STACK:(\d+)", resource_usage(asm["cubin"]))
        wide, barriers = "ld.global.v4.b32", "bar.sync"
    assert spilled
    return {
        "wide_loads": text.count(wide),
        "barriers": text.count(barriers),
        "spilled": sum(map(int, spilled)),
        "layout": re.search(r"^#blocked = (.*)", asm["ttgir"], re.MULTILINE)[1],
        "summed": re.search(r"\}\) : \((tensor<[\dx]+f32, #blocked>)\)", asm["ttgir"])[1],
    }


def resource_usage(cubin: bytes) -> str:
    """Return what the cuobjdump of Triton's wheel says of the resources of an object."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [Path(nvidia).parent / "bin" / "cuobjdump", "-res-usage", path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    arch, format, n, n_out = sys.argv[1:]
    print(json.dumps(facts_of(compiled_product(arch, format, int(n), int(n_out)).asm)))
