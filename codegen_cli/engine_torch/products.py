"""A matrix and activations -> their product: by the kernel where it is right, else as defined."""

import importlib
import os
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from codegen_cli.engine_torch.devices import current
from codegen_cli.engine_torch.kernel_check import KernelCheck, check_kernel
from codegen_cli.engine_torch.packed_matrix import PackedMatrix
from codegen_cli.terminal import console, drawing
from quantize.description.formats import MatrixFormat

_Kind = tuple[torch.device, torch.dtype, MatrixFormat, int, int]
"""Device, compute dtype, format, n_out, n_in: what the kernel is compiled for, and more."""


class Products:
    """Multiplies by the matrices of a model; the kernel takes up to MOST_TOKENS tokens.

    So a step of a few ids reads codes and scales, and never writes a weight to memory.
    """

    def __init__(self) -> None:
        self._trusted: set[_Kind] = set()

    def admit(self, matrices: Iterable[PackedMatrix], dtype: torch.dtype) -> None:
        """Try the kernel on one matrix of each kind in a compute dtype; say where it is wrong.

        Compiling it takes some seconds, once on a machine.
        """
        kinds = {_kind(matrix, dtype): matrix for matrix in matrices}
        devices = {device for device, *_ in kinds}
        usable = {device for device in devices if kernel_runs_on(device)}
        tried = {kind: matrix for kind, matrix in kinds.items() if kind[0] in usable}
        if not tried:
            return
        from codegen_cli.engine_torch.triton_product import MOST_TOKENS, triton_product

        self._most_tokens, self._kernel = MOST_TOKENS, triton_product
        wrong: dict[str, KernelCheck] = {}
        with drawing.progress("checking kernels") as advance:
            for done, (kind, matrix) in enumerate(tried.items()):
                advance(done, len(tried))
                check = check_kernel(matrix, dtype)
                if check.is_right:
                    self._trusted.add(kind)
                else:
                    wrong[matrix.format] = check
        for check in wrong.values():
            console.warn(f"the GPU's kernel cannot be used, so it is slower: {check}")

    def __call__(self, matrix: PackedMatrix, x: Tensor) -> Tensor:
        """Return x @ weights.T: [n, n_in] -> [n, n_out] f32."""
        if not self._trusted or x.shape[0] > self._most_tokens:
            return matrix.product(x)
        if _kind(matrix, x.dtype) not in self._trusted:
            return matrix.product(x)
        with current(x.device):
            return self._kernel(x, matrix.codes, matrix.scales, matrix.format, matrix.n_out)


@cache
def kernel_runs_on(device: torch.device) -> bool:
    """Whether there is a Triton for a device, or one that interprets (TRITON_INTERPRET=1)."""
    interprets = os.environ.get("TRITON_INTERPRET") == "1"
    if (device.type not in ("cuda", "xpu") and not interprets) or find_spec("triton") is None:
        return False
    try:
        importlib.import_module("codegen_cli.engine_torch.triton_product")
    except Exception as error:  # a damaged installation, or one that is too old
        reason = str(error).strip().splitlines() or [type(error).__name__]
        console.warn(f"Triton cannot be used, so the GPU is slower: {reason[0]}")
        return False
    return True


def _kind(matrix: PackedMatrix, dtype: torch.dtype) -> _Kind:
    return matrix.codes.device, dtype, matrix.format, matrix.n_out, matrix.n_in
