"""Which dot product instruction is compiled, and that every path gives the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_cli.engine import cpu
from quantize.errors import UserError

PATHS = cpu.usable_kernel_paths()

# Compile one kernel, print whether its assembly has vpdpbusd on zmm and on ymm registers, and its
# result on random weights.
SCRIPT = """
import hashlib, re
import numpy as np
from test_matmul_kernels import matmul_int4, random_case, run_kernel
out = run_kernel("int4", *random_case("int4"))
[assembly] = matmul_int4.inspect_asm().values()
found = [bool(re.search(r"vpdpbusd[^\\n]*%" + register, assembly)) for register in ("zmm", "ymm")]
print(*found, hashlib.sha256(out.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def outcomes():
    """path -> [vpdpbusd on zmm, on ymm, hash of a product]."""

    def run(path):
        environment = os.environ | {"CODEGEN_KERNELS": path}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=Path(__file__).parent,
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()

    return {path: run(path) for path in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_emits_its_instruction_and_no_other(outcomes, path):
    expected = {"avx512vnni": ["True", "False"], "avxvnni": ["False", "True"]}
    assert outcomes[path][:2] == expected.get(path, ["False", "False"])


def test_all_paths_give_the_same_bits(outcomes):
    assert len({outcome[2] for outcome in outcomes.values()}) == 1


def test_the_best_path_is_taken_unless_one_is_forced(monkeypatch):
    monkeypatch.delenv("CODEGEN_KERNELS", raising=False)
    assert cpu.kernel_path() == PATHS[0]
    monkeypatch.setenv("CODEGEN_KERNELS", "generic")
    assert cpu.kernel_path() == "generic"


def test_an_unknown_path_is_refused_with_the_usable_ones(monkeypatch):
    monkeypatch.setenv("CODEGEN_KERNELS", "sse")
    with pytest.raises(
        UserError, match="CODEGEN_KERNELS=sse: that kernel path does not exist"
    ) as e:
        cpu.kernel_path()
    assert "generic" in e.value.hint


def test_a_path_the_cpu_lacks_is_refused_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(cpu, "usable_kernel_paths", lambda: ["generic"])
    monkeypatch.setenv("CODEGEN_KERNELS", "avx512vnni")
    with pytest.raises(UserError, match="cannot run on this CPU"):
        cpu.kernel_path()
