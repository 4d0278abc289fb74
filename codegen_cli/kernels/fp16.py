"""fp16 bits <-> float32, in LLVM IR: by the CPU's instructions, or by integers where it has none.

Without instructions LLVM would call functions of the C compiler's library, which no Python process
has to have. The integer ways give the same bits (a NaN stays a NaN); values are scalars or vectors.
"""

from llvmlite import ir

from codegen_cli.machine.cpu import converts_fp16

_I16, _I32 = ir.IntType(16), ir.IntType(32)
_F16, _F32 = ir.HalfType(), ir.FloatType()

_FP16_MANTISSA, _F32_MANTISSA = 10, 23  # bits
_FP16_INFINITY, _F32_INFINITY = 0x7C00, 0x7F800000
_BIAS_DIFFERENCE = 127 - 15
_SMALLEST_NORMAL_FP16 = (127 - 14) << _F32_MANTISSA  # as float32 bits


def fp16_bits_to_f32(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The value whose fp16 bits an i16 (or a vector of them) holds: exact."""
    if converts_fp16():
        return builder.fpext(builder.bitcast(bits, _like(bits, _F16)), _like(bits, _F32))
    wide, real = _like(bits, _I32), _like(bits, _F32)
    bits = builder.zext(bits, wide)
    sign = builder.shl(builder.and_(bits, _all(wide, 0x8000)), _all(wide, 16))
    magnitude = builder.and_(bits, _all(wide, 0x7FFF))
    # Moved to float32's places, the exponent is too small by the difference of the biases, for
    # normal and subnormal numbers alike; the product with a power of two is exact.
    moved = builder.shl(magnitude, _all(wide, _F32_MANTISSA - _FP16_MANTISSA))
    scaled = builder.fmul(builder.bitcast(moved, real), _all(real, 2.0**_BIAS_DIFFERENCE))
    is_finite = builder.icmp_unsigned("<", magnitude, _all(wide, _FP16_INFINITY))
    special = builder.or_(moved, _all(wide, _F32_INFINITY))
    result = builder.select(is_finite, builder.bitcast(scaled, wide), special)
    return builder.bitcast(builder.or_(result, sign), real)


def f32_to_fp16_bits(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The bits of the nearest fp16 value, ties to even, as i16 (or a vector of them)."""
    if converts_fp16():
        return builder.bitcast(builder.fptrunc(value, _like(value, _F16)), _like(value, _I16))
    wide, real = _like(value, _I32), _like(value, _F32)
    bits = builder.bitcast(value, wide)
    sign = builder.lshr(builder.and_(bits, _all(wide, 0x80000000)), _all(wide, 16))
    magnitude = builder.and_(bits, _all(wide, 0x7FFFFFFF))
    # Normal numbers: add half of the last place that is kept, or just less where that place is
    # even, and cut off; a carry moves into the exponent as it should.
    dropped = _all(wide, _F32_MANTISSA - _FP16_MANTISSA)
    is_odd = builder.and_(builder.lshr(magnitude, dropped), _all(wide, 1))
    rounded = builder.add(builder.add(magnitude, _all(wide, 0xFFF)), is_odd)
    rebiased = _all(wide, _BIAS_DIFFERENCE << _FP16_MANTISSA)
    normal = builder.sub(builder.lshr(rounded, dropped), rebiased)
    # Subnormal ones: beside a number whose last place is fp16's smallest step, float32 addition
    # rounds to such steps by itself.
    beside = _all(real, 2.0 ** (_F32_MANTISSA - 24))
    steps = builder.bitcast(builder.fadd(builder.bitcast(magnitude, real), beside), wide)
    subnormal = builder.sub(steps, builder.bitcast(beside, wide))
    is_small = builder.icmp_unsigned("<", magnitude, _all(wide, _SMALLEST_NORMAL_FP16))
    result = builder.select(is_small, subnormal, normal)
    overflows = builder.icmp_unsigned(">", result, _all(wide, _FP16_INFINITY))
    result = builder.select(overflows, _all(wide, _FP16_INFINITY), result)
    is_nan = builder.icmp_unsigned(">", magnitude, _all(wide, _F32_INFINITY))
    result = builder.select(is_nan, _all(wide, 0x7E00), result)
    return builder.trunc(builder.or_(result, sign), _like(value, _I16))


def _like(value: ir.Value, element: ir.Type) -> ir.Type:
    """The type of a value of that element: a vector of as many, or one."""
    kind = value.type
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _all(kind: ir.Type, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)
