"""What Linux and macOS say of an arm64 CPU, and the kernel paths that follow."""

import os
import platform
import sys
from pathlib import Path

import pytest

from codegen_cli.machine import arm_features, cpu
from codegen_cli.machine.system_files import lines_of

# AT_HWCAP and AT_HWCAP2 as Linux has them on such a CPU (read under qemu-aarch64 7.2).
CPUS = {
    "cortex-a72": (0x8FB, 0, []),
    "a64fx": (0x415FFB, 0, []),
    "neoverse-n1": (0x119FFB, 0, ["dotprod"]),
    "max": (0xECFFFFFB, 0x7F877FFF, ["dotprod", "i8mm"]),
}


@pytest.mark.parametrize(("hwcap", "hwcap2", "expected"), CPUS.values(), ids=CPUS)
def test_features_are_read_from_what_linux_tells_a_process(monkeypatch, hwcap, hwcap2, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(arm_features, "_auxiliary", {16: hwcap, 26: hwcap2}.__getitem__)
    reported = arm_features.reported_features()
    assert [name for name, is_there in reported.items() if is_there] == expected
    assert set(reported) == {"dotprod", "i8mm"}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's auxiliary vector")
def test_the_auxiliary_vector_is_read():
    page_size = 6  # AT_PAGESZ
    assert arm_features._auxiliary(page_size) == os.sysconf("SC_PAGE_SIZE")
    assert arm_features._auxiliary(12345) == 0


@pytest.mark.skipif(sys.platform != "darwin", reason="macOS has sysctlbyname")
def test_sysctl_is_read():
    assert arm_features._sysctl(b"hw.logicalcpu") == os.cpu_count()
    assert arm_features._sysctl(b"hw.optional.arm.no_such_thing") == 0


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "aarch64", reason="arm64's /proc/cpuinfo"
)
def test_linux_says_the_same_in_cpuinfo():
    lines = [line for line in lines_of(Path("/proc/cpuinfo")) if line.startswith("Features")]
    if not lines:
        pytest.skip("an emulated CPU beside the host's /proc")
    words = lines[0].split()
    assert arm_features.reported_features() == {
        "dotprod": "asimddp" in words,
        "i8mm": "i8mm" in words,
    }


@pytest.mark.parametrize(
    ("features", "paths"),
    [
        ({}, ["generic"]),
        ({"dotprod": True, "i8mm": False}, ["dotprod", "generic"]),
        ({"dotprod": True, "i8mm": True}, ["i8mm", "dotprod", "generic"]),
    ],
)
def test_an_arm64_cpu_is_offered_paths_of_its_own_and_no_others(monkeypatch, features, paths):
    monkeypatch.delenv("CODEGEN_KERNELS", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")  # as macOS calls it
    monkeypatch.setattr(cpu, "reported_features", lambda: features)
    assert cpu.usable_kernel_paths() == paths
    assert cpu.kernel_path() == paths[0]
    assert cpu.converts_fp16()
    told = cpu.target()[1].split(",")
    assert {f"{'+' if is_there else '-'}{name}" for name, is_there in features.items()} <= set(told)
    assert {name for name, is_there in features.items() if is_there} <= set(cpu.telling_features())


def test_a_forced_path_gets_no_features_of_better_ones(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "reported_features", lambda: {"dotprod": True, "i8mm": True})
    monkeypatch.setenv("CODEGEN_KERNELS", "dotprod")
    assert {"+dotprod", "-i8mm"} <= set(cpu.target()[1].split(","))
    monkeypatch.setenv("CODEGEN_KERNELS", "generic")
    assert cpu.target() == ("", "")


def test_paths_of_another_architecture_are_not_offered():
    others = {each.name for each in cpu.KERNEL_PATHS if each.architecture != cpu.architecture()}
    assert set(cpu.usable_kernel_paths()) & others <= {"generic"}
