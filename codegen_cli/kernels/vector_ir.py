"""Vectors of 16 lanes as a type for numba, and the LLVM IR that operations on them are built of."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import models, register_model

from codegen_cli.machine import cpu
from quantize.description.formats import LANES

# numba compiles for what LLVM tells of this CPU, which is not all that the kernels use.
if features := cpu.features_for_numba():
    config.CPU_FEATURES = features  # type: ignore[attr-defined]

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32 = ir.FloatType()
_ELEMENTS = {"i32": I32, "f32": F32}

STAND_IN = "elsewhere."
"""What the names of intrinsic functions begin with while they stand for those of another CPU."""

IN_ORDER = f"{STAND_IN}in_order."
"""And those for empty assembly: then follow the register, how many of them, and what they hold."""

_OF_CPUS = ("llvm.x86.", "llvm.aarch64.")

Context = Any
"""numba's: what it knows of the machine that code is made for."""

Array = Any
"""numba's type of an array argument."""


class Vector(types.Type):
    """A SIMD value: `count` lanes of `element` (i32 or f32)."""

    def __init__(self, element: str, count: int) -> None:
        self.element = element
        self.count = count
        super().__init__(name=f"Vector({element}, {count})")

    @property
    def llvm(self) -> ir.VectorType:
        """LLVM's type of such a value."""
        return ir.VectorType(_ELEMENTS[self.element], self.count)


class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


register_model(Vector)(_VectorModel)

f32x16 = Vector("f32", LANES)
i32x16 = Vector("i32", LANES)


def constant(vector_type: ir.VectorType, value: float) -> ir.Constant:
    """A number in all lanes."""
    return ir.Constant(vector_type, [value] * vector_type.count)


def broadcast(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    """A scalar in `count` lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return pick_lanes(builder, first, [0] * count)


def lane_indices(lanes: Sequence[int]) -> ir.Constant:
    """Numbers of lanes, as a shuffle takes them."""
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


def pick_lanes(builder: ir.IRBuilder, vector: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """The given lanes as a vector of their own."""
    undefined = ir.Constant(vector.type, ir.Undefined)
    return builder.shuffle_vector(vector, undefined, lane_indices(lanes))


def parts_of(builder: ir.IRBuilder, vector: ir.Value, n_parts: int) -> list[ir.Value]:
    """Neighbouring lanes, in so many vectors of the same size."""
    count = vector.type.count // n_parts
    starts = range(0, vector.type.count, count)
    return [pick_lanes(builder, vector, range(start, start + count)) for start in starts]


def fold_halves(
    builder: ir.IRBuilder, vector: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """One scalar of all lanes: halves are combined until one lane is left."""
    while vector.type.count > 1:
        vector = combine(*parts_of(builder, vector, 2))
    return builder.extract_element(vector, ir.Constant(I32, 0))


def joined(builder: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
    """Vectors of equal length, as many as a power of two, one after another in one vector."""
    while len(parts) > 1:
        both = lane_indices(range(2 * parts[0].type.count))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(low, high, both) for low, high in pairs]
    return parts[0]


def interleaved(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Lanes of two vectors in turn, in one vector: a[0], b[0], a[1], ..."""
    n = a.type.count
    lanes = [lane for i in range(n) for lane in (i, n + i)]
    return builder.shuffle_vector(a, b, lane_indices(lanes))


def in_order(builder: ir.IRBuilder, register: str, values: Sequence[ir.Value]) -> list[ir.Value]:
    """The same values, which LLVM computes before whatever comes later, and keeps in registers.

    Left to itself it would finish one sum after another and so need all operands at once, far more
    than there are registers. The assembly between is empty.

    register  what inline assembly calls one that holds such a value
    values    of one type
    """
    types = [value.type for value in values]
    signature = ir.FunctionType(ir.LiteralStructType(types), types)
    if cpu.is_aimed_elsewhere():  # the register may be none of this CPU's
        lanes = types[0]
        name = f"{IN_ORDER}{register}.{len(values)}.{lanes.count}x{lanes.element.intrinsic_name}"
        binding.add_symbol(name, _address_of_nothing())
        function = cgutils.get_or_insert_function(builder.module, signature, name)
    else:
        function = ir.InlineAsm(signature, "", in_order_constraints(register, len(values)), True)
    result = builder.call(function, values)
    return [builder.extract_value(result, i) for i in range(len(values))]


def in_order_constraints(register: str, n: int) -> str:
    """What inline assembly is told of n registers that it takes and returns."""
    outputs, inputs = [f"={register}"] * n, [str(i) for i in range(n)]
    return ",".join([*outputs, *inputs, "~{memory}"])


def call_intrinsic(
    builder: ir.IRBuilder, name: str, result_type: ir.Type, *arguments: ir.Value
) -> ir.Value:
    """What an intrinsic function of LLVM, or of the CPU to compile for, returns.

    numba makes all that it compiles ready to run on this CPU. If another one is aimed at, its
    functions have stand-ins until the whole step is known: functions of no special meaning, which
    nobody will call.
    """
    is_foreign = cpu.is_aimed_elsewhere() and name.startswith(_OF_CPUS)
    if is_foreign:
        name = STAND_IN + name
        binding.add_symbol(name, _address_of_nothing())
    signature = ir.FunctionType(result_type, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    if is_foreign and not isinstance(result_type, ir.VoidType):
        function.attributes.add("readnone")  # as LLVM knows of the true ones
    return builder.call(function, arguments)


def _address_of_nothing() -> int | None:
    return ctypes.cast(ctypes.pythonapi.Py_FatalError, ctypes.c_void_p).value


class ArrayArgument:
    """An array as numba passes it to an intrinsic; offsets are in elements, nothing is checked."""

    def __init__(
        self, context: Context, builder: ir.IRBuilder, array_type: Array, array: ir.Value
    ) -> None:
        self._builder = builder
        parts = context.make_array(array_type)(context, builder, array)
        self._data, self._shape = parts.data, parts.shape

    def pointer(self, offset: ir.Value, llvm_type: ir.Type) -> ir.Value:
        """The address of array[offset], as that of an llvm_type."""
        pointer = self._builder.gep(self._data, [offset])
        return self._builder.bitcast(pointer, ir.PointerType(llvm_type))

    def load(self, offset: ir.Value, llvm_type: ir.Type) -> ir.Value:
        """The llvm_type that begins at array[offset]."""
        value = self._builder.load(self.pointer(offset, llvm_type))
        value.align = 1
        return value

    def store(self, offset: ir.Value, value: ir.Value) -> None:
        """Let a value begin at array[offset]."""
        self._builder.store(value, self.pointer(offset, value.type)).align = 1

    def length(self, dimension: int) -> ir.Value:
        """array.shape[dimension]."""
        return self._builder.extract_value(self._shape, dimension)
