"""One step of the model: ids of texts in, caches extended, logits out; all threads run it.

Each layer is h = h + attention(ln_1(h)) + mlp(ln_1(h)), in four stages with a barrier after each:

    normalize      hidden -> normed             a token is one piece of work
    project        normed -> qkv                128 KB of weights
    attend_expand  qkv -> attended              a few heads
                   normed -> inner              128 KB of weights, then the activation function
    merge          attended, inner -> delta     128 KB of weights

Only attention knows whose rows are whose: all else reads the weights once for all rows.

What ln_f makes of the wanted ids are the states. lm_head makes logits of those, or what their
log-probabilities need, or is left out.
The residual is added in the next normalize. Who takes a piece never shows in a result, as no sum is
split between pieces.

What the stages hand on, of n_tokens ids at a time:

    hidden    [n_tokens, n_embd padded]     f32  the residual stream
    delta     [n_tokens, n_embd padded]     f32  what a layer adds to it
    qkv       [n_tokens, rows of qkv_proj]  f32  [n_head][q, k, v][head_dim]
    normed, attended, inner                      step_arrays.Activations, as a product takes them
    logits    [n_wanted, rows of lm_head]   f32
    summaries [n_wanted, spans of lm_head]       step_table.SUMMARY

`step` is a STEP record, `layer` a LAYER record, `thread` which of step.n_threads this is and
`counter` which of step.counters tells what is taken.
"""

import numpy as np
from numba import carray, cfunc, float32, from_dtype, int64, njit, types

from codegen_cli.kernels.activations import activate
from codegen_cli.kernels.attention import QUERIES, HeadCache, attend, attend_several, remember
from codegen_cli.kernels.likelihood import summarize
from codegen_cli.kernels.matmul import BLOCK_BANDS, matmul
from codegen_cli.kernels.pieces import Work, ceil_div, take, wait
from codegen_cli.kernels.pointwise import add, embed, layer_norm, rotate
from codegen_cli.kernels.step_arrays import (
    activations_of,
    attention_scratch_of,
    floats,
    last_states_of,
    quantize_groups,
    span_of,
)
from codegen_cli.kernels.step_table import (
    BLOCK,
    COUNTERS,
    LAYER,
    PIECE_BYTES,
    SPAN,
    STEP,
    SUMMARY,
    TEXT,
)
from codegen_cli.kernels.threading_primitives import pointer_to
from codegen_cli.kernels.vectors import load_f32, store_f32
from quantize.description.formats import BAND, GROUP, LANES

# What has a counter of its own in each layer; lm_head has the one after the last layer's.
_PROJECT, _ATTEND, _EXPAND, _MERGE = range(COUNTERS)

_BANDS_IN_GROUP = GROUP // BAND  # the rows of one product are the columns of the next

_BANDS_IN_SPAN = SPAN // BAND

_layer = from_dtype(LAYER)
_summary = from_dtype(SUMMARY)
_text = from_dtype(TEXT)
_step = from_dtype(STEP)
_compile = njit(nogil=True, error_model="numpy")


@_compile
def _bands_in_piece(matrix):
    """As many whole blocks of bands as PIECE_BYTES hold, at least one."""
    block_bytes = BLOCK_BANDS * matrix.n_groups * matrix.group_bytes
    return max(1, PIECE_BYTES // block_bytes) * BLOCK_BANDS


@_compile
def _embed(step, thread, hidden):
    """hidden = the ids' rows of wte."""
    ids = carray(pointer_to(step.ids, int64), (step.n_tokens,))
    token = thread
    while token < step.n_tokens:  # a range by a variable step could raise, and no kernel may
        embed(hidden[token], ids[token], step.wte)
        token += step.n_threads


@_compile
def _add_delta(step, layer_index, hidden, delta, token):
    """Add what the layer before, if there is one, makes of a token."""
    if layer_index > 0:
        layers = carray(pointer_to(step.layers, _layer), (step.n_layer,))
        bias = floats(layers[layer_index - 1].fc_out_bias, (step.n_embd,))
        add(hidden[token], delta[token], bias, step.n_embd)


@_compile
def _norm_row(step, x, row, values, weight, bias):
    """A row of x = ln(values), quantized, too."""
    weight, bias = floats(weight, (step.n_embd,)), floats(bias, (step.n_embd,))
    epsilon = float32(step.layer_norm_epsilon)
    layer_norm(x.values[row], values, weight, bias, step.n_embd, epsilon)
    quantize_groups(x, row, 0, x.codes.shape[0])


@_compile
def _normalize(step, thread, hidden, delta, layer_index, layer, normed):
    """normed = ln_1(hidden + what the layer before added)."""
    token = thread
    while token < step.n_tokens:
        _add_delta(step, layer_index, hidden, delta, token)
        _norm_row(step, normed, token, hidden[token], layer.ln_1_weight, layer.ln_1_bias)
        token += step.n_threads


@_compile
def _normalize_last(step, thread, hidden, delta, last):
    """last = ln_f(hidden + what the last layer added), of the wanted ids."""
    wanted = carray(pointer_to(step.wanted, int64), (step.n_wanted,))
    row = thread
    while row < step.n_wanted:
        _add_delta(step, step.n_layer, hidden, delta, wanted[row])
        _norm_row(step, last, row, hidden[wanted[row]], step.ln_f_weight, step.ln_f_bias)
        row += step.n_threads


@_compile
def _project(step, thread, counter, layer, normed, qkv):
    """qkv = qkv_proj @ normed."""
    matrix = layer.qkv_proj
    work = Work(counter, matrix.n_bands, _bands_in_piece(matrix))
    first, end = take(step, thread, work)
    while first < end:
        matmul(qkv, first, end, matrix, normed, False)
        first, end = take(step, thread, work)


@_compile
def _attend_text(step, thread, text, cache, head, qkv, attended):
    """Rotate, remember and attend for every token of one text and head."""
    head_dim, rotary_half = step.head_dim, step.rotary_dim // 2
    cosines = floats(step.cosines, (step.capacity, rotary_half))
    sines = floats(step.sines, (step.capacity, rotary_half))
    scratch = attention_scratch_of(step, thread)
    scale = float32(1) / np.sqrt(float32(head_dim))
    start, end = head * 3 * head_dim, text.first + text.n_tokens
    before = text.n_past - text.first  # from a token's number to its position
    for token in range(text.first, end):
        position = before + token
        query = qkv[token, start : start + head_dim]
        key = qkv[token, start + head_dim : start + 2 * head_dim]
        value = qkv[token, start + 2 * head_dim : start + 3 * head_dim]
        rotate(query, cosines[position], sines[position])
        rotate(key, cosines[position], sines[position])
        remember(cache, position, key, value)
        for i in range(head_dim):
            query[i] *= scale
    out, first, token = attended.values, head * head_dim, text.first
    while token + QUERIES <= end:
        attend_several(out, first, qkv, token, start, cache, before + token + 1, scratch)
        token += QUERIES
    while token < end:
        query, place = qkv[token, start : start + head_dim], out[token, first : first + head_dim]
        attend(place, query, cache, before + token + 1, scratch)
        token += 1


@_compile
def _attend_head(step, thread, layer_index, head, qkv, attended):
    """Attend for every token of one head, text by text."""
    texts = carray(pointer_to(step.texts, _text), (step.n_texts,))
    head_dim = step.head_dim
    head_numbers = BLOCK * (head_dim + ceil_div(head_dim, LANES) * LANES)
    place = (layer_index * step.n_head + head) * head_numbers
    for index in range(step.n_texts):
        text = texts[index]
        n_blocks = ceil_div(text.n_past + text.n_tokens, BLOCK)
        blocks = carray(pointer_to(text.blocks, int64), (n_blocks,))
        cache = HeadCache(blocks, place, head_dim)
        _attend_text(step, thread, text, cache, head, qkv, attended)


@_compile
def _heads_in_piece(head_dim, n_head):
    """The fewest heads whose outputs fill whole groups, or all heads."""
    n_heads = 1
    while n_heads < n_head and n_heads * head_dim % GROUP != 0:
        n_heads += 1
    return n_heads


@_compile
def _attend(step, thread, counter, layer_index, qkv, attended):
    """attended = attention(qkv), by whole groups of outputs."""
    n_heads = _heads_in_piece(step.head_dim, step.n_head)
    work = Work(counter, step.n_head, n_heads)
    first, end = take(step, thread, work)
    while first < end:
        for head in range(first, end):
            _attend_head(step, thread, layer_index, head, qkv, attended)
        first_group = first * step.head_dim // GROUP
        end_group = ceil_div(end * step.head_dim, GROUP)
        for token in range(step.n_tokens):
            quantize_groups(attended, token, first_group, end_group)
        first, end = take(step, thread, work)


@_compile
def _expand(step, thread, counter, layer, normed, inner, activation):
    """inner = f(fc_in @ normed + bias), by whole groups of outputs."""
    matrix, n_groups = layer.fc_in, inner.codes.shape[0]
    bias = floats(layer.fc_in_bias, (n_groups * GROUP,))  # zeros pad it
    in_piece = max(1, _bands_in_piece(matrix) // _BANDS_IN_GROUP)
    work = Work(counter, n_groups, in_piece)
    first, end = take(step, thread, work)
    while first < end:
        end_band = min(end * _BANDS_IN_GROUP, matrix.n_bands)
        matmul(inner.values, first * _BANDS_IN_GROUP, end_band, matrix, normed, False)
        for token in range(inner.values.shape[0]):
            activate(inner.values[token], bias, first * GROUP, end * GROUP, activation)
            quantize_groups(inner, token, first, end)
        first, end = take(step, thread, work)


@_compile
def _attend_expand(step, thread, counter, layer_index, layer, normed, qkv, attended, inner):
    """Attention, and the first half of the MLP.

    One thread in two begins with attention, which computes, the others with the matrix, which
    keeps memory busy.
    """
    if thread % 2 == 0:
        _attend(step, thread, counter + _ATTEND, layer_index, qkv, attended)
    _expand(step, thread, counter + _EXPAND, layer, normed, inner, step.activation)
    if thread % 2 != 0:
        _attend(step, thread, counter + _ATTEND, layer_index, qkv, attended)


@_compile
def _merge(step, thread, counter, layer, attended, inner, delta):
    """delta = out_proj @ attended + fc_out @ inner."""
    matrix = layer.fc_out
    work = Work(counter, matrix.n_bands, _bands_in_piece(matrix))
    first, end = take(step, thread, work)
    while first < end:
        matmul(delta, first, end, layer.out_proj, attended, False)
        matmul(delta, first, end, matrix, inner, True)
        first, end = take(step, thread, work)


@_compile
def _classify(step, thread, counter, normed, logits):
    """logits = lm_head @ normed + bias."""
    matrix, n_rows = step.lm_head, logits.shape[1]
    bias = floats(step.lm_head_bias, (n_rows,))
    work = Work(counter, matrix.n_bands, _bands_in_piece(matrix))
    first, end = take(step, thread, work)
    while first < end:
        matmul(logits, first, end, matrix, normed, False)
        for token in range(logits.shape[0]):
            row = logits[token]
            for at in range(first * BAND, end * BAND, LANES):
                store_f32(row, at, load_f32(row, at) + load_f32(bias, at))
        first, end = take(step, thread, work)


@_compile
def _summarize(step, thread, counter, normed):
    """summaries of lm_head @ normed + bias; a span of the vocabulary is a piece of work."""
    matrix = step.lm_head
    n_rows, n_spans = matrix.n_bands * BAND, ceil_div(matrix.n_bands, _BANDS_IN_SPAN)
    bias, never = floats(step.lm_head_bias, (n_rows,)), floats(step.never, (n_rows,))
    targets = carray(pointer_to(step.targets, int64), (step.n_wanted,))
    summaries = carray(pointer_to(step.summaries, _summary), (step.n_wanted, n_spans))
    work = Work(counter, n_spans, 1)
    span, taken = take(step, thread, work)
    while span < taken:
        first, end = span * SPAN, min((span + 1) * SPAN, step.vocab_size)
        logits = span_of(step, thread, first)
        matmul(logits, first // BAND, ceil_div(end, BAND), matrix, normed, False)
        for token in range(step.n_wanted):
            summary, row = summaries[token, span], logits[token]
            summarize(summary, row, bias, never, first, end, targets[token])
        span, taken = take(step, thread, work)


@_compile
def _run(step, thread):
    layers = carray(pointer_to(step.layers, _layer), (step.n_layer,))
    hidden = floats(step.hidden, (step.n_tokens, step.normed.n))
    delta = floats(step.delta, (step.n_tokens, step.normed.n))
    qkv = floats(step.qkv, (step.n_tokens, layers[0].qkv_proj.n_bands * BAND))
    normed = activations_of(step.normed, step.n_tokens)
    attended = activations_of(step.attended, step.n_tokens)
    inner = activations_of(step.inner, step.n_tokens)

    _embed(step, thread, hidden)
    for index in range(step.n_layer):
        layer, counter = layers[index], COUNTERS * index
        _normalize(step, thread, hidden, delta, index, layer, normed)
        if wait(step):
            return 1
        _project(step, thread, counter + _PROJECT, layer, normed, qkv)
        if wait(step):
            return 1
        _attend_expand(step, thread, counter, index, layer, normed, qkv, attended, inner)
        if wait(step):
            return 1
        _merge(step, thread, counter + _MERGE, layer, attended, inner, delta)
        if wait(step):
            return 1
    if step.n_wanted == 0:
        return 0
    last = last_states_of(step)
    _normalize_last(step, thread, hidden, delta, last)
    if step.logits == 0 and step.summaries == 0:
        return 0
    if wait(step):
        return 1
    counter = COUNTERS * step.n_layer
    if step.summaries != 0:
        _summarize(step, thread, counter, last)
        return 0
    logits = floats(step.logits, (step.n_wanted, step.lm_head.n_bands * BAND))
    _classify(step, thread, counter, last, logits)
    return 0


@cfunc(int64(types.CPointer(_step), int64), error_model="numpy")
def run_step(step, thread):
    """Run thread `thread` of a step: 0 when done, 1 when cancelled. All threads must be started."""
    return _run(carray(step, 1)[0], thread)
