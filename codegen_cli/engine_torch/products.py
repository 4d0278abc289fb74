"""A matrix and activations -> their product: by the kernel where it is right, else as defined."""

from collections.abc import Iterable
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

    def __init__(self, matrices: Iterable[PackedMatrix], dtype: torch.dtype) -> None:
        """Take the matrices, and what to compute in at first."""
        shapes = {(m.codes.device, m.format, m.n_out, m.n_in): m for m in matrices}
        self._examples = [each for each in shapes.values() if kernel_runs_on(each.codes.device)]
        self._trusted: set[_Kind] = set()
        self.admit(dtype)

    def admit(self, dtype: torch.dtype) -> None:
        """Try the kernel on one matrix of each kind in a compute dtype; say where it is wrong.

        Compiling it takes some seconds, once on a machine.
        """
        if not self._examples:
            return
        from codegen_cli.engine_torch.triton_product import MOST_TOKENS, triton_product

        self._most_tokens, self._kernel = MOST_TOKENS, triton_product
        wrong: dict[str, KernelCheck] = {}
        with drawing.progress("checking kernels") as advance:
            for done, matrix in enumerate(self._examples):
                advance(done, len(self._examples))
                check = check_kernel(matrix, dtype)
                if check.is_right:
                    self._trusted.add(_kind(matrix, dtype))
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


def kernel_runs_on(device: torch.device) -> bool:
    """Whether there is a Triton that compiles for a device, or interprets."""
    if find_spec("triton") is None:
        return False
    from codegen_cli.engine_torch.triton_product import runs_on

    return runs_on(device)


def _kind(matrix: PackedMatrix, dtype: torch.dtype) -> _Kind:
    return matrix.codes.device, dtype, matrix.format, matrix.n_out, matrix.n_in
