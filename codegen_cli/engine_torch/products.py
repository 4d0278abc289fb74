"""A matrix and activations -> their product: by the kernel where it is right, else as defined."""

from collections.abc import Iterable
from importlib.util import find_spec

import torch
from torch import Tensor

from codegen_cli.engine_torch.kernel_check import KernelCheck, check_kernel
from codegen_cli.engine_torch.packed_matrix import PackedMatrix
from codegen_cli.terminal import console, drawing
from quantize.description.formats import MatrixFormat

_Kind = tuple[torch.device, MatrixFormat, int, int]
"""Device, format, n_out, n_in: what the kernel is compiled for, and more."""


class Products:
    """Multiplies by the matrices of a model; the kernel takes up to MOST_TOKENS tokens.

    So a step of a few ids reads codes and scales, and never writes a weight to memory.
    """

    def __init__(self, matrices: Iterable[PackedMatrix], dtype: torch.dtype) -> None:
        """Try the kernel on one matrix of each kind, in the compute dtype; say where it is wrong.

        Compiling it takes some seconds, once on a machine.
        """
        kinds = {_kind(matrix): matrix for matrix in matrices}
        runnable = {kind: each for kind, each in kinds.items() if kernel_runs_on(kind[0])}
        self._trusted: set[_Kind] = set()
        if not runnable:
            return
        from codegen_cli.engine_torch.triton_product import MOST_TOKENS, triton_product

        self._most_tokens, self._kernel = MOST_TOKENS, triton_product
        wrong: dict[str, KernelCheck] = {}
        with drawing.progress("checking kernels") as advance:
            for done, (kind, matrix) in enumerate(runnable.items()):
                advance(done, len(runnable))
                check = check_kernel(matrix, dtype)
                if check.is_right:
                    self._trusted.add(kind)
                else:
                    wrong[matrix.format] = check
        for check in wrong.values():
            console.warn(f"the GPU's kernel cannot be used, so it is slower: {check}")

    def __call__(self, matrix: PackedMatrix, x: Tensor) -> Tensor:
        """Return x @ weights.T: [n, n_in] -> [n, n_out] f32."""
        if self._trusted and x.shape[0] <= self._most_tokens and _kind(matrix) in self._trusted:
            return self._kernel(x, matrix.codes, matrix.scales, matrix.format, matrix.n_out)
        return matrix.product(x)


def kernel_runs_on(device: torch.device) -> bool:
    """Whether there is a Triton that compiles for a device, or interprets."""
    if find_spec("triton") is None:
        return False
    from codegen_cli.engine_torch.triton_product import runs_on

    return runs_on(device)


def _kind(matrix: PackedMatrix) -> _Kind:
    return matrix.codes.device, matrix.format, matrix.n_out, matrix.n_in
