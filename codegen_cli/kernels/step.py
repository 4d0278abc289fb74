"""One step of the model: ids in, cache extended, logits out; every thread of the team runs it.

Each layer is h = h + attention(ln_1(h)) + mlp(ln_1(h)), in four stages with a barrier after each:

    normalize      hidden -> normed             a token is one piece of work
    project        normed -> qkv                128 KB of weights
    attend_expand  qkv -> attended              a few heads
                   normed -> inner              128 KB of weights, then the activation function
    merge          attended, inner -> delta     128 KB of weights

What ln_f makes of the wanted ids are the states, and lm_head makes logits of those, or is left out.
The residual is added in the next normalize. Who takes a piece never shows in a result, as no sum is
split between pieces.
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
from codegen_cli.kernels.pointwise import embed_f16, embed_int8, layer_norm, quantize_group, rotate
from codegen_cli.kernels.step_table import COUNTERS, LAYER, STEP
from codegen_cli.kernels.threading_primitives import (
    BARRIER_SLOTS,
    atomic_add,
    pointer_to,
    wait_for_all,
)
from codegen_cli.kernels.vectors import LANES, load_f32, store_f32

_GROUP = 32
_PIECE_BYTES = 131072  # of weights: long enough to hide the counter, short enough to balance

# What has a counter of its own in each layer; lm_head has the one after the last layer's.
_PROJECT, _ATTEND, _EXPAND, _MERGE = range(COUNTERS)
_LINE = 8  # int64 in a cache line: threads that count apart should not share one

_layer = from_dtype(LAYER)
_step = from_dtype(STEP)
_compile = njit(nogil=True, error_model="numpy")

# An ACTIVATIONS record with its addresses turned into arrays.
_Activations = namedtuple("_Activations", "values codes scales sums")

# What a thread needs in every stage: its number, its scratch, and what it shares with the others.
_Worker = namedtuple("_Worker", "thread n_threads tile scores counters")


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
    n_counters = (COUNTERS * step.n_layer + 1) * step.n_threads
    counters = carray(pointer_to(step.counters, int64), (n_counters * _LINE,))
    return _Worker(thread, step.n_threads, tiles[thread], scores[thread], counters)


@_compile
def _take(worker, counter, n_pieces):
    """The number of a piece of work that is now this thread's, or -1 when all are taken.

    A thread has a share of neighbouring pieces, so that what it asks memory for ahead is what it
    reads next; when that is done it helps the others with theirs.
    """
    for turn in range(worker.n_threads):
        owner = (worker.thread + turn) % worker.n_threads
        first = n_pieces * owner // worker.n_threads
        end = n_pieces * (owner + 1) // worker.n_threads
        line = counter * worker.n_threads + owner
        piece = first + atomic_add(worker.counters, line * _LINE, 1)
        if piece < end:
            return piece
    return -1


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
def _matmul_band(out, matrix, band, x, tile, accumulate):
    """16 rows of matrix @ x; the format is the matrix's own."""
    n_weights = matrix.n_bands * matrix.n_groups * LANES * _GROUP
    if matrix.format == F16:
        weights = carray(pointer_to(matrix.codes, uint16), (n_weights,))
        matmul_f16(out, band, weights, x.values, tile, accumulate)
        return
    codes = carray(pointer_to(matrix.codes, uint8), (n_weights,))
    scales = carray(pointer_to(matrix.scales, uint16), (n_weights // _GROUP,))
    if matrix.format == INT8:
        matmul_int8(out, band, codes, scales, x.codes, x.scales, x.sums, tile, accumulate)
    else:
        matmul_int4(out, band, codes, scales, x.codes, x.scales, x.sums, tile, accumulate)


@_compile
def _ceil_div(a, b):
    return (a + b - 1) // b


@_compile
def _piece_bands(matrix):
    """Bands of 16 rows in one piece of work."""
    weights_bytes = matrix.n_groups * LANES * _GROUP  # in int8; near enough for the others
    if matrix.format == INT4:
        weights_bytes //= 2
    return max(1, _PIECE_BYTES // weights_bytes)


@_compile
def _embed(step, worker, hidden):
    ids = carray(pointer_to(step.ids, int64), (step.n_tokens,))
    n_weights = step.wte.n_bands * step.wte.n_groups * LANES * _GROUP
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
def _project(worker, counter, layer, normed, qkv):
    """qkv = qkv_proj @ normed."""
    bands = _piece_bands(layer.qkv_proj)
    while True:
        piece = _take(worker, counter, _ceil_div(layer.qkv_proj.n_bands, bands))
        if piece < 0:
            return
        first = piece * bands
        for band in range(first, min(first + bands, layer.qkv_proj.n_bands)):
            _matmul_band(qkv, layer.qkv_proj, band, normed, worker.tile, False)


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
def _heads_in_piece(head_dim, n_head):
    """The fewest heads whose outputs fill whole groups of 32, or all heads."""
    n_heads = 1
    while n_heads < n_head and n_heads * head_dim % _GROUP != 0:
        n_heads += 1
    return n_heads


@_compile
def _attend(step, worker, counter, layer_index, qkv, attended):
    """attended = attention(qkv), by whole groups of 32 outputs."""
    heads = _heads_in_piece(step.head_dim, step.n_head)
    while True:
        piece = _take(worker, counter, _ceil_div(step.n_head, heads))
        if piece < 0:
            return
        first, last = piece * heads, min((piece + 1) * heads, step.n_head)
        for head in range(first, last):
            _attend_head(step, worker, layer_index, head, qkv, attended)
        last_group = _ceil_div(last * step.head_dim, _GROUP)
        _quantize_groups(attended, first * step.head_dim // _GROUP, last_group)


@_compile
def _expand(worker, counter, layer, normed, inner, activation):
    """inner = f(fc_in @ normed + bias), by whole groups of 32 outputs."""
    bias = _floats(layer.fc_in_bias, (inner.codes.shape[0] * _GROUP,))  # zeros pad it
    groups = max(1, _piece_bands(layer.fc_in) // 2)  # a group is two bands of 16 rows
    while True:
        piece = _take(worker, counter, _ceil_div(inner.codes.shape[0], groups))
        if piece < 0:
            return
        first, last = piece * groups, min((piece + 1) * groups, inner.codes.shape[0])
        for band in range(2 * first, min(2 * last, layer.fc_in.n_bands)):
            _matmul_band(inner.values, layer.fc_in, band, normed, worker.tile, False)
        for token in range(inner.values.shape[0]):
            activate(inner.values[token], bias, first * _GROUP, last * _GROUP, activation)
        _quantize_groups(inner, first, last)


@_compile
def _attend_expand(step, worker, counter, layer_index, layer, normed, qkv, attended, inner):
    """Attention, and the first half of the MLP.

    One thread in two begins with attention, which computes, the others with the matrix, which
    keeps memory busy.
    """
    if worker.thread % 2 == 0:
        _attend(step, worker, counter + _ATTEND, layer_index, qkv, attended)
    _expand(worker, counter + _EXPAND, layer, normed, inner, step.activation)
    if worker.thread % 2 != 0:
        _attend(step, worker, counter + _ATTEND, layer_index, qkv, attended)


@_compile
def _merge(worker, counter, layer, attended, inner, delta):
    """delta = out_proj @ attended + fc_out @ inner."""
    bands = _piece_bands(layer.fc_out)
    while True:
        piece = _take(worker, counter, _ceil_div(layer.fc_out.n_bands, bands))
        if piece < 0:
            return
        first = piece * bands
        last = min(first + bands, layer.fc_out.n_bands)
        # One matrix after the other, as what is asked for ahead is of the same.
        for band in range(first, last):
            _matmul_band(delta, layer.out_proj, band, attended, worker.tile, False)
        for band in range(first, last):
            _matmul_band(delta, layer.fc_out, band, inner, worker.tile, True)


@_compile
def _classify(step, worker, counter, normed, logits):
    """logits = lm_head @ normed + bias."""
    bands = _piece_bands(step.lm_head)
    bias = _floats(step.lm_head_bias, (step.lm_head.n_bands * LANES,))
    while True:
        piece = _take(worker, counter, _ceil_div(step.lm_head.n_bands, bands))
        if piece < 0:
            return
        first = piece * bands
        for band in range(first, min(first + bands, step.lm_head.n_bands)):
            _matmul_band(logits, step.lm_head, band, normed, worker.tile, False)
            for token in range(logits.shape[0]):
                row = logits[token]
                at = band * LANES
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
    qkv_rows = layers[0].qkv_proj.n_bands * LANES
    qkv = _floats(step.qkv, (step.n_tokens, qkv_rows))
    normed = _activations(step.normed, step.n_tokens)
    attended = _activations(step.attended, step.n_tokens)
    inner = _activations(step.inner, step.n_tokens)

    _embed(step, worker, hidden)
    for index in range(step.n_layer):
        layer, counter = layers[index], COUNTERS * index
        _normalize(step, worker, hidden, delta, index, normed, 0)
        if _wait(step):
            return 1
        _project(worker, counter + _PROJECT, layer, normed, qkv)
        if _wait(step):
            return 1
        _attend_expand(step, worker, counter, index, layer, normed, qkv, attended, inner)
        if _wait(step):
            return 1
        _merge(worker, counter + _MERGE, layer, attended, inner, delta)
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
    logits = _floats(step.logits, (step.n_wanted, step.lm_head.n_bands * LANES))
    _classify(step, worker, COUNTERS * step.n_layer, last, logits)
    return 0


@cfunc(int64(types.CPointer(_step), int64), error_model="numpy")
def run_step(step, thread):
    """Run thread `thread` of a step: 0 when done, 1 when cancelled. All threads must be started."""
    return _run(carray(step, 1)[0], thread)
