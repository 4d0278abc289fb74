"""Each way to prefetch -> the bytes per second that a plain loop reads with it."""

import ctypes
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from codegen_cli.machine.prefetch import HINTS
from codegen_cli.measuring.read_limit import MemoryReader

_N_ROUNDS = 5

# The sum of the numbers in some lines of 64 bytes. Each is asked for so far ahead, as kernels do.
_LOOP = """
define i32 @read_{hint}(ptr %data, i64 %n_lines, i64 %bytes_ahead) {{
start:
  br label %loop
loop:
  %line = phi i64 [ 0, %start ], [ %next, %loop ]
  %sums = phi <16 x i32> [ zeroinitializer, %start ], [ %more, %loop ]
  %at = getelementptr <16 x i32>, ptr %data, i64 %line
  %ahead = getelementptr i8, ptr %at, i64 %bytes_ahead
  {prefetch}
  %numbers = load <16 x i32>, ptr %at, align 4
  %more = add <16 x i32> %sums, %numbers
  %next = add i64 %line, 1
  %is_end = icmp eq i64 %next, %n_lines
  br i1 %is_end, label %end, label %loop
end:
  %sum = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %more)
  ret i32 %sum
}}
"""
_DECLARATIONS = """
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
"""
_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def bytes_per_second_by_hint(reader: MemoryReader, bytes_ahead: int) -> dict[str, float]:
    """Read a reader's array in every way, in turn, for a second; return the medians.

    bytes_ahead  how far ahead each way asks
    """
    with _Loops() as loops:
        speeds: dict[str, list[float]] = {hint: [] for hint in HINTS}
        for _ in range(_N_ROUNDS):
            for hint in HINTS:
                speeds[hint].append(reader.bytes_per_second(loops.reader(hint, bytes_ahead)))
        return {hint: median(each) for hint, each in speeds.items()}


class _Loops:
    """The loops as machine code for this CPU. A context manager: it holds the code."""

    def __enter__(self) -> "_Loops":
        from llvmlite import binding

        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        module = binding.parse_assembly(_DECLARATIONS + "".join(map(_loop, HINTS)))
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten()
        )
        self._engine = binding.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        return self

    def __exit__(self, *error: Any) -> None:
        self._engine.close()

    def reader(self, hint: str, bytes_ahead: int) -> Callable[[npt.NDArray[np.int32]], int]:
        """Return what reads an array of whole lines, without the GIL."""
        read = _PROTOTYPE(self._engine.get_function_address(f"read_{hint}"))
        return lambda numbers: int(read(numbers.ctypes.data, numbers.nbytes // 64, bytes_ahead))


def _loop(hint: str) -> str:
    locality = HINTS[hint]
    call = f"call void @llvm.prefetch.p0(ptr %ahead, i32 0, i32 {locality}, i32 1)"
    return _LOOP.format(hint=hint, prefetch="" if locality is None else call)
