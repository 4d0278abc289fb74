"""A config -> the tensors of a packed file with random weights: speed does not depend on values."""

import mmap
from collections.abc import Callable, Iterator

import numpy as np

from quantize.description.config import ModelConfig
from quantize.description.formats import Format
from quantize.description.tensor_map import TensorSpec, tensor_specs
from quantize.packed.layout import codes_bytes, payload_bytes, scales_bytes
from quantize.packed.packed_file import PackedTensor
from quantize.rounding.groups import Bytes


def random_tensors(
    config: ModelConfig, stored: Callable[[TensorSpec], Format]
) -> Iterator[PackedTensor]:
    """Yield every tensor of a model, in the format in which it is to be stored."""
    noise = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    for spec in tensor_specs(config):
        format = stored(spec)
        payload = _memory(payload_bytes(format, spec.shape))
        if spec.kind == "matrix":
            n_codes = codes_bytes(format, spec.shape)
            payload[:n_codes] = np.resize(noise, n_codes)
            # Any byte is a code. The high byte of an fp16 weight, and of a scale, makes it about
            # 2**-10, so that all sums stay finite.
            has_scales = scales_bytes(format, spec.shape) > 0
            payload[n_codes if has_scales else 0 :][1::2] = 0x14
        else:
            payload.view("<f4")[:] = 1.0
        yield PackedTensor(spec.name, format, spec.shape, payload, "")


def _memory(n_bytes: int) -> Bytes:
    """Return zeros in small pages, as those of a mapped file are; NumPy asks for huge ones."""
    return np.frombuffer(mmap.mmap(-1, n_bytes), np.uint8)
