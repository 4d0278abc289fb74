"""What the system says of an arm64 CPU -> the features for kernels that LLVM's own look leaves out.

LLVM's `get_host_cpu_features` tells of neither on Linux and macOS.
"""

import ctypes
import sys
from typing import NamedTuple

_AT_HWCAP, _AT_HWCAP2 = 16, 26  # keys of getauxval(3)


class _Feature(NamedTuple):
    """A feature by LLVM's name, and where systems tell of it.

    auxiliary  Linux: which value of the auxiliary vector, and the bit in it
               (arch/arm64/include/uapi/asm/hwcap.h, HWCAP_ASIMDDP and HWCAP2_I8MM)
    sysctl     macOS: a name that has the value 1 (Apple, "Determining instruction set
               characteristics")
    """

    name: str
    auxiliary: tuple[int, int]
    sysctl: bytes


_FEATURES = (
    _Feature("dotprod", (_AT_HWCAP, 1 << 20), b"hw.optional.arm.FEAT_DotProd"),
    _Feature("i8mm", (_AT_HWCAP2, 1 << 13), b"hw.optional.arm.FEAT_I8MM"),
)


def reported_features() -> dict[str, bool]:
    """Return which of the features this arm64 CPU has; {} where the system has no word for them."""
    look = {"linux": _auxiliary_has, "darwin": _sysctl_has}.get(sys.platform)
    return {each.name: look(each) for each in _FEATURES} if look else {}


def _auxiliary_has(feature: _Feature) -> bool:
    key, bit = feature.auxiliary
    return bool(_auxiliary(key) & bit)


def _sysctl_has(feature: _Feature) -> bool:
    return _sysctl(feature.sysctl) == 1


def _auxiliary(key: int) -> int:
    """Return what Linux told this process at its start; 0 for what it did not tell."""
    function = ctypes.CDLL(None).getauxval
    function.argtypes, function.restype = [ctypes.c_ulong], ctypes.c_ulong
    return int(function(key))


def _sysctl(name: bytes) -> int:
    """Return a number of macOS; 0 for a name that it does not know."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    function = ctypes.CDLL(None).sysctlbyname
    function.argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * 3, ctypes.c_size_t]
    known = function(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0
    return value.value if known else 0
