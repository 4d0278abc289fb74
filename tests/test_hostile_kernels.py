"""The kernels touch no byte outside the arrays they are given: each ends at a page that kills."""

import subprocess
import sys
from pathlib import Path

import pytest
from hostile import write_tiny_packed

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does"),
    pytest.mark.usefixtures("compiled_kernels"),
]

# Dimensions that fill no register, no group and no band.
SHAPES = {
    "tiny": {},
    "odd": {
        "n_embd": 40,
        "n_head": 4,
        "rotary_dim": 6,
        "n_inner": 50,
        "vocab_size": 285,
        "n_positions": 21,
    },
    "eight heads": {"n_embd": 48, "n_head": 8, "rotary_dim": 4, "n_inner": 33, "vocab_size": 259},
    "long heads": {"n_embd": 136, "n_head": 4, "rotary_dim": 34, "n_inner": 16, "n_layer": 2},
    "tied": {"n_embd": 24, "rotary_dim": 6, "n_inner": 96, "tie_word_embeddings": True},
}
FORMATS = ("int8", "int4", "f16")

SCRIPT = '''
import ctypes, dataclasses, mmap, sys
from pathlib import Path
import numpy as np
from codegen_cli.session.one_part import logits_of
from codegen_cli.engine_cpu import buffers, kv_cache
from codegen_cli.engine_cpu.compile import kernel_cache
from codegen_cli.engine_cpu.numba_engine import NumbaEngine
from quantize.packed.packed_file import read_packed_file

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
kept = []


def guarded(n_bytes, at_end):
    """Zeros between two pages that must not be touched: against the one at the end, or the start.

    64 bytes is the alignment that the kernels may count on.
    """
    n_pages = -(-max(n_bytes, 1) // PAGE)
    memory = mmap.mmap(-1, (n_pages + 2) * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    kept.append((memory, whole))
    for place in (0, (n_pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + place), PAGE, 0) == 0
    start = PAGE + (n_pages * PAGE - -(-n_bytes // 64) * 64 if at_end else 0)
    return whole[start : start + n_bytes]


def run(path, at_end):
    def zeros(shape, dtype):
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return guarded(n_bytes, at_end).view(dtype).reshape(shape)

    def new_block(cache):
        return zeros(cache._shape, np.uint16)

    buffers.aligned_zeros, kv_cache.KVCache._new_block = zeros, new_block
    packed = read_packed_file(path)
    tensors = {}
    for name, tensor in packed.tensors.items():
        payload = guarded(tensor.payload.size, at_end)
        payload[:] = tensor.payload
        tensors[name] = dataclasses.replace(tensor, payload=payload)
    packed = dataclasses.replace(packed, tensors=tensors)
    running = NumbaEngine(packed, STEP, 2)
    try:
        last = packed.config.vocab_size - 1
        ids = [0, last, *range(packed.config.n_positions)][: packed.config.n_positions - 2]
        cache = running.new_cache()
        whole = logits_of(running, ids, cache)
        logits_of(running, [last], cache)
        logits_of(running, [0], cache)
        plain = running.new_cache()
        single = np.concatenate([logits_of(running, [each], plain) for each in ids])
        assert np.array_equal(whole.view(np.uint32), single.view(np.uint32))
    finally:
        running.close()


STEP = kernel_cache.load_step()
for argument in sys.argv[1:]:
    for at_end in (True, False):
        print(argument, at_end, flush=True)
        run(Path(argument), at_end)
print("done")
'''


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("guarded")
    return [
        str(write_tiny_packed(directory / f"{shape}.{format}", format, **SHAPES[shape]))
        for shape in SHAPES
        for format in FORMATS
    ]


def test_no_kernel_reads_or_writes_outside_its_arrays(files: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        timeout=300,
        check=False,
    )
    # A negative code is the signal that ended it; the last line names the file it was at.
    assert result.returncode == 0, result.stdout[-200:] + result.stderr[-2000:]
    assert result.stdout.endswith("done\n")
