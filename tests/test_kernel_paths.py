"""Which dot product instruction is compiled, and that every path gives the same bits."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from codegen_cli.engine_cpu.compile import kernel_compiler
from codegen_cli.engine_cpu.compile.linker import ALLOWED_SYMBOLS
from codegen_cli.kernels.vector_ir import STAND_IN
from codegen_cli.machine import cpu
from codegen_cli.machine.prefetch import prefetch_choice
from quantize.files.errors import UserError

PATHS = cpu.usable_kernel_paths()

# The hashes of products of random weights.
SCRIPT = """
import hashlib
from test_matmul_kernels import KERNELS, random_case, run_kernel
for format in KERNELS:
    print(hashlib.sha256(run_kernel(format, *random_case(format)).tobytes()).hexdigest())
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


class Expected(NamedTuple):
    """What tells the assembly of a path from that of others.

    product    the instruction of its dot products, and on which registers; None: any
    n_parts    how many of them make 16 lanes
    registers  vector registers in use
    paired     the instruction of blocks of tokens, which takes two of them and two rows
    """

    product: str | None
    n_parts: int
    registers: set[str]
    paired: str | None = None


# With a word of activations from a lane of a register.
ARM = r"{}\tv\d+\.4s, v\d+\.16b, v\d+\.4b\["

EXPECTED = {
    ("avx512vnni", "x86_64"): Expected(r"vpdpbusd\t.*%zmm", 1, {"zmm", "ymm", "xmm"}),
    ("avxvnni", "x86_64"): Expected(r"vpdpbusd\t.*%ymm", 2, {"ymm", "xmm"}),
    ("avx2", "x86_64"): Expected(r"vpmaddubsw\t.*%ymm", 2, {"ymm", "xmm"}),
    ("generic", "x86_64"): Expected(None, 0, {"xmm"}),
    ("i8mm", "aarch64"): Expected(ARM.format("usdot"), 4, {"q", "v"}, r"usmmla\tv\d+\.4s"),
    ("dotprod", "aarch64"): Expected(ARM.format("sdot"), 4, {"q", "v"}),
    ("generic", "aarch64"): Expected(None, 0, {"q", "v"}),
}
ELSEWHERE = sorted(set(EXPECTED) - {(path, cpu.architecture()) for path in PATHS})

ASSEMBLY = """
import sys
from codegen_cli.engine_cpu.compile import kernel_compiler
from codegen_cli.machine import cpu
cpu.aim_at(*sys.argv[1:])
print(kernel_compiler.kernel_assembly())
"""


def count(instruction, assembly):
    return len(re.findall(rf"^\t(?:{{vex}}\s*)?{instruction}", assembly, re.MULTILINE))


def check_instructions(assembly, path, architecture, ignored_registers=frozenset()):
    expected = EXPECTED[path, architecture]
    for product in {each.product for each in EXPECTED.values() if each.product}:
        n_found = count(product, assembly)
        if product == expected.product:
            # A group of 32 columns takes eight dot products, wherever groups are multiplied.
            assert n_found > 0
            assert n_found % (8 * expected.n_parts) == 0
        else:
            assert n_found == 0
    for paired in {each.paired for each in EXPECTED.values() if each.paired}:
        # Of each format: blocks of 8 and 4 tokens take 128 + 64, of 2 and 1 take 64 + 32 others.
        n_others = count(expected.product, assembly) if paired == expected.paired else 0
        assert count(paired, assembly) == n_others * 192 / 96
    pattern = r"%([xyz]mm)\d" if architecture == "x86_64" else r"\b([vqz])\d+\b"
    registers = set(re.findall(pattern, assembly)) - ignored_registers
    assert registers == expected.registers - ignored_registers


def called_from_outside(assembly):
    """Names of functions that the assembly calls, but does not define."""
    called = re.findall(r"^\t(?:callq?|bl|jmp|b)\t([A-Za-z_]\w*)(?:@PLT)?$", assembly, re.MULTILINE)
    return set(called) - set(re.findall(r"^(\w+):", assembly, re.MULTILINE))


@pytest.fixture(scope="module")
def assembly():
    return kernel_compiler.kernel_assembly()


def test_the_path_in_use_has_its_instructions_and_no_others(assembly):
    # With AVX-512 LLVM takes its registers, also for vpdpbusd of 256 bits as Zen 4 has it; and
    # with SVE its own.
    features = cpu.target()[1].split(",")
    ignored = {"zmm"} if "+avx512vl" in features else {"z"} if "+sve" in features else set()
    check_instructions(assembly, cpu.kernel_path(), cpu.architecture(), ignored)
    assert called_from_outside(assembly) <= ALLOWED_SYMBOLS


def test_another_cpu_can_be_aimed_at(monkeypatch):
    monkeypatch.setattr(cpu, "_aim", None)  # it stays for a whole process otherwise
    assert not cpu.is_aimed_elsewhere()
    cpu.aim_at("dotprod")
    assert cpu.is_aimed_elsewhere()
    assert (cpu.kernel_path(), cpu.target()) == ("dotprod", ("", "+dotprod"))
    assert (cpu.architecture(), cpu.triple()) == ("aarch64", "aarch64-unknown-linux-gnu")
    cpu.aim_at("generic", "x86_64")
    assert (cpu.kernel_path(), cpu.target()) == ("generic", ("", ""))
    assert cpu.triple() == "x86_64-unknown-linux-gnu"
    assert not cpu.converts_fp16()
    cpu.aim_at("avx512vnni")
    assert {"+avx512vnni", "+avx2", "+f16c"} <= set(cpu.target()[1].split(","))


@pytest.mark.other_cpus
@pytest.mark.parametrize(("path", "architecture"), ELSEWHERE)
def test_a_path_that_cannot_run_here_has_its_instructions_too(path, architecture):
    ran = subprocess.run(
        [sys.executable, "-c", ASSEMBLY, path, architecture],
        capture_output=True,
        text=True,
        check=True,
    )
    check_instructions(ran.stdout, path, architecture)
    assert called_from_outside(ran.stdout) <= ALLOWED_SYMBOLS
    assert STAND_IN not in ran.stdout
    if architecture == "aarch64" and path != "generic":
        check_registers_suffice(ran.stdout)


def check_registers_suffice(assembly):
    """Left alone LLVM would mix up what a group does to its rows, and so need the stack for more.

    Sums of 16 rows and 8 tokens fill all 32 registers: they have to leave them once a group.
    """
    on_stack = count(r"(?:ld|st)u?[rp]\tq\d+, (?:q\d+, )?\[(?:sp|x29)", assembly)
    assert 0 < on_stack < count("u?sdot", assembly) / 2 + count("usmmla", assembly)


READS_X86 = pytest.mark.skipif(cpu.architecture() != "x86_64", reason="reads x86 assembly")


@READS_X86
def test_memory_is_asked_ahead_by_the_chosen_instruction_and_no_other(assembly):
    hint = prefetch_choice().hint
    assert set(re.findall(r"prefetch(\w+)", assembly)) == ({hint} - {"none"})


@READS_X86
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
