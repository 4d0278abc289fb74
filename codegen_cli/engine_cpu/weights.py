"""A packed file -> the table rows through which the kernels reach its memory-mapped payloads."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from codegen_cli.kernels.step_table import LAYER, MATRIX
from quantize.description.formats import GROUP, MATRIX_FORMATS, MatrixFormat, bands_of, groups_of
from quantize.files.errors import UserError
from quantize.packed.layout import codes_bytes
from quantize.packed.packed_file import PackedFile, PackedTensor


class Weights:
    """Read-only views of a packed file, addressed for the kernels.

    layers               LAYER [n_layer]
    wte, lm_head         MATRIX
    ln_f_weight, ln_f_bias, lm_head_bias   f32

    Nothing is copied but the fc_in biases whose length is no multiple of 32. Raises UserError for
    a wte.weight in int4, which no file of `codegen quantize` has.
    """

    def __init__(self, packed: PackedFile) -> None:
        self._tensors = packed.tensors
        _judge_embedding(packed)
        self._kept: list[npt.NDArray[np.generic]] = []  # addressed arrays that nobody else holds
        self.wte = self._matrix("wte.weight")
        # One tensor serves a tied embedding and head.
        tied = packed.config.tie_word_embeddings
        self.lm_head = self._matrix("wte.weight" if tied else "lm_head.weight")
        self.lm_head_bias = self._vector("lm_head.bias")
        self.ln_f_weight, self.ln_f_bias = self._vector("ln_f.weight"), self._vector("ln_f.bias")
        self.layers = np.zeros(packed.config.n_layer, LAYER)
        for index in range(packed.config.n_layer):
            self._fill_layer(self.layers[index], f"h.{index}.")

    def _fill_layer(self, row: np.void, prefix: str) -> None:
        for field, name in (
            ("qkv_proj", "attn.qkv_proj.weight"),
            ("fc_in", "mlp.fc_in.weight"),
            ("out_proj", "attn.out_proj.weight"),
            ("fc_out", "mlp.fc_out.weight"),
        ):
            row[field] = self._matrix(prefix + name)
        for field, name in (
            ("ln_1_weight", "ln_1.weight"),
            ("ln_1_bias", "ln_1.bias"),
            ("fc_in_bias", "mlp.fc_in.bias"),
            ("fc_out_bias", "mlp.fc_out.bias"),
        ):
            row[field] = self._vector(prefix + name).ctypes.data

    def _matrix(self, name: str) -> Any:
        """Return the MATRIX row of a packed matrix."""
        tensor: PackedTensor = self._tensors[name]
        n_out, n_in = tensor.shape
        address = tensor.payload.ctypes.data
        stored = MATRIX_FORMATS[cast(MatrixFormat, tensor.format)]
        scales = address + codes_bytes(tensor.format, tensor.shape) if stored.has_scales else 0
        row = np.zeros(1, MATRIX)[0]
        row["format"] = stored.number
        row["codes"], row["scales"] = address, scales
        row["n_bands"], row["n_groups"] = bands_of(n_out), groups_of(n_in)
        row["group_bytes"] = stored.group_bytes
        return row

    def _vector(self, name: str) -> npt.NDArray[np.float32]:
        """Return a packed vector, padded with zeros to a multiple of 32."""
        tensor: PackedTensor = self._tensors[name]
        n_padded = groups_of(tensor.shape[0]) * GROUP
        values = tensor.payload.view(np.float32)
        if len(values) < n_padded:
            values = np.pad(values, (0, n_padded - len(values)))
            self._kept.append(values)
        return values


def _judge_embedding(packed: PackedFile) -> None:
    """Refuse what the kernels would read beyond: single rows are looked up in wte.weight."""
    format = packed.tensors["wte.weight"].format
    formats = [name for name, stored in MATRIX_FORMATS.items() if stored.can_embed]
    if format not in formats:
        raise UserError(
            f"{packed.path}: wte.weight is {format}, need {' or '.join(formats)}",
            "The file was made by another program; quantize the checkpoint again.",
        )
