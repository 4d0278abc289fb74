"""The records that Python fills and a step reads: sizes, and addresses of arrays that Python owns.

numba_engine.py writes them and keeps the arrays alive; step.py turns each address back into an
array of the shape that stands beside it. `padded` means up to a multiple of 32 values.
"""

import numpy as np

from quantize.description.formats import BAND, LINE_BYTES

COUNTERS = 4
"""Kinds of work that each layer counts apart, see step.py."""

PIECE_BYTES = 131072
"""Of weights in a piece of work: long enough to hide the counter, short enough to balance."""

LINE_SLOTS = LINE_BYTES // 8
"""int64 numbers in a cache line: threads that write apart should not share one."""

BARRIER_SLOTS = 3 * LINE_SLOTS
"""int64 numbers of a barrier, see threading_primitives.py."""

MOST_QUERIES = 8
"""That attention takes at once, at most: for so many there is room."""

BLOCK = 128
"""Positions of a text whose keys and values lie together, see attention.py.

Each text leaves half a block empty in the middle: 5 MB with the 350M models, 53 MB with 16B. In
blocks of 64 a token after 2000 others took a tenth longer on an AMD Zen 3: runs of 2 KB are too
short for memory to be read at full speed.
"""

SPAN = 16 * BAND
"""Rows of lm_head that are summed up together, see likelihood.py."""

MATRIX = np.dtype(
    [
        ("format", "i8"),  # its number in MATRIX_FORMATS
        ("codes", "u8"),  # u8, or the fp16 weights
        ("scales", "u8"),  # u16 [n_bands * n_groups * 16]; 0 for f16
        ("n_bands", "i8"),  # of 16 rows
        ("n_groups", "i8"),  # of 32 columns
        ("group_bytes", "i8"),  # of the codes of one group of a band
    ]
)

LAYER = np.dtype(
    [
        ("ln_1_weight", "u8"),  # f32 [n_embd]
        ("ln_1_bias", "u8"),
        ("qkv_proj", MATRIX),  # rows [n_head][q, k, v][head_dim]
        ("fc_in", MATRIX),
        ("fc_in_bias", "u8"),  # f32 [n_inner]
        ("out_proj", MATRIX),
        ("fc_out", MATRIX),
        ("fc_out_bias", "u8"),  # f32 [n_embd]
    ],
    align=True,
)

# One float32 row a token, and the same quantized in groups of 32.
ACTIVATIONS = np.dtype(
    [
        ("n", "i8"),  # padded
        ("values", "u8"),  # f32 [n_tokens, n]
        ("codes", "u8"),  # i8  [n_groups, n_tokens * 32]
        ("scales", "u8"),  # f32 [n_groups, n_tokens]
        ("sums", "u8"),  # f32 [n_groups, n_tokens]
    ]
)

# What the log-probabilities of what follows a token need of one span of the vocabulary.
SUMMARY = np.dtype(
    [
        ("largest", "f4"),  # of all logits
        ("n_largest", "f4"),  # how many logits are as large
        ("sum", "f4"),  # of e**(logit - largest) over all others
        ("target", "f4"),  # the target's logit, if that is one of these rows
        ("likeliest", "f4"),  # the largest logit of an id that may be the likeliest
        ("likeliest_id", "i8"),  # the first that has it
    ],
    align=True,
)

# A text's ids among those of a step, and where its keys and values are.
TEXT = np.dtype(
    [
        ("first", "i8"),  # of the step's ids
        ("n_tokens", "i8"),
        ("n_past", "i8"),  # positions in the cache before them
        ("blocks", "u8"),  # i64 [n_blocks], addresses: see attention.py
    ]
)

STEP = np.dtype(
    [
        ("n_threads", "i8"),
        ("n_texts", "i8"),
        ("n_tokens", "i8"),  # ids in this call, of all texts
        ("n_wanted", "i8"),  # of so many of them states, and perhaps logits, are wanted
        ("capacity", "i8"),  # positions that the model sees, rounded up to 16
        ("n_layer", "i8"),
        ("n_head", "i8"),
        ("head_dim", "i8"),
        ("n_embd", "i8"),
        ("n_inner", "i8"),
        ("rotary_dim", "i8"),
        ("vocab_size", "i8"),
        ("activation", "i8"),  # activations.GELU_NEW, GELU, RELU, SILU or TANH
        ("layer_norm_epsilon", "f8"),
        ("layers", "u8"),  # LAYER [n_layer]
        ("wte", MATRIX),
        ("ln_f_weight", "u8"),  # f32 [n_embd]
        ("ln_f_bias", "u8"),
        ("lm_head", MATRIX),
        ("lm_head_bias", "u8"),  # f32 [rows of lm_head]
        ("cosines", "u8"),  # f32 [capacity, rotary_dim / 2]
        ("sines", "u8"),
        ("ids", "u8"),  # i64 [n_tokens]
        ("texts", "u8"),  # TEXT [n_texts]
        ("wanted", "u8"),  # i64 [n_wanted], which of the ids
        ("hidden", "u8"),  # f32 [n_tokens, n_embd padded], the residual stream
        ("delta", "u8"),  # f32 [n_tokens, n_embd padded], what a layer adds to it
        ("normed", ACTIVATIONS),  # after ln_1 or ln_f
        ("qkv", "u8"),  # f32 [n_tokens, rows of qkv_proj]
        ("attended", ACTIVATIONS),
        ("inner", ACTIVATIONS),  # before and after the activation function
        ("states", "u8"),  # f32 [n_wanted, n_embd padded], after ln_f
        ("logits", "u8"),  # f32 [n_wanted, rows of lm_head]; 0: they are not wanted
        ("summaries", "u8"),  # SUMMARY [n_wanted, spans of lm_head]; 0: they are not wanted
        ("targets", "u8"),  # i64 [n_wanted], for the summaries
        ("never", "u8"),  # f32 [rows of lm_head], for the summaries: see likelihood.py
        ("spans", "u8"),  # f32 [n_threads, n_tokens, SPAN]
        ("scores", "u8"),  # f32 [n_threads, MOST_QUERIES, capacity + 16]
        ("n_chains", "i8"),  # 4 * MOST_QUERIES, or 4 of each 16 dimensions of a head if more
        ("chains", "u8"),  # f32 [n_threads, n_chains, 16]
        ("inverses", "u8"),  # f32 [n_threads, 16]
        ("scaled", "u8"),  # f32 [n_threads, 16]
        ("counters", "u8"),  # i64 [COUNTERS * n_layer + 1, n_threads, LINE_SLOTS], 0: pieces taken
        ("barrier", "u8"),  # i64 [BARRIER_SLOTS], all 0
        ("cancel", "u8"),  # i64 [1], set to 1 to end the step early
        ("yield_thread", "u8"),  # address of a C function `int f(void)`
    ],
    align=True,
)
