"""Vectors of 16 lanes for numba, one for each row of a band: what the quantizer's kernels use.

LLVM makes of each operation the instructions that this CPU has. Operations round as IEEE 754 says
and stay in the order written, so that every CPU gets the same bits. Arrays are passed whole, with
an offset in elements; nothing is bounds-checked here.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from quantize.description.formats import BAND

COLUMNS = 8
"""Neighbours along n_in that load_columns takes of each row."""

I16, I32, F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()
# fp16's bits moved to float32's places: sign, exponent and mantissa; and what is missing to the
# value then, as fp16's exponents begin at 15 and float32's at 127.
_FP16_IN_F32, _FP16_SHIFT, _FP16_FACTOR = 0x8FFFE000, 13, 2.0**112
_SMALLEST_NORMAL_FP16 = 2.0**-14

Build = Callable[..., ir.Value]


class Vector(types.Type):
    """A lane for each row of a band: f32 or i32."""

    def __init__(self, name: str, element: ir.Type) -> None:
        self.llvm = ir.VectorType(element, BAND)
        super().__init__(name=f"Vector({name})")


class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


register_model(Vector)(_VectorModel)

f32, i32 = Vector("f32", F32), Vector("i32", I32)


def _all(number: float, element: ir.Type = F32, count: int = BAND) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, count), [number] * count)


def _unary(result, given, build: Build):
    @intrinsic
    def operation(typing_context, a):
        def generate(context, builder, signature, arguments):
            return build(builder, *arguments)

        return result(given), generate

    return operation


def _binary(vector, build: Build):
    @intrinsic
    def operation(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            return build(builder, *arguments)

        return vector(vector, vector), generate

    return operation


def _call(builder: ir.IRBuilder, name: str, *values: ir.Value) -> ir.Value:
    """What LLVM's function of this name for vectors of 16 float32 returns."""
    kind = ir.FunctionType(f32.llvm, [value.type for value in values])
    name = f"llvm.{name}.v{BAND}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


# --- memory -------------------------------------------------------------------------------------


def _pointer(context, builder, array_type, array, offset, target):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), ir.PointerType(target))


@intrinsic
def load(typing_context, array, offset):
    """array[offset : offset + 16] of a float32 array."""

    def generate(context, builder, signature, arguments):
        value = builder.load(_pointer(context, builder, array, *arguments, f32.llvm))
        value.align = 4
        return value

    return f32(array, types.intp), generate


def _store(vector, narrow: Build):
    @intrinsic
    def operation(typing_context, array, offset, value):
        def generate(context, builder, signature, arguments):
            array_value, offset_value, value = arguments
            value = narrow(builder, value)
            pointer = _pointer(context, builder, array, array_value, offset_value, value.type)
            builder.store(value, pointer).align = 1
            return context.get_dummy_value()

        return types.void(array, types.intp, vector), generate

    return operation


store = _store(f32, lambda builder, value: value)
store_words = _store(i32, lambda builder, value: value)
store_halves = _store(i32, lambda builder, value: builder.trunc(value, ir.VectorType(I16, BAND)))


@intrinsic
def load_columns(typing_context, tile, column, rows, offset, n_in):
    """Put 8 columns of 16 rows into a tile [32, 16] float32, from its row `column` on.

    rows  [16 rows from offset on, n_in apart]  float32, or uint16: the bits of fp16
    """
    element = {types.float32: F32, types.uint16: I16}[rows.dtype]

    def generate(context, builder, signature, arguments):
        tile_value, column, rows_value, offset, n_in = arguments
        loaded = []
        for _ in range(BAND):
            pointer = _pointer(
                context, builder, rows, rows_value, offset, ir.VectorType(element, COLUMNS)
            )
            loaded.append(builder.load(pointer))
            loaded[-1].align = element.width // 8 if element == I16 else 4
            offset = builder.add(offset, n_in)
        upper, lower = (_transposed(builder, loaded[i : i + COLUMNS]) for i in (0, COLUMNS))
        for i, (a, b) in enumerate(zip(upper, lower, strict=True)):
            value = _shuffled(builder, a, b, range(BAND))
            if element == I16:
                value = _widened(builder, builder.sext(value, i32.llvm))
            at = builder.mul(builder.add(column, column.type(i)), column.type(BAND))
            pointer = _pointer(context, builder, tile, tile_value, at, f32.llvm)
            builder.store(value, pointer).align = 4
        return context.get_dummy_value()

    return types.void(tile, types.intp, rows, types.intp, types.intp), generate


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Return 8 vectors of 8 lanes with lanes and vectors exchanged: three perfect shuffles."""
    half = COLUMNS // 2
    zipped = [lane for i in range(COLUMNS) for lane in (i, COLUMNS + i)]
    for _ in range(3):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [
            _shuffled(builder, a, b, lanes)
            for a, b in pairs
            for lanes in (zipped[:COLUMNS], zipped[COLUMNS:])
        ]
    return rows


def _shuffled(builder, a, b, lanes):
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, mask)


# --- fp16 by integers: not every CPU has the instructions ---------------------------------------


def _widened(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    moved = builder.shl(bits, _all(_FP16_SHIFT, I32))
    moved = builder.and_(moved, _all(_FP16_IN_F32 - (1 << 32), I32))
    return builder.fmul(builder.bitcast(moved, f32.llvm), _all(_FP16_FACTOR))


def _narrowed(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    bits = builder.bitcast(value, i32.llvm)
    sign = builder.and_(builder.lshr(bits, _all(16, I32)), _all(0x8000, I32))
    magnitude = builder.and_(bits, _all(0x7FFFFFFF, I32))
    # Normal numbers: add half of the last place that is kept, or just less where that place is
    # even, and cut off; a carry moves into the exponent as it should.
    is_odd = builder.and_(builder.lshr(magnitude, _all(_FP16_SHIFT, I32)), _all(1, I32))
    rounded = builder.add(builder.add(magnitude, _all(0xFFF - (112 << 23), I32)), is_odd)
    normal = builder.lshr(rounded, _all(_FP16_SHIFT, I32))
    # Subnormal ones: beside a number whose last place is fp16's smallest step, float32 addition
    # rounds to such steps by itself.
    beside = _all(0.5)
    real = builder.bitcast(magnitude, f32.llvm)
    steps = builder.bitcast(builder.fadd(real, beside), i32.llvm)
    subnormal = builder.sub(steps, builder.bitcast(beside, i32.llvm))
    is_small = builder.fcmp_ordered("<", real, _all(_SMALLEST_NORMAL_FP16))
    return builder.or_(sign, builder.select(is_small, subnormal, normal))


from_fp16 = _unary(
    f32,
    i32,
    lambda builder, a: _widened(
        builder, builder.ashr(builder.shl(a, _all(16, I32)), _all(16, I32))
    ),
)
"""fp16's bits, finite ones -> float32: exact; what is infinite or no number is 65536 and more."""

to_fp16 = _unary(i32, f32, _narrowed)
"""float32 -> the bits of the nearest fp16, ties to even, in magnitudes up to 65504."""


# --- lane by lane -------------------------------------------------------------------------------


@intrinsic
def every_lane(typing_context, value):
    """A vector with the same float32 or int32 in all lanes."""
    vector = {types.float32: f32, types.int32: i32}[value]

    def generate(context, builder, signature, arguments):
        undefined = ir.Constant(vector.llvm, ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], ir.Constant(I32, 0))
        return _shuffled(builder, first, undefined, [0] * BAND)

    return vector(value), generate


_OPERATIONS = {
    (operator.add, f32): _binary(f32, lambda builder, a, b: builder.fadd(a, b)),
    (operator.sub, f32): _binary(f32, lambda builder, a, b: builder.fsub(a, b)),
    (operator.mul, f32): _binary(f32, lambda builder, a, b: builder.fmul(a, b)),
    (operator.truediv, f32): _binary(f32, lambda builder, a, b: builder.fdiv(a, b)),
    (operator.add, i32): _binary(i32, lambda builder, a, b: builder.add(a, b)),
    (operator.sub, i32): _binary(i32, lambda builder, a, b: builder.sub(a, b)),
    (operator.and_, i32): _binary(i32, lambda builder, a, b: builder.and_(a, b)),
    (operator.or_, i32): _binary(i32, lambda builder, a, b: builder.or_(a, b)),
    (operator.lshift, i32): _binary(i32, lambda builder, a, b: builder.shl(a, b)),
    (operator.rshift, i32): _binary(i32, lambda builder, a, b: builder.ashr(a, b)),
}


# a += b is one of its own to numba's typing.
_OPERATIONS[operator.iadd, f32] = _OPERATIONS[operator.add, f32]
_OPERATIONS[operator.ior, i32] = _OPERATIONS[operator.or_, i32]


def _overload(function: Callable[..., Any]) -> None:
    @overload(function)
    def choose(a, b):
        operation = _OPERATIONS.get((function, a)) if a == b else None
        return (lambda a, b: operation(a, b)) if operation else None


for _function in {function for function, _ in _OPERATIONS}:
    _overload(_function)


def _select_by(comparison: str) -> Build:
    return lambda builder, a, b: builder.select(builder.fcmp_ordered(comparison, a, b), a, b)


# Where either is not a number, it is b.
larger = _binary(f32, _select_by(">"))
smaller = _binary(f32, _select_by("<"))


def _clip(builder: ir.IRBuilder, value: ir.Value, highest: ir.Value) -> ir.Value:
    # As integers: they order bits as numbers from 0 up are ordered, and every number below 0 is
    # below them. CPUs compare integers where they would else be idle.
    bits = builder.bitcast(value, i32.llvm)
    bits = builder.select(builder.icmp_signed(">", bits, _all(0, I32)), bits, _all(0, I32))
    bound = builder.bitcast(highest, i32.llvm)
    bits = builder.select(builder.icmp_signed("<", bits, bound), bits, bound)
    return builder.bitcast(bits, f32.llvm)


clip = _binary(f32, _clip)
"""The nearest number in 0..b to each of a, b being positive."""

absolute = _unary(f32, f32, lambda builder, a: _call(builder, "fabs", a))
negative = _unary(f32, f32, lambda builder, a: builder.fneg(a))
round_half_even = _unary(f32, f32, lambda builder, a: _call(builder, "rint", a))
to_i32 = _unary(i32, f32, lambda builder, a: builder.fptosi(a, i32.llvm))
"""Of whole numbers."""
to_f32 = _unary(f32, i32, lambda builder, a: builder.sitofp(a, f32.llvm))
bits_of = _unary(i32, f32, lambda builder, a: builder.bitcast(a, i32.llvm))


@intrinsic
def add_exact(typing_context, total, a, b):
    """total + a * b of whole numbers that float32 holds: one rounding or two are the same."""

    def generate(context, builder, signature, arguments):
        total, a, b = arguments
        return _call(builder, "fmuladd", a, b, total)

    return f32(f32, f32, f32), generate


@intrinsic
def where_less(typing_context, a, b, then, otherwise):
    """`then` in the lanes where a < b, else `otherwise`, as where a or b is not a number."""

    def generate(context, builder, signature, arguments):
        a, b, then, otherwise = arguments
        return builder.select(builder.fcmp_ordered("<", a, b), then, otherwise)

    return then(f32, f32, then, then), generate


# --- across lanes -------------------------------------------------------------------------------


def _across(build: Build):
    @intrinsic
    def operation(typing_context, value):
        def generate(context, builder, signature, arguments):
            vector = arguments[0]
            while (half := vector.type.count // 2) > 0:
                low, high = (
                    _shuffled(builder, vector, vector, range(start, start + half))
                    for start in (0, half)
                )
                vector = build(builder, low, high)
            return builder.extract_element(vector, ir.Constant(I32, 0))

        return types.float32(f32), generate

    return operation


sum_lanes = _across(lambda builder, a, b: builder.fadd(a, b))
"""Lane i + lane i+8, then +4, +2, +1."""

largest_lane = _across(_select_by(">"))
