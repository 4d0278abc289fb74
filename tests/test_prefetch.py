"""Which prefetch instruction a CPU gets, and that kernels have it."""

from pathlib import Path

import pytest

from codegen_cli.engine_cpu.compile import kernel_cache
from codegen_cli.machine.prefetch import (
    HINTS,
    CpuModel,
    Prefetch,
    best_for,
    cpu_model,
    prefetch_choice,
)
from quantize.files.errors import UserError

AMD_ZEN_5 = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC 9R45

processor\t: 1
vendor_id\t: Other
"""
INTEL = "vendor_id: GenuineIntel\ncpu family: 6\n"
ARM = "processor\t: 0\nBogoMIPS\t: 2100.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AMD_ZEN_5, CpuModel("AuthenticAMD", 26, 2)),
        (ARM, CpuModel("", 0, 0)),
        (
            "vendor_id: GenuineIntel\ncpu family: 6\nmodel: unknown\n",
            CpuModel("GenuineIntel", 0, 0),
        ),
        ("vendor_id: GenuineIntel\ncpu family: 6\n", CpuModel("GenuineIntel", 0, 0)),
        ("", CpuModel("", 0, 0)),
    ],
)
@pytest.mark.skipif("os.name == 'nt'", reason="reads /proc")
def test_the_cpu_is_what_the_system_says(tmp_path: Path, text: str, expected: CpuModel) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert cpu_model(tmp_path) == expected


def test_without_a_word_of_the_system_the_cpu_is_unknown(tmp_path: Path) -> None:
    assert best_for(cpu_model(tmp_path)) == Prefetch("t1")


@pytest.mark.parametrize(
    ("cpu", "hint"),
    [
        (CpuModel("AuthenticAMD", 25, 1), "nta"),
        (CpuModel("AuthenticAMD", 26, 2), "nta"),
        (CpuModel("AuthenticAMD", 23, 49), "nta"),  # as AMD's CPUs that were measured
        (CpuModel("GenuineIntel", 6, 207), "t1"),
        (CpuModel("GenuineIntel", 6, 0), "t1"),
        (CpuModel("HygonGenuine", 24, 1), "t1"),
        (CpuModel("", 0, 0), "t1"),
    ],
)
def test_only_a_vendor_that_was_measured_gets_another_hint_than_t1(
    cpu: CpuModel, hint: str
) -> None:
    assert best_for(cpu).hint == hint


def test_the_variable_chooses_hint_and_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in [
        ("", best_for(cpu_model())),
        ("none", Prefetch("none")),
        ("t0", Prefetch("t0", 4096)),
        ("t1:2048", Prefetch("t1", 2048)),
        ("nta:1048576", Prefetch("nta", 1 << 20)),
    ]:
        monkeypatch.setenv("CODEGEN_PREFETCH", text)
        assert prefetch_choice() == expected


@pytest.mark.parametrize(
    "text",
    ["t3", "T1", "2", "t1:", "t1:0", "t1:-1", "t1:1e3", "t1:1048577", "t1:2048:1", ":64", "t1 "],
)
def test_anything_else_is_refused_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("CODEGEN_PREFETCH", text)
    with pytest.raises(UserError, match=r"CODEGEN_PREFETCH=.*: there is no such way") as e:
        prefetch_choice()
    assert all(hint in e.value.hint for hint in HINTS)


def test_a_command_says_so_and_ends(codegen) -> None:
    result = codegen("complete", "-q", "x", CODEGEN_PREFETCH="t7")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"CODEGEN_PREFETCH=t7: there is no such way to prefetch" in result.stderr
    assert b"Traceback" not in result.stderr


def test_code_with_another_prefetch_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for text in ("none", "t0", "t1", "t1:2048"):
        monkeypatch.setenv("CODEGEN_PREFETCH", text)
        keys.add(kernel_cache._key())
    assert len(keys) == 4
