"""Blocks of rows and tokens, whose sums stay in registers while groups of columns are added.

A block is some bands of 16 rows times some tokens. Each word of weights that is loaded serves all
its tokens, each word of activations all its bands; and as no sum depends on another, the CPU adds
them side by side.

    sums  a tuple of [16 lanes] f32, one for each token and band: the bands of the first token first
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from codegen_cli.kernels import block_ir
from codegen_cli.kernels.fp16 import fp16_bits_to_f32
from codegen_cli.kernels.group_ir import Group
from codegen_cli.kernels.vector_ir import (
    F32,
    I16,
    ArrayArgument,
    broadcast,
    call_intrinsic,
    constant,
    f32x16,
)
from quantize.description.formats import BAND, LANES, MATRIX_FORMATS, MatrixFormat


class Sums(NamedTuple):
    """What numba can call to begin and to end with the sums of a block, see `sums_of`."""

    zero: Any
    load: Any
    add: Any
    store: Any


def sums_of(n_bands: int, n_tokens: int) -> Sums:
    """Return how blocks of so many bands and tokens begin and end."""
    sums_type = _sums_type(n_bands, n_tokens)

    @intrinsic
    def zero(typing_context):
        def generate(context, builder, signature, arguments):
            zeros = [constant(f32x16.llvm, 0)] * len(sums_type)
            return context.make_tuple(builder, signature.return_type, zeros)

        return sums_type(), generate

    @intrinsic
    def load(typing_context, out, token, row):
        """out[token : token + n_tokens, row : row + 16 * n_bands] of a float32 array."""

        def generate(context, builder, signature, arguments):
            out = ArrayArgument(context, builder, signature.args[0], arguments[0])
            offsets = _offsets(builder, out, *arguments[1:], n_bands, n_tokens)
            sums = [out.load(offset, f32x16.llvm) for offset in offsets]
            return context.make_tuple(builder, signature.return_type, sums)

        return sums_type(out, types.intp, types.intp), generate

    @intrinsic
    def add(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            a, b = (cgutils.unpack_tuple(builder, each) for each in arguments)
            sums = [builder.fadd(*pair) for pair in zip(a, b, strict=True)]
            return context.make_tuple(builder, signature.return_type, sums)

        return sums_type(sums_type, sums_type), generate

    @intrinsic
    def store(typing_context, out, token, row, sums):
        """Overwrite what `load` would load."""

        def generate(context, builder, signature, arguments):
            out = ArrayArgument(context, builder, signature.args[0], arguments[0])
            offsets = _offsets(builder, out, *arguments[1:3], n_bands, n_tokens)
            sums = cgutils.unpack_tuple(builder, arguments[3])
            for offset, value in zip(offsets, sums, strict=True):
                out.store(offset, value)
            return context.get_dummy_value()

        return types.void(out, types.intp, types.intp, sums_type), generate

    return Sums(zero, load, add, store)


def column_adder(n_tokens: int) -> Any:
    """Return what adds a column of fp16 weights to the sums of blocks of a band."""
    sums_type = _sums_type(1, n_tokens)

    @intrinsic
    def add_column(typing_context, sums, weights, at, x, token, column):
        """sums + weights[at : at + 16] times x[token : token + n_tokens, column].

        weights                  u16  fp16 bits
        x        [n_tokens, n_in] f32
        """

        def generate(context, builder, signature, arguments):
            sums, weights, at, x, token, column = arguments
            weights = ArrayArgument(context, builder, signature.args[1], weights)
            x = ArrayArgument(context, builder, signature.args[3], x)
            bits = weights.load(at, ir.VectorType(I16, BAND))
            weight, intp = fp16_bits_to_f32(builder, bits), at.type
            results = []
            for i, total in enumerate(cgutils.unpack_tuple(builder, sums)):
                row = builder.mul(builder.add(token, intp(i)), x.length(1))
                value = broadcast(builder, x.load(builder.add(row, column), F32), BAND)
                results.append(
                    call_intrinsic(builder, "llvm.fma.v16f32", total.type, weight, value, total)
                )
            return context.make_tuple(builder, signature.return_type, results)

        intp = types.intp
        return sums_type(sums_type, weights, intp, x, intp, intp), generate

    return add_column


def key_adder(n_keys: int) -> Any:
    """Return what adds the fp16 values of so many keys in a row to four sums, by key modulo 4."""
    sums_type = _sums_type(1, 4)

    @intrinsic
    def add_keys(typing_context, sums, values, at, scores, key):
        """sums + values[at : at + 16 * n_keys] times scores[key : key + n_keys], 16 a key.

        values                    u16  fp16 bits
        scores  [>= key + n_keys] f32
        """

        def generate(context, builder, signature, arguments):
            sums, values, at, scores, key = arguments
            values = ArrayArgument(context, builder, signature.args[1], values)
            scores = ArrayArgument(context, builder, signature.args[3], scores)
            results, intp = list(cgutils.unpack_tuple(builder, sums)), at.type
            for i in range(n_keys):
                bits = values.load(builder.add(at, intp(i * LANES)), ir.VectorType(I16, LANES))
                score = broadcast(builder, scores.load(builder.add(key, intp(i)), F32), LANES)
                total = results[i % 4]
                operands = fp16_bits_to_f32(builder, bits), score, total
                results[i % 4] = call_intrinsic(builder, "llvm.fma.v16f32", total.type, *operands)
            return context.make_tuple(builder, signature.return_type, results)

        intp = types.intp
        return sums_type(sums_type, values, intp, scores, intp), generate

    return add_keys


def group_adder(format: MatrixFormat, n_bands: int, n_tokens: int) -> Any:
    """Return what adds a group of int8 or int4 weights to the sums of a block."""
    sums_type = _sums_type(n_bands, n_tokens)
    group_bytes = MATRIX_FORMATS[format].group_bytes

    @intrinsic
    def add_group(
        typing_context, sums, codes, scales, index, n_groups, x_codes, x_scales, x_sums, token
    ):
        """sums + the products of a group of columns with the activations of tokens token, ...

        codes, scales                 as in matmul
        index                         of the group in the block's first band, over all bands
        n_groups                      from a band to the next
        x_codes   [n_tokens * 32]  i8   of this group, of all tokens
        x_scales  [n_tokens]       f32
        x_sums    [n_tokens]       f32
        """

        def generate(context, builder, signature, arguments):
            sums, _, _, index, n_groups, _, _, _, token = arguments
            arrays = [
                ArrayArgument(context, builder, signature.args[i], arguments[i])
                for i in (1, 2, 5, 6, 7)
            ]
            intp = index.type
            indices = [
                builder.add(index, builder.mul(n_groups, intp(band))) for band in range(n_bands)
            ]
            group = Group(
                *arrays,
                first_codes=[builder.mul(each, intp(group_bytes)) for each in indices],
                first_scales=[builder.mul(each, intp(BAND)) for each in indices],
                tokens=[builder.add(token, intp(i)) for i in range(n_tokens)],
            )
            values = block_ir.add_group(builder, format, group, cgutils.unpack_tuple(builder, sums))
            return context.make_tuple(builder, signature.return_type, values)

        intp = types.intp
        arrays = x_codes, x_scales, x_sums
        return sums_type(sums_type, codes, scales, intp, intp, *arrays, intp), generate

    return add_group


def _sums_type(n_bands: int, n_tokens: int) -> types.UniTuple:
    return types.UniTuple(f32x16, n_bands * n_tokens)


def _offsets(
    builder: ir.IRBuilder,
    out: ArrayArgument,
    token: ir.Value,
    row: ir.Value,
    n_bands: int,
    n_tokens: int,
) -> Iterator[ir.Value]:
    """Yield where in `out` each of a block's sums belongs."""
    intp = token.type
    for i, band in product(range(n_tokens), range(n_bands)):
        start = builder.mul(builder.add(token, intp(i)), out.length(1))
        yield builder.add(builder.add(start, row), intp(band * BAND))
