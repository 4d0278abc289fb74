"""What threads that run one step together share: atomic counters, a barrier, memory by address."""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from codegen_cli.kernels.step_table import BARRIER_SLOTS, LINE_SLOTS
from codegen_cli.kernels.vector_ir import I32, call_intrinsic
from codegen_cli.machine.cpu import architecture

# Where in a barrier's array what is: a cache line each, so that spinning does not slow the threads
# that still work.
ARRIVED, GENERATION, VERDICT = range(0, BARRIER_SLOTS, LINE_SLOTS)

# A waiting thread spins this often (some ten microseconds) before it offers its core to others.
_SPINS_BEFORE_YIELD = 2000

# architecture -> the intrinsic function, and its operands. arm64's own `yield` does nothing on most
# cores; a barrier for instructions (15: of the whole system, the only kind) waits some ten
# nanoseconds, and is what Rust's hint::spin_loop takes.
_SPIN_HINTS = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.isb", (15,)),
}


def _slot(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


@intrinsic
def atomic_add(typing_context, array, index, amount):
    """Add to an int64 and return what was there before."""

    def generate(context, builder, signature, arguments):
        array, index, amount = arguments
        pointer = _slot(context, builder, signature.args[0], array, index)
        return builder.atomic_rmw("add", pointer, amount, "acq_rel")

    return types.int64(array, types.intp, types.int64), generate


@intrinsic
def atomic_load(typing_context, array, index):
    """array[index] of an int64 array, with all that was written before it was stored."""

    def generate(context, builder, signature, arguments):
        pointer = _slot(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(array, types.intp), generate


@intrinsic
def atomic_store(typing_context, array, index, value):
    """array[index] = value, an int64, after all that was written before."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        pointer = _slot(context, builder, signature.args[0], array, index)
        builder.store_atomic(value, pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


@intrinsic
def pointer_to(typing_context, address, dtype):
    """An integer address as a pointer to `dtype`, for numba.carray."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    # A number type as an argument is a NumberClass, a record type a TypeRef.
    pointee = dtype.dtype if isinstance(dtype, types.NumberClass) else dtype.instance_type
    return types.CPointer(pointee)(address, dtype), generate


@intrinsic
def _call_address(typing_context, address):
    """Call the C function `int f(void)` at an address."""

    def generate(context, builder, signature, arguments):
        function = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(arguments[0], ir.PointerType(function)), [])

    return types.int32(types.int64), generate


@intrinsic
def _spin_hint(typing_context):
    """Tell the core that this is a waiting loop, where it has an instruction for that."""

    def generate(context, builder, signature, arguments):
        if hint := _SPIN_HINTS.get(architecture()):
            name, operands = hint
            constants = [ir.Constant(I32, operand) for operand in operands]
            call_intrinsic(builder, name, ir.VoidType(), *constants)
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True, error_model="numpy")
def wait_for_all(barrier, n_threads, cancel, yield_address):
    """Return once all threads have arrived; say whether the step is cancelled.

    barrier        [BARRIER_SLOTS]  i64  zero before the first use
    cancel         [1]              i64  set by anyone at any time
    yield_address                   i64  of the C function that offers this core to another thread

    The last thread to arrive makes the barrier ready for the next use and lets the others go by
    raising GENERATION, which nobody can have done before this thread arrived. It alone reads
    `cancel`, so that all leave with the same answer.
    """
    generation = atomic_load(barrier, GENERATION)
    if atomic_add(barrier, ARRIVED, 1) == n_threads - 1:
        atomic_store(barrier, ARRIVED, 0)
        atomic_store(barrier, VERDICT, atomic_load(cancel, 0))
        atomic_store(barrier, GENERATION, generation + 1)
    else:
        spins = 0
        while atomic_load(barrier, GENERATION) == generation:
            spins += 1
            if spins < _SPINS_BEFORE_YIELD:
                _spin_hint()
            else:
                _call_address(yield_address)
    return atomic_load(barrier, VERDICT) != 0
