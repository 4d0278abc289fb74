"""Matrix products: packed bands of 16 rows times the activations of one or more tokens.

Bands and tokens are taken in blocks, as large as the registers of the CPU allow. Each (row, token)
adds its groups of 32 columns in the same order in every block. So a logit does not depend on how
ids are batched, and not on which thread computes which band.
"""

from numba import carray, njit, uint8, uint16

from codegen_cli.kernels.block_product import column_adder, group_adder, sums_of
from codegen_cli.kernels.threading_primitives import pointer_to
from codegen_cli.kernels.vectors import PREFETCH, prefetch
from codegen_cli.machine.cpu import kernel_path
from quantize.description.formats import BAND, GROUP, LINE_BYTES, MATRIX_FORMATS

_INT8_NUMBER, _INT4_NUMBER = MATRIX_FORMATS["int8"].number, MATRIX_FORMATS["int4"].number

_BLOCKS = {"avx512vnni": (2, 6), "generic": (1, 4)}
"""Kernel path -> the bands and tokens of its largest blocks; of all others (1, 8)."""

BLOCK_BANDS, _BLOCK_TOKENS = _BLOCKS.get(kernel_path(), (1, 8))

_BYTES_AHEAD = PREFETCH.bytes_ahead

_compile = njit(nogil=True, error_model="numpy")


def _quantized_block(format, n_bands, n_tokens):
    """The product of a block, of int8 or int4 weights."""
    sums, add_group = sums_of(n_bands, n_tokens), group_adder(format, n_bands, n_tokens)
    zero_sums, load_sums, store_sums = sums.zero, sums.load, sums.store
    group_bytes = MATRIX_FORMATS[format].group_bytes
    scales_ahead = _BYTES_AHEAD // group_bytes * BAND

    @_compile
    def multiply(out, band, codes, scales, x, token, accumulate):
        n_groups = x.codes.shape[0]
        first = band * n_groups
        sums = load_sums(out, token, band * BAND) if accumulate else zero_sums()
        for i in range(n_groups):
            if token == 0:  # later blocks of tokens find them in the caches
                for b in range(n_bands):
                    index = first + b * n_groups + i
                    for line in range(0, group_bytes, LINE_BYTES):
                        prefetch(codes, index * group_bytes + line + _BYTES_AHEAD)
                    prefetch(scales, index * BAND + scales_ahead)
            sums = add_group(
                sums, codes, scales, first + i, n_groups, x.codes[i], x.scales[i], x.sums[i], token
            )
        store_sums(out, token, band * BAND, sums)

    return multiply


def _f16_block(n_bands, n_tokens):
    """The product of a block of one band, of fp16 weights, in float32."""
    sums, add_column = sums_of(1, n_tokens), column_adder(n_tokens)
    zero_sums, load_sums, store_sums = sums.zero, sums.load, sums.store

    @_compile
    def multiply(out, band, weights, scales, x, token, accumulate):
        n_in = x.values.shape[1]
        sums = load_sums(out, token, band * BAND) if accumulate else zero_sums()
        for column in range(n_in):
            at = (band * n_in + column) * BAND
            sums = add_column(sums, weights, at, x.values, token, column)
        store_sums(out, token, band * BAND, sums)

    return multiply


def in_blocks(block_of, n_bands, n_tokens):
    """The product of some bands with all tokens: large blocks, then what is left of tokens.

    block_of  (bands, tokens) -> the product of a block

    A few texts, or a draft, are all left. Blocks of each number of tokens up to 7 would do 5 to 7
    another tenth faster, but take another half minute to compile.
    """
    large, pair, single = block_of(n_bands, n_tokens), block_of(1, 2), block_of(1, 1)
    quad = large if (n_bands, n_tokens) == (1, 4) else block_of(1, 4)

    @_compile
    def multiply(out, first_band, end_band, codes, scales, x, accumulate):
        """Rows of W @ x for every token.

        out                [n_tokens, n_out]  f32  overwritten, or added to when `accumulate`
        first_band, end_band                       which rows, by 16
        codes, scales                              W, see `matmul`
        x                                          step_arrays.Activations
        """
        band = first_band
        while band < end_band:
            end, first_left = min(band + n_bands, end_band), 0
            if end - band == n_bands:
                while first_left + n_tokens <= out.shape[0]:
                    large(out, band, codes, scales, x, first_left, accumulate)
                    first_left += n_tokens
            while band < end:
                token = first_left
                while token + 4 <= out.shape[0]:
                    quad(out, band, codes, scales, x, token, accumulate)
                    token += 4
                if token + 2 <= out.shape[0]:
                    pair(out, band, codes, scales, x, token, accumulate)
                    token += 2
                if token < out.shape[0]:
                    single(out, band, codes, scales, x, token, accumulate)
                band += 1

    return multiply


def int8_block(n_bands, n_tokens):
    return _quantized_block("int8", n_bands, n_tokens)


def int4_block(n_bands, n_tokens):
    return _quantized_block("int4", n_bands, n_tokens)


matmul_int8 = in_blocks(int8_block, BLOCK_BANDS, _BLOCK_TOKENS)
matmul_int4 = in_blocks(int4_block, BLOCK_BANDS, _BLOCK_TOKENS)
matmul_f16 = in_blocks(_f16_block, 1, 4)


@_compile
def matmul(out, first_band, end_band, matrix, x, accumulate):
    """Rows of matrix @ x for every token, by the kernel of the matrix's own format.

    out                [n_tokens, n_out]  f32  overwritten, or added to when `accumulate`
    first_band, end_band                       which rows, by 16
    matrix                                     a MATRIX record of the step table:
        int8  codes   u8   bands [n_groups][8][16 rows][4 columns], code + 128
              scales  u16  fp16 bits, bands [n_groups][16 rows]
        int4  codes   u8   bands [n_groups][4][16 rows][4 columns]: the low nibbles hold a group's
                           columns 0-15, the high nibbles columns 16-31
              scales  u16  as int8's; zeros = 14 + the lowest 5 bits, in quarter steps
        f16   codes   u16  fp16 bits, bands [n_in][16 rows]
    x                                          step_arrays.Activations
    """
    n_groups = matrix.n_bands * matrix.n_groups
    codes = carray(pointer_to(matrix.codes, uint8), (n_groups * matrix.group_bytes,))
    scales = carray(pointer_to(matrix.scales, uint16), (n_groups * BAND,))
    if matrix.format == _INT8_NUMBER:
        matmul_int8(out, first_band, end_band, codes, scales, x, accumulate)
    elif matrix.format == _INT4_NUMBER:
        matmul_int4(out, first_band, end_band, codes, scales, x, accumulate)
    else:
        weights = carray(pointer_to(matrix.codes, uint16), (n_groups * GROUP * BAND,))
        matmul_f16(out, first_band, end_band, weights, scales, x, accumulate)
