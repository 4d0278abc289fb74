"""A matrix on a device -> whether the kernel multiplies by it as its definition does.

Nobody has run the kernel on every GPU, with every driver and every Triton: so none is trusted
before it has given the right numbers where it is to be used.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codegen_cli.engine_torch.devices import current
from codegen_cli.engine_torch.packed_matrix import PackedMatrix
from quantize.description.formats import MATRIX_FORMATS, MatrixFormat
from quantize.packed.layout import new_payload, scales_view
from quantize.packed.packed_file import PackedTensor

N_TOKENS = (1, 2, 4, 8, 16)
"""Tokens of a product that are tried: the kernel is compiled for each but the last."""

BOUND = 1e-4
"""The largest difference from the definition in float32, as a share of the largest result. Sums of
some thousand float32 numbers in another order differ by 1e-6; a wrong code or scale by far more."""


_SHAPE = (1024, 1024)


class KernelCheck(NamedTuple):
    """What came of trying the kernel on one matrix.

    difference  the largest from the definition, as a share of the largest result
    obstacle    why it could not be tried; "" if it was
    """

    format: MatrixFormat
    difference: float
    obstacle: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the kernel may be used."""
        return not self.obstacle and self.difference <= BOUND  # false for NaN

    def __str__(self) -> str:
        if self.obstacle:
            return f"{self.format}: {self.obstacle}"
        verdict = "right" if self.is_right else "wrong"
        return f"{self.format}: {verdict}, to {self.difference:.0e}"


def check_kernel(matrix: PackedMatrix, dtype: torch.dtype) -> KernelCheck:
    """Try the kernel with random activations in a dtype."""
    try:
        with current(matrix.codes.device):
            differences = [_difference(matrix, n, dtype) for n in N_TOKENS]
    # Whatever a compiler, a driver or a library thinks of it: the definition serves instead.
    except Exception as error:
        reason = str(error).strip().splitlines()
        return KernelCheck(matrix.format, np.nan, reason[-1] if reason else type(error).__name__)
    return KernelCheck(matrix.format, max(differences, key=lambda each: (each != each, each)))


def check_kernels(device: torch.device, dtype: torch.dtype) -> list[KernelCheck]:
    """Try the kernel on a random matrix of each format."""
    return [check_kernel(random_matrix(format, _SHAPE, device), dtype) for format in MATRIX_FORMATS]


def random_matrix(
    format: MatrixFormat, shape: Sequence[int], device: torch.device, seed: int = 0
) -> PackedMatrix:
    """Return a matrix of random codes and scales."""
    n_out, n_in = shape
    random = np.random.default_rng(seed)
    payload = new_payload(format, (n_out, n_in))
    if format == "f16":
        payload.view("<f2")[:] = random.standard_normal(payload.size // 2)
    else:
        payload[:] = random.integers(0, 256, payload.size, np.uint8)
        scales = scales_view(format, (n_out, n_in), payload)
        scales[:] = random.uniform(0.001, 0.01, scales.shape)
    packed = PackedTensor("random", format, (n_out, n_in), payload, "")
    return PackedMatrix(packed, torch.from_numpy(payload).to(device))


def _difference(matrix: PackedMatrix, n: int, dtype: torch.dtype) -> float:
    from codegen_cli.engine_torch.triton_product import triton_product

    x = _random(n, matrix).to(dtype)
    found = triton_product(x, matrix.codes, matrix.scales, matrix.format, matrix.n_out)
    expected = matrix.product(x.float())
    largest = (found - expected).abs().max() / expected.abs().max()
    return float(largest)


def _random(n: int, matrix: PackedMatrix) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn((n, matrix.n_in), generator=generator).to(matrix.codes.device)
