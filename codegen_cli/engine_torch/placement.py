"""A model and the devices to use -> which device each layer computes on."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from codegen_cli.engine_torch.devices import Device
from codegen_cli.engine_torch.kv_cache import cache_bytes
from quantize.description.config import ModelConfig
from quantize.description.formats import MATRIX_FORMATS
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile
from quantize.packed.sizes import packed_bytes

_LIBRARY_BYTES = 64_000_000


class Placement(NamedTuple):
    """The device of each layer, in order; wte is with the first, ln_f and lm_head with the last."""

    places: tuple[Device, ...]

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The same as PyTorch names them."""
        return tuple(place.device for place in self.places)

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(place.label for place in self.places))


def place(
    packed: PackedFile, devices: Sequence[Device], dtype: torch.dtype, workspace_bytes: int
) -> Placement:
    """Fill the devices with layers in order; a layer's cache for all positions lies beside it.

    workspace_bytes  that a step takes on each device

    Raises UserError, with the numbers, where they do not fit.
    """
    config = packed.config
    one_cache = cache_bytes(config, config.n_positions, dtype) // config.n_layer
    placed: list[Device] = []
    waiting = list(devices)
    taken = workspace_bytes
    for layer_bytes in _layer_bytes(packed):
        need = layer_bytes + one_cache
        while waiting and not _fits(waiting[0], taken + need):
            waiting.pop(0)
            taken = workspace_bytes
        if not waiting:
            raise _too_small(packed, devices, config.n_layer * one_cache, workspace_bytes)
        placed.append(waiting[0])
        taken += need
    return Placement(tuple(placed))


def workspace_bytes(config: ModelConfig, chunk: int) -> int:
    """Return what a step of `chunk` ids takes beside weights and caches: an estimate, from
    the sizes of its largest arrays, that was not compared with a GPU.
    """
    return chunk * (2 * config.n_inner + 12 * config.n_embd) * 4 + _LIBRARY_BYTES


def _layer_bytes(packed: PackedFile) -> Iterator[int]:
    """Yield the bytes of each layer's weights, the ends with the first and the last."""
    sizes: defaultdict[int, int] = defaultdict(int)
    last = packed.config.n_layer - 1
    for name, tensor in packed.tensors.items():
        layer = int(name.split(".")[1]) if name.startswith("h.") else last
        sizes[0 if name == "wte.weight" else layer] += len(tensor.payload)
    yield from (sizes[layer] for layer in range(packed.config.n_layer))


def _fits(device: Device, n_bytes: int) -> bool:
    return device.free_bytes is None or n_bytes <= device.free_bytes


def _too_small(
    packed: PackedFile, devices: Sequence[Device], caches: int, workspace: int
) -> UserError:
    free = sum(device.free_bytes or 0 for device in devices)
    weights = sum(len(tensor.payload) for tensor in packed.tensors.values())
    need = weights + caches + workspace * len(devices)
    smaller = [
        f"{format} needs {(packed_bytes(packed.config, format) + need - weights) / 1e9:.1f} GB"
        for format in MATRIX_FORMATS
        if packed_bytes(packed.config, format) < weights
        and packed_bytes(packed.config, format) + need - weights <= free
    ]
    return UserError(
        f"{packed.path} needs {need / 1e9:.1f} GB (weights {weights / 1e9:.1f}, keys and values "
        f"{caches / 1e9:.1f}), {free / 1e9:.1f} GB are free on "
        f"{', '.join(device.label for device in devices)}",
        f"In a smaller format it fits: {', '.join(smaller)}."
        if smaller
        else "Use a smaller model, name several devices, or --device cpu.",
    )
