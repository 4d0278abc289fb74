"""CodeGen in PyTorch: ids -> hidden states -> logits, for the rows of several texts at once.

The residual stream, norms, softmax and logits are float32; products take their input in the compute
dtype, and keys and values are stored in it. Shapes stand at the right.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from codegen_cli.engine_torch.kv_cache import Slot
from codegen_cli.engine_torch.products import Products
from codegen_cli.engine_torch.weights import LayerWeights, Weights
from quantize.description.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class TextRows(NamedTuple):
    """The rows of a step that are one text's.

    slot       where its keys and values are
    positions  [n] i64: where the keys and values of these rows go
    length     how many positions of the slot are looked at, those of these rows among them
    """

    rows: slice
    slot: Slot
    positions: Tensor
    length: int


class _TextView(NamedTuple):
    """A TextRows as the layers of one device see it.

    positions  [n] i64
    mask       [n, length] bool: which positions a row looks at
    """

    rows: slice
    slot: Slot
    positions: Tensor
    mask: Tensor


class _StepView(NamedTuple):
    """What the layers of one device share in a step; cosines and sines [n, 1, rotary_dim / 2]."""

    texts: list[_TextView]
    cosines: Tensor
    sines: Tensor


class Block:
    """h + attention(ln_1(h)) + mlp(ln_1(h))"""

    def __init__(
        self, index: int, weights: LayerWeights, config: ModelConfig, device: torch.device
    ) -> None:
        self.device = device
        self._index, self._weights, self._config = index, weights, config
        self._activation = ACTIVATIONS[config.activation_function]

    def __call__(self, h: Tensor, step: _StepView, dtype: torch.dtype, product: Products) -> Tensor:
        w = self._weights
        x = F.layer_norm(
            h, h.shape[-1:], w.ln_1_weight, w.ln_1_bias, self._config.layer_norm_epsilon
        ).to(dtype)  # [n, n_embd]
        attended = self._attention(product(w.qkv_proj, x), step, dtype)  # [n, n_embd]
        inner = self._activation(product(w.fc_in, x) + w.fc_in_bias).to(dtype)  # [n, n_inner]
        return h + product(w.out_proj, attended) + product(w.fc_out, inner) + w.fc_out_bias

    def _attention(self, qkv: Tensor, step: _StepView, dtype: torch.dtype) -> Tensor:
        q, k, v = qkv.unflatten(-1, (self._config.n_head, 3, -1)).unbind(2)  # [n, n_head, head_dim]
        q = _rotated(q, step.cosines, step.sines).to(dtype)
        k = _rotated(k, step.cosines, step.sines).to(dtype)
        v = v.to(dtype)
        attended = torch.empty_like(q)
        for rows, slot, positions, mask in step.texts:
            keys, values = slot.keys[self._index], slot.values[self._index]
            keys.index_copy_(1, positions, k[rows].transpose(0, 1))
            values.index_copy_(1, positions, v[rows].transpose(0, 1))
            length = mask.shape[1]
            attended[rows] = F.scaled_dot_product_attention(
                q[None, rows].transpose(1, 2),  # [1, n_head, n, head_dim]
                keys[None, :, :length],  # [1, n_head, length, head_dim]
                values[None, :, :length],
                attn_mask=mask,
            )[0].transpose(0, 1)  # [n, n_head, head_dim]
        return attended.flatten(1)


class Model:
    """wte -> n_layer x Block -> ln_f -> lm_head"""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        devices: Sequence[torch.device],
    ) -> None:
        """Take the device of each layer, where its weights are."""
        self._config, self._weights, self._product = config, weights, Products()
        layers = zip(weights.layers, devices, strict=True)
        self._blocks = [Block(i, each, config, device) for i, (each, device) in enumerate(layers)]
        self._devices = list(dict.fromkeys(devices))
        exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
        # Rounded to float32 as in transformers: at position 2000 a float64 angle differs by 1e-4.
        frequencies = 1 / 10000**exponents  # [rotary_dim / 2]
        self._frequencies = {device: frequencies.to(device) for device in self._devices}

    def prepare(self, dtype: torch.dtype) -> None:
        """Have products ready in a compute dtype; those of the head are always in float32."""
        self._product.admit(self._weights.of_layers(), dtype)
        self._product.admit([self._weights.lm_head], torch.float32)

    @property
    def first_device(self) -> torch.device:
        """Where ids and positions have to be."""
        return self._devices[0]

    def states(self, ids: Tensor, texts: Sequence[TextRows], dtype: torch.dtype) -> Tensor:
        """Append ids to the slots of their texts; return what ln_f gives for each.

        ids     [n] i64
        dtype   the compute dtype, which is also that of the slots
        result  [n, n_embd] f32
        """
        w, last = self._weights, self._devices[-1]
        steps = {device: self._step_view(texts, device) for device in self._devices}
        h = w.wte.rows(ids)  # [n, n_embd]
        for block in self._blocks:
            h = block(h.to(block.device), steps[block.device], dtype, self._product)
        epsilon = self._config.layer_norm_epsilon
        return F.layer_norm(h.to(last), h.shape[-1:], w.ln_f_weight, w.ln_f_bias, epsilon)

    def logits(self, states: Tensor) -> Tensor:
        """Return lm_head of hidden states, all in float32: [n, n_embd] -> [n, vocab_size].

        In float16 two logits of 8 to 16 can be the same where they differ by less than 0.008.
        """
        return self._product(self._weights.lm_head, states) + self._weights.lm_head_bias

    def _step_view(self, texts: Sequence[TextRows], device: torch.device) -> _StepView:
        views = []
        for rows, slot, positions, length in texts:
            own = positions.to(device)
            columns = torch.arange(length, device=device)
            views.append(_TextView(rows, slot, own, columns <= own[:, None]))
        all_positions = torch.cat([view.positions for view in views])
        angles = all_positions[:, None, None] * self._frequencies[device]
        return _StepView(views, angles.cos(), angles.sin())


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return x [n, n_head, head_dim] with its first rotary_dim values turned, pair by pair."""
    n_rotary = 2 * cosines.shape[-1]
    even, odd = x[..., :n_rotary].unflatten(-1, (-1, 2)).unbind(-1)  # [n, n_head, rotary_dim / 2]
    turned = torch.stack((even * cosines - odd * sines, odd * cosines + even * sines), -1)
    return torch.cat((turned.flatten(-2), x[..., n_rotary:]), -1)
