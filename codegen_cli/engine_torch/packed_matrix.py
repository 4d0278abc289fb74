"""A matrix as it lies in a packed file, on a device -> products, and single rows of it.

This is the layout of quantize/packed/layout.py in PyTorch's words, and the definition of what a
faster product has to give.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from quantize.description.formats import (
    BAND,
    GROUP,
    INT4_LOWEST_ZERO,
    INT4_ZERO_BITS,
    INT8_ZERO,
    MATRIX_FORMATS,
    MatrixFormat,
    bands_of,
    groups_of,
)
from quantize.packed.layout import codes_bytes, scales_bytes
from quantize.packed.packed_file import PackedTensor

_PIECE_WEIGHTS = 1 << 20
"""At most so many weights of a matrix exist in the compute dtype at a time, but one band at least.

Making them takes a few times their bytes: 10 MB, which even beside the smallest model is little.
"""


class PackedMatrix:
    """n_out rows of n_in weights, which stay quantized.

    codes   int8 u8 [n_bands, n_groups * 8, 16, 4], int4 u8 [n_bands, n_groups, 4, 16, 4],
            f16 f16 [n_bands, n_groups * 32, 16]
    scales  f16 [n_bands, n_groups, 16]; None for f16
    """

    def __init__(self, packed: PackedTensor, payload: Tensor) -> None:
        """Take a tensor of a packed file, and its payload u8 [n_bytes] on the device."""
        self.format = cast(MatrixFormat, packed.format)
        self.n_out, self.n_in = packed.shape
        n_bands, n_groups = bands_of(self.n_out), groups_of(self.n_in)
        n_codes = codes_bytes(packed.format, packed.shape)
        codes = payload[:n_codes]
        self.scales: Tensor | None = None
        if MATRIX_FORMATS[self.format].has_scales:
            end = n_codes + scales_bytes(packed.format, packed.shape)
            self.scales = payload[n_codes:end].view(torch.float16).view(n_bands, n_groups, BAND)
        if self.format == "int8":
            self.codes = codes.view(n_bands, -1, BAND, 4)
        elif self.format == "int4":
            self.codes = codes.view(n_bands, n_groups, -1, BAND, 4)
        else:
            self.codes = codes.view(torch.float16).view(n_bands, -1, BAND)
        # The same memory, rows first: [n_bands, 16, ...]
        self._rows = self.codes.movedim(2 if self.format != "int4" else 3, 1)
        self._row_scales = None if self.scales is None else self.scales.movedim(2, 1)

    def product(self, x: Tensor) -> Tensor:
        """Return x @ weights.T in float32; the weights are made piece by piece in x's dtype.

        x       [n, n_in]  f16, bf16 or f32
        result  [n, n_out] f32
        """
        y = x.new_empty((x.shape[0], self.n_out), dtype=torch.float32)
        for bands in self._pieces():
            weights = self._weights(bands, x.dtype)  # [n_rows, n_in]
            rows = slice(bands.start * BAND, min(bands.stop * BAND, self.n_out))
            y[:, rows] = (x @ weights.T)[:, : rows.stop - rows.start]
        return y

    def rows(self, indices: Tensor) -> Tensor:
        """Return single rows [n, n_in] f32; indices [n] i64."""
        bands, lanes = indices // BAND, indices % BAND
        scales = None if self._row_scales is None else self._row_scales[bands, lanes]
        return self._decoded(self._rows[bands, lanes], scales, torch.float32)

    def _pieces(self) -> Iterator[slice]:
        """Yield runs of bands that together are the matrix."""
        n_bands = self.codes.shape[0]
        n = max(1, _PIECE_WEIGHTS // (BAND * self.n_in))
        for start in range(0, n_bands, n):
            yield slice(start, min(start + n, n_bands))

    def _weights(self, bands: slice, dtype: torch.dtype) -> Tensor:
        """Return the weights of some bands, [16 * number of bands, n_in]."""
        scales = None if self._row_scales is None else self._row_scales[bands].flatten(0, 1)
        return self._decoded(self._rows[bands].flatten(0, 1), scales, dtype)

    def _decoded(self, codes: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return what codes [n, ...] of some rows and their scales [n, n_groups] stand for.

        Levels are small integers, exact in any dtype: each weight is rounded once.
        """
        if scales is None:
            return codes[:, : self.n_in].to(dtype)
        n, n_groups = scales.shape
        if self.format == "int8":
            levels = codes.reshape(n, n_groups, GROUP).to(dtype) - INT8_ZERO
        else:
            halves = torch.stack((codes & 15, codes >> 4), 2)  # [n, n_groups, 2, 4, 4]
            zero_bits = scales.view(torch.int16) & ((1 << INT4_ZERO_BITS) - 1)
            zeros = (zero_bits + INT4_LOWEST_ZERO).to(dtype)
            levels = 4 * halves.view(n, n_groups, GROUP).to(dtype) - zeros[..., None]
        return (levels * scales.to(dtype)[..., None]).view(n, -1)[:, : self.n_in]
