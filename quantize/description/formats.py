"""How weights are stored: the table of formats, and the sizes of which every format is made.

    matrix [n_out, n_in]    n_bands of 16 rows, n_groups of 32 columns, padded with zeros

The quantizer, the packed file, the engine, its kernels and the commands all read it here; NumPy and
numba are not imported. What a code means is in rounding/groups.py, in which order codes lie is in
packed/layout.py. A new format of matrices touches

    here                            its row, and its name in MatrixFormat
    quantize/rounding/groups.py     its definition: quantize_*, dequantize_*
    quantize/packed/layout.py       the order of its codes: order_*, codes_view
    quantize/quantize_model.py      one function that puts these together
    codegen_cli/kernels/group_ir.py how its bytes become words, and what its scales tell
    codegen_cli/kernels/dot_ir.py   how each kernel path multiplies its words
    codegen_cli/kernels/matmul.py   its product in blocks, and its case in `matmul`
    codegen_cli/engine_torch/       packed_matrix.py: its definition there; triton_product.py
    models.toml                     the bytes that each size of model takes in it

and nothing else: names, choices and forecasts follow from the row. Reading single rows
(`can_embed`) is one more case in codegen_cli/kernels/pointwise.py.
"""

from typing import Literal, NamedTuple

LANES = 16
"""Numbers of 32 bits that a kernel computes side by side: a 512-bit register of them."""

BAND = LANES
"""Rows that are stored together: each lane computes one."""

GROUP = 32
"""Neighbours along n_in that share one scale."""

WORD = 4
"""Neighbours along n_in whose codes, a byte each, lie side by side: a lane takes 4 at once."""

LINE_BYTES = 64
"""A cache line, and such a register: payloads begin and end at multiples of so many bytes."""

INT8_ZERO = 128
"""The stored code of an int8 weight that is 0."""

INT4_LOWEST_ZERO = 14
INT4_ZERO_BITS = 5
"""An int4 group's zero point in quarter steps is 14 + the lowest 5 bits of its scale: 14..45."""

SMALLEST_ACTIVATION = 2.0**-100
"""A group of activations that are all smaller counts as zero: its reciprocal stays finite."""

_SCALE_BYTES = 2

MatrixFormat = Literal["int8", "int4", "f16"]
"""How a matrix is stored, and what a packed file is called after."""

Format = Literal[MatrixFormat, "f32"]
"""How one tensor is stored; f32 is for vectors (norms and biases) only."""


class StoredMatrix(NamedTuple):
    """What there is to know of a format without reading a weight.

    number      that kernels know it by, in step_table.MATRIX
    code_bits   of one weight, without its share of a scale
    has_scales  one fp16 scale for each group; else a code is the weight itself
    ends        the format of wte and lm_head in a file of this one. wte is read a row per id, and
                lm_head decides every logit: docs/quantization.md has the measurement
    can_embed   whether kernels can look up single rows, as of wte
    merit       a word for whoever chooses
    """

    number: int
    code_bits: int
    has_scales: bool
    ends: MatrixFormat
    can_embed: bool
    merit: str

    @property
    def group_bytes(self) -> int:
        """Bytes of the codes of a group in all rows of a band: what a kernel loads at once."""
        return BAND * GROUP * self.code_bits // 8

    @property
    def scales_bytes(self) -> int:
        """Bytes of the scales of a group in all rows of a band."""
        return BAND * _SCALE_BYTES if self.has_scales else 0


MATRIX_FORMATS: dict[MatrixFormat, StoredMatrix] = {
    "int8": StoredMatrix(0, 8, True, "int8", True, "lossless in practice"),
    "int4": StoredMatrix(1, 4, True, "int8", False, "smallest"),
    "f16": StoredMatrix(2, 16, False, "f16", True, "unquantized"),
}

DEFAULT_FORMAT: MatrixFormat = "int8"
"""What a checkpoint is packed to where nobody says otherwise, as when someone just runs it."""


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least n."""
    return -(-n // multiple) * multiple


def bands_of(n_out: int) -> int:
    """Return n_bands: how many bands hold n_out rows."""
    return -(-n_out // BAND)


def groups_of(n_in: int) -> int:
    """Return n_groups: how many groups hold n_in columns."""
    return -(-n_in // GROUP)
