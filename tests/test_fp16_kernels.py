"""fp16 bits <-> float32: every value of fp16, and the roundings between them, as NumPy has them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from codegen_cli.kernels.vectors import load_f16, load_one_f16, store_f16, store_f32
from codegen_cli.machine import cpu

EVERY_FP16 = np.arange(1 << 16, dtype=np.uint16)


@njit
def widen(out, bits):
    for i in range(0, len(bits), 16):
        store_f32(out, i, load_f16(bits, i))


@njit
def widen_singly(out, bits):
    for i in range(len(bits)):
        out[i] = load_one_f16(bits, i)


@njit
def narrow(out, values):
    for i in range(len(values)):
        store_f16(out, i, values[i])


def between_fp16_values() -> np.ndarray:
    """Every finite fp16 value, the ties between neighbours, and float32's neighbours of both."""
    finite = EVERY_FP16[:0x7C00].view(np.float16).astype(np.float32)
    ties = (finite[1:] + finite[:-1]) / 2
    above_all = np.float32([65504, 65519.996, 65520, 65536, 1e38, np.inf])
    exact = np.concatenate([finite, ties, above_all])
    up = np.nextafter(exact, np.float32(np.inf), dtype=np.float32)
    down = np.nextafter(exact, np.float32(0), dtype=np.float32)
    return np.concatenate([exact, up, down, -exact, -up, -down])


def check_conversions() -> None:
    with np.errstate(invalid="ignore"):  # arm64 tells of NaNs that signal
        expected = EVERY_FP16.view(np.float16).astype(np.float32)
    for function in (widen, widen_singly):
        out = np.empty(len(EVERY_FP16), np.float32)
        function(out, EVERY_FP16)
        is_number = ~np.isnan(expected)
        assert np.array_equal(out.view(np.uint32)[is_number], expected.view(np.uint32)[is_number])
        assert np.isnan(out[~is_number]).all()
    values = between_fp16_values()
    bits = np.empty(len(values), np.uint16)
    narrow(bits, values)
    with np.errstate(over="ignore"):
        assert np.array_equal(bits, values.astype(np.float16).view(np.uint16))
    narrow(bits[:1], np.full(1, np.nan, np.float32))
    assert np.isnan(bits[:1].view(np.float16)).all()


def test_conversions_are_numpys() -> None:
    check_conversions()


@pytest.mark.skipif(
    os.environ.get("CODEGEN_KERNELS") == "generic" or cpu.architecture() != "x86_64",
    reason="what the test above ran already",
)
def test_conversions_without_instructions_for_them_are_numpys() -> None:
    subprocess.run(
        [sys.executable, "-c", "import test_fp16_kernels as t; t.check_conversions()"],
        cwd=Path(__file__).parent,
        env=os.environ | {"CODEGEN_KERNELS": "generic"},
        check=True,
    )
