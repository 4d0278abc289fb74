"""One step of the model: ids in, cache extended, logits out; every thread of the team runs it.

Each layer is h = h + attention(ln_1(h)) + mlp(ln_1(h)), in four stages with a barrier after each:

    normalize        hidden -> normed              a token is one piece of work
    project          normed -> qkv, inner          128 KB of weights
    attend_activate  qkv -> attended, inner -> inner   a few heads, or 16 groups of inner
    merge            attended, inner -> delta      128 KB of weights

What ln_f makes of the wanted ids are the states, and lm_head makes logits of those, or is left out.
The residual is added in the next normalize. The threads take pieces from a shared counter, and no
sum is split between pieces, so the number of threads never shows in a result.
"""

from collections import namedtuple

import numpy as np
from numba import (
    carray,
    cfunc,
    float32,
    from_dtype,
    int8,
    int32,
    int64,
    njit,
    types,
    uint8,
    uint16,
)

from codegen_cli.kernels.activations import activate
from codegen_cli.kernels.attention import attend, attend_four, remember
from codegen_cli.kernels.matmul import F16, INT4, INT8, matmul_f16, matmul_int4, matmul_int8
from codegen_cli.kernels.pointwise import (
    embed_f16,
    embed_int8,
    layer_norm,
    quantize_group,
    rotate,
)
from codegen_cli.kernels.step_table import LAYER, STEP
from codegen_cli.kernels.threading_primitives import (
    BARRIER_SLOTS,
    atomic_add,
    pointer_to,
    wait_for_all,
)
from codegen_cli.kernels.vectors import LANES, load_f32, store_f32

_GROUP = 32
_PIECE_BYTES = 131072  # of weights: long enough to hide the counter, short enough to balance
_PIECE_GROUPS = 16  # of inner activations

_layer = from_dtype(LAYER)
_step = from_dtype(STEP)
_compile = njit(nogil=True, error_model="numpy")

# An ACTIVATIONS record with its addresses turned into arrays.
_Activations = namedtuple("_Activations", "values codes scales sums")

# What a thread needs in every stage: its number, its scratch, and what it shares with the others.
_Worker = namedtuple("_Worker", "thread tile scores counters")


@_compile
def _floats(address, shape):
    return carray(pointer_to(address, float32), shape)


@_compile
def _activations(record, n_tokens):
    n_groups = record.n // _GROUP
    return _Activations(
        _floats(record.values, (n_tokens, record.n)),
        carray(pointer_to(record.codes, int8), (n_groups, n_tokens * _GROUP)),
        _floats(record.scales, (n_groups, n_tokens)),
        carray(pointer_to(record.sums, int32), (n_groups, n_tokens)),
    )


@_compile
def _last_states(step):
    """Where ln_f of the wanted ids goes: values to the caller's array, the rest to normed's."""
    normed = _activations(step.normed, step.n_wanted)
    states = _floats(step.states, (step.n_wanted, step.normed.n))
    return _Activations(states, normed.codes, normed.scales, normed.sums)


@_compile
def _worker(step, thread):
    tiles = _floats(step.tiles, (step.n_threads, step.n_tokens * LANES))
    scores = _floats(step.scores, (step.n_threads, 4, step.capacity + LANES))
    counters = carray(pointer_to(step.counters, int64), ((3 * step.n_layer + 1) * 8,))
    return _Worker(thread, tiles[thread], scores[thread], counters)


@_compile
def _quantize_groups(x, first_group, last_group):
    for token in range(x.values.shape[0]):
        for group in range(first_group, last_group):
            quantize_group(
                x.values[token],
                group * _GROUP,
                x.codes[group],
                x.scales[group],
                x.sums[group],
                token,
            )


@_compile
def _matmul_block(out, matrix, block, x, tile, accumulate):
    """16 rows of matrix @ x; the format is the matrix's own."""
    n_weights = matrix.n_blocks * matrix.n_groups * LANES * _GROUP
    if matrix.format == F16:
        weights = carray(pointer_to(matrix.codes, uint16), (n_weights,))
        matmul_f16(out, block, weights, x.values, tile, accumulate)
        return
    codes = carray(pointer_to(matrix.codes, uint8), (n_weights,))
    scales = carray(pointer_to(matrix.scales, uint16), (n_weights // _GROUP,))
    if matrix.format == INT8:
        matmul_int8(out, block, codes, scales, x.codes, x.scales, x.sums, tile, accumulate)
    else:
        matmul_int4(out, block, codes, scales, x.codes, x.scales, x.sums, tile, accumulate)


@_compile
def _piece_blocks(matrix):
    """Blocks of 16 rows in one piece of work."""
    weights_bytes = matrix.n_groups * LANES * _GROUP  # in int8; near enough for the others
    if matrix.format == INT4:
        weights_bytes //= 2
    return max(1, _PIECE_BYTES // weights_bytes)


@_compile
def _embed(step, worker, hidden):
    ids = carray(pointer_to(step.ids, int64), (step.n_tokens,))
    n_weights = step.wte.n_blocks * step.wte.n_groups * LANES * _GROUP
    codes = carray(pointer_to(step.wte.codes, uint8), (n_weights,))
    weights = carray(pointer_to(step.wte.codes, uint16), (n_weights,))
    scales = carray(pointer_to(step.wte.scales, uint16), (n_weights // _GROUP,))
    token = worker.thread
    while token < step.n_tokens:  # a range by a variable step could raise, and no kernel may
        if step.wte.format == F16:
            embed_f16(hidden[token], ids[token], weights)
        else:
            embed_int8(hidden[token], ids[token], codes, scales)
        token += step.n_threads


@_compile
def _add_delta(hidden, delta, bias, n_embd):
    for i in range(n_embd):
        hidden[i] += delta[i] + bias[i]


@_compile
def _normalize(step, worker, hidden, delta, layer_index, normed, first_token):
    """normed = ln(hidden + what the layer before added); ln_f after the last layer."""
    layers = carray(pointer_to(step.layers, _layer), (step.n_layer,))
    if layer_index < step.n_layer:
        weight, bias = layers[layer_index].ln_1_weight, layers[layer_index].ln_1_bias
    else:
        weight, bias = step.ln_f_weight, step.ln_f_bias
    token = first_token + worker.thread
    while token < step.n_tokens:
        if layer_index > 0:
            bias_before = _floats(layers[layer_index - 1].fc_out_bias, (step.n_embd,))
            _add_delta(hidden[token], delta[token], bias_before, step.n_embd)
        row = normed.values[token - first_token]
        layer_norm(
            row,
            hidden[token],
            _floats(weight, (step.n_embd,)),
            _floats(bias, (step.n_embd,)),
            step.n_embd,
            float32(step.layer_norm_epsilon),
        )
        for group in range(normed.codes.shape[0]):
            quantize_group(
                row,
                group * _GROUP,
                normed.codes[group],
                normed.scales[group],
                normed.sums[group],
                token - first_token,
            )
        token += step.n_threads


@_compile
def _project(worker, counter, layer, normed, qkv, inner):
    """qkv = qkv_proj @ normed; inner = fc_in @ normed."""
    piece = _piece_blocks(layer.qkv_proj)
    n_blocks = layer.qkv_proj.n_blocks + layer.fc_in.n_blocks
    while True:
        first = atomic_add(worker.counters, counter, piece)
        if first >= n_blocks:
            return
        for block in range(first, min(first + piece, n_blocks)):
            if block < layer.qkv_proj.n_blocks:
                _matmul_block(qkv, layer.qkv_proj, block, normed, worker.tile, False)
            else:
                fc_in_block = block - layer.qkv_proj.n_blocks
                _matmul_block(inner.values, layer.fc_in, fc_in_block, normed, worker.tile, False)


@_compile
def _attend_head(step, worker, layer_index, head, qkv, attended):
    """Rotate, remember and attend for every token of one head."""
    head_dim, rotary_half = step.head_dim, step.rotary_dim // 2
    n_keys = step.capacity * head_dim
    n_values = step.capacity * ((head_dim + LANES - 1) // LANES * LANES)
    heads = (step.n_layer, step.n_head)
    keys = carray(pointer_to(step.keys, uint16), (heads[0], heads[1], n_keys))[layer_index, head]
    values = carray(pointer_to(step.values, uint16), (heads[0], heads[1], n_values))
    values = values[layer_index, head]
    cosines = _floats(step.cosines, (step.capacity, rotary_half))
    sines = _floats(step.sines, (step.capacity, rotary_half))
    scale = float32(1) / np.sqrt(float32(head_dim))
    start = head * 3 * head_dim
    for token in range(step.n_tokens):
        position = step.n_past + token
        query = qkv[token, start : start + head_dim]
        key = qkv[token, start + head_dim : start + 2 * head_dim]
        value = qkv[token, start + 2 * head_dim : start + 3 * head_dim]
        rotate(query, cosines[position], sines[position])
        rotate(key, cosines[position], sines[position])
        remember(keys, values, position, key, value)
        for i in range(head_dim):
            query[i] *= scale
    first, last = head * head_dim, (head + 1) * head_dim
    in_fours = step.n_tokens // 4 * 4
    for token in range(0, in_fours, 4):
        queries = (
            qkv[token, start : start + head_dim],
            qkv[token + 1, start : start + head_dim],
            qkv[token + 2, start : start + head_dim],
            qkv[token + 3, start : start + head_dim],
        )
        outs = (
            attended.values[token, first:last],
            attended.values[token + 1, first:last],
            attended.values[token + 2, first:last],
            attended.values[token + 3, first:last],
        )
        attend_four(outs, queries, keys, values, step.n_past + token + 1, worker.scores)
    for token in range(in_fours, step.n_tokens):
        query, out = qkv[token, start : start + head_dim], attended.values[token, first:last]
        attend(out, query, keys, values, step.n_past + token + 1, worker.scores[0])


@_compile
def _activate_groups(inner, bias, first_group, last_group, activation):
    """inner = f(inner + bias), then quantized; zeros pad bias to n_groups * 32."""
    for token in range(inner.values.shape[0]):
        start, end = first_group * _GROUP, last_group * _GROUP
        activate(inner.values[token], bias, start, end, activation)
    _quantize_groups(inner, first_group, last_group)


@_compile
def _heads_in_piece(head_dim, n_head):
    """The fewest heads whose outputs fill whole groups of 32, or all heads."""
    n_heads = 1
    while n_heads < n_head and n_heads * head_dim % _GROUP != 0:
        n_heads += 1
    return n_heads


@_compile
def _attend_activate(step, worker, counter, layer_index, layer, qkv, attended, inner):
    """attended = attention(qkv), by whole groups of 32 outputs; inner = f(inner + bias)."""
    heads = _heads_in_piece(step.head_dim, step.n_head)
    n_head_pieces = (step.n_head + heads - 1) // heads
    n_inner_groups = inner.codes.shape[0]
    n_pieces = n_head_pieces + (n_inner_groups + _PIECE_GROUPS - 1) // _PIECE_GROUPS
    bias = _floats(layer.fc_in_bias, (n_inner_groups * _GROUP,))
    while True:
        piece = atomic_add(worker.counters, counter, 1)
        if piece >= n_pieces:
            return
        if piece < n_head_pieces:
            first_head, last_head = piece * heads, min((piece + 1) * heads, step.n_head)
            for head in range(first_head, last_head):
                _attend_head(step, worker, layer_index, head, qkv, attended)
            last_group = (last_head * step.head_dim + _GROUP - 1) // _GROUP
            _quantize_groups(attended, first_head * step.head_dim // _GROUP, last_group)
        else:
            first_group = (piece - n_head_pieces) * _PIECE_GROUPS
            last_group = min(first_group + _PIECE_GROUPS, n_inner_groups)
            _activate_groups(inner, bias, first_group, last_group, step.activation)


@_compile
def _merge(worker, counter, layer, attended, inner, delta):
    """delta = out_proj @ attended + fc_out @ inner."""
    piece = _piece_blocks(layer.fc_out)
    while True:
        first = atomic_add(worker.counters, counter, piece)
        if first >= layer.fc_out.n_blocks:
            return
        for block in range(first, min(first + piece, layer.fc_out.n_blocks)):
            _matmul_block(delta, layer.out_proj, block, attended, worker.tile, False)
            _matmul_block(delta, layer.fc_out, block, inner, worker.tile, True)


@_compile
def _classify(step, worker, counter, normed, logits):
    """logits = lm_head @ normed + bias."""
    piece = _piece_blocks(step.lm_head)
    bias = _floats(step.lm_head_bias, (step.lm_head.n_blocks * LANES,))
    while True:
        first = atomic_add(worker.counters, counter, piece)
        if first >= step.lm_head.n_blocks:
            return
        for block in range(first, min(first + piece, step.lm_head.n_blocks)):
            _matmul_block(logits, step.lm_head, block, normed, worker.tile, False)
            for token in range(logits.shape[0]):
                row = logits[token]
                at = block * LANES
                store_f32(row, at, load_f32(row, at) + load_f32(bias, at))


@_compile
def _wait(step):
    """Wait for the other threads; say whether the step is cancelled."""
    barrier = carray(pointer_to(step.barrier, int64), (BARRIER_SLOTS,))
    cancel = carray(pointer_to(step.cancel, int64), (1,))
    return wait_for_all(barrier, step.n_threads, cancel, step.yield_thread)


@_compile
def _run(step, thread):
    worker = _worker(step, thread)
    layers = carray(pointer_to(step.layers, _layer), (step.n_layer,))
    hidden = _floats(step.hidden, (step.n_tokens, step.normed.n))
    delta = _floats(step.delta, (step.n_tokens, step.normed.n))
    qkv_rows = layers[0].qkv_proj.n_blocks * LANES
    qkv = _floats(step.qkv, (step.n_tokens, qkv_rows))
    normed = _activations(step.normed, step.n_tokens)
    attended = _activations(step.attended, step.n_tokens)
    inner = _activations(step.inner, step.n_tokens)

    _embed(step, worker, hidden)
    for index in range(step.n_layer):
        layer, counter = layers[index], 3 * index * 8
        _normalize(step, worker, hidden, delta, index, normed, 0)
        if _wait(step):
            return 1
        _project(worker, counter, layer, normed, qkv, inner)
        if _wait(step):
            return 1
        _attend_activate(step, worker, counter + 8, index, layer, qkv, attended, inner)
        if _wait(step):
            return 1
        _merge(worker, counter + 16, layer, attended, inner, delta)
        if _wait(step):
            return 1
    if step.n_wanted == 0:
        return 0
    first_token = step.n_tokens - step.n_wanted
    last = _last_states(step)
    _normalize(step, worker, hidden, delta, step.n_layer, last, first_token)
    if step.logits == 0:
        return 0
    if _wait(step):
        return 1
    logits = _floats(step.logits, (step.n_wanted, step.lm_head.n_blocks * LANES))
    _classify(step, worker, 3 * step.n_layer * 8, last, logits)
    return 0


@cfunc(int64(types.CPointer(_step), int64), error_model="numpy")
def run_step(step, thread):
    """Run thread `thread` of a step: 0 when done, 1 when cancelled. All threads must be started."""
    return _run(carray(step, 1)[0], thread)
