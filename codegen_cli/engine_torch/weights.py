"""A packed file -> its tensors on the devices of their layers, one after another."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from codegen_cli.engine_torch.packed_matrix import PackedMatrix
from quantize.packed.packed_file import PackedFile


class LayerWeights(NamedTuple):
    """One block's: matrices as packed, vectors f32."""

    ln_1_weight: Tensor
    ln_1_bias: Tensor
    qkv_proj: PackedMatrix
    fc_in: PackedMatrix
    fc_in_bias: Tensor
    out_proj: PackedMatrix
    fc_out: PackedMatrix
    fc_out_bias: Tensor


class Weights:
    """All of a model's: wte on the first layer's device, ln_f and lm_head on the last one's.

    The file is read through its memory map, a tensor at a time; on the CPU a tensor *is* its part
    of the map.
    """

    def __init__(self, packed: PackedFile, devices: Sequence[torch.device]) -> None:
        """Take the device of each layer."""
        self._packed = packed
        first, last = devices[0], devices[-1]
        self.wte = self._matrix("wte.weight", first)
        self.layers = [self._layer(f"h.{i}.", device) for i, device in enumerate(devices)]
        self.ln_f_weight = self._vector("ln_f.weight", last)
        self.ln_f_bias = self._vector("ln_f.bias", last)
        if not packed.config.tie_word_embeddings:
            self.lm_head = self._matrix("lm_head.weight", last)
        else:
            self.lm_head = self.wte if first == last else self._matrix("wte.weight", last)
        self.lm_head_bias = self._vector("lm_head.bias", last)

    def of_layers(self) -> Iterator[PackedMatrix]:
        """Yield every matrix of the layers."""
        for layer in self.layers:
            yield from (layer.qkv_proj, layer.fc_in, layer.out_proj, layer.fc_out)

    def _layer(self, prefix: str, device: torch.device) -> LayerWeights:
        def vector(name: str) -> Tensor:
            return self._vector(prefix + name, device)

        def matrix(name: str) -> PackedMatrix:
            return self._matrix(f"{prefix}{name}.weight", device)

        return LayerWeights(
            ln_1_weight=vector("ln_1.weight"),
            ln_1_bias=vector("ln_1.bias"),
            qkv_proj=matrix("attn.qkv_proj"),
            fc_in=matrix("mlp.fc_in"),
            fc_in_bias=vector("mlp.fc_in.bias"),
            out_proj=matrix("attn.out_proj"),
            fc_out=matrix("mlp.fc_out"),
            fc_out_bias=vector("mlp.fc_out.bias"),
        )

    def _matrix(self, name: str, device: torch.device) -> PackedMatrix:
        return PackedMatrix(self._packed.tensors[name], self._payload(name, device))

    def _vector(self, name: str, device: torch.device) -> Tensor:
        (n,) = self._packed.tensors[name].shape
        return self._payload(name, device).view(torch.float32)[:n]

    def _payload(self, name: str, device: torch.device) -> Tensor:
        """Return a tensor's bytes, u8 [n_bytes]."""
        with warnings.catch_warnings():
            # The map is read-only, and so is all that is done with these tensors.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(self._packed.tensors[name].payload).to(device)
