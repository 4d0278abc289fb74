"""Which dot product instruction is compiled, and that every path gives the same bits."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_cli.engine_cpu.compile import kernel_compiler
from codegen_cli.machine import cpu
from codegen_cli.machine.prefetch import prefetch_choice
from quantize.files.errors import UserError

PATHS = cpu.usable_kernel_paths()

# The hash of a product of random weights.
SCRIPT = """
import hashlib
from test_matmul_kernels import random_case, run_kernel
print(hashlib.sha256(run_kernel("int4", *random_case("int4")).tobytes()).hexdigest())
"""


def test_all_paths_give_the_same_bits():
    def product(path):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=Path(__file__).parent,
            env=os.environ | {"CODEGEN_KERNELS": path},
            capture_output=True,
            check=True,
        ).stdout

    assert len({product(path) for path in PATHS}) == 1


# path -> which registers vpdpbusd works on, which the code uses at all
EXPECTED = {
    "avx512vnni": ({"zmm"}, {"zmm", "ymm", "xmm"}),
    "avxvnni": ({"ymm"}, {"ymm", "xmm"}),
    "avx2": (set(), {"ymm", "xmm"}),
    "generic": (set(), {"xmm"}),
}


READS_ASSEMBLY = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly"
)


@pytest.fixture(scope="module")
def assembly():
    return kernel_compiler.kernel_assembly()


@READS_ASSEMBLY
def test_the_path_in_use_has_its_instructions_and_no_others(assembly):
    path = cpu.kernel_path()
    dot_products = set(re.findall(r"vpdpbusd[^\n]*%([xyz]mm)", assembly))
    registers = set(re.findall(r"%([xyz]mm)\d", assembly))
    assert dot_products == EXPECTED[path][0]
    # With AVX-512 LLVM takes its registers, also for vpdpbusd of 256 bits as Zen 4 has it.
    if "+avx512vl" not in cpu.target()[1].split(","):
        assert registers == EXPECTED[path][1]
    assert ("vpmaddwd" in assembly) == (path == "avx2")


@READS_ASSEMBLY
def test_memory_is_asked_ahead_by_the_chosen_instruction_and_no_other(assembly):
    hint = prefetch_choice().hint
    assert set(re.findall(r"prefetch(\w+)", assembly)) == ({hint} - {"none"})


@READS_ASSEMBLY
def test_vectors_on_the_stack_are_aligned_to_their_size(assembly):
    n_bytes = {"y": 32, "z": 64}
    n_vectors = 0
    for function in re.split(r"^\.?L?func_end\d+:$", assembly, flags=re.MULTILINE):
        stored = re.findall(r"%([yz])mm\d+, (\d*)\(%rsp\)", function)
        realigned = re.search(r"andq\t\$-(\d+), %rsp", function)
        for register, offset in stored:
            assert realigned
            assert int(realigned[1]) % n_bytes[register] == 0
            assert int(offset or 0) % n_bytes[register] == 0
        n_vectors += len(stored)
    # AVX-512 has registers enough; no vector of the generic path is wider than the 16 of the ABI.
    assert n_vectors > 0 or cpu.kernel_path() not in ("avx2", "avxvnni")


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
