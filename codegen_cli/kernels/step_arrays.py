"""Records of the step table -> the arrays whose addresses they hold, and activations quantized."""

from collections import namedtuple

from numba import carray, float32, int8, njit

from codegen_cli.kernels.attention import AttentionScratch
from codegen_cli.kernels.pointwise import quantize_group
from codegen_cli.kernels.step_table import MOST_QUERIES, SPAN
from codegen_cli.kernels.threading_primitives import pointer_to
from quantize.description.formats import GROUP, LANES

_F32_BYTES = 4

_compile = njit(nogil=True, error_model="numpy")

# A row of float32 for each token, and the same quantized in groups, as the products take it.
#   values  [n_tokens, n]              f32
#   codes   [n_groups, n_tokens * 32]  i8
#   scales  [n_groups, n_tokens]       f32
#   sums    [n_groups, n_tokens]       f32  of the codes
Activations = namedtuple("Activations", "values codes scales sums")


@_compile
def floats(address, shape):
    """The float32 array of a shape at an address."""
    return carray(pointer_to(address, float32), shape)


@_compile
def activations_of(record, n_tokens):
    """The Activations of an ACTIVATIONS record."""
    n_groups = record.n // GROUP
    return Activations(
        floats(record.values, (n_tokens, record.n)),
        carray(pointer_to(record.codes, int8), (n_groups, n_tokens * GROUP)),
        floats(record.scales, (n_groups, n_tokens)),
        floats(record.sums, (n_groups, n_tokens)),
    )


@_compile
def attention_scratch_of(step, thread):
    """A thread's AttentionScratch."""
    n = step.n_threads
    return AttentionScratch(
        floats(step.scores, (n, MOST_QUERIES, step.capacity + LANES))[thread],
        floats(step.chains, (n, step.n_chains, LANES))[thread],
        floats(step.inverses, (n, LANES))[thread],
        floats(step.scaled, (n, LANES))[thread],
    )


@_compile
def span_of(step, thread, first_row):
    """A thread's scratch of a span of lm_head, f32 [n_wanted, SPAN].

    Its columns have the numbers of the span's rows, first_row and the following, so that a product
    writes there as to whole rows of logits.
    """
    scratch = step.spans + thread * step.n_tokens * SPAN * _F32_BYTES
    return floats(scratch - first_row * _F32_BYTES, (step.n_wanted, SPAN))


@_compile
def last_states_of(step):
    """Where ln_f of the wanted ids goes: values to the caller's array, the rest to normed's."""
    normed = activations_of(step.normed, step.n_wanted)
    states = floats(step.states, (step.n_wanted, step.normed.n))
    return Activations(states, normed.codes, normed.scales, normed.sums)


@_compile
def quantize_groups(x, token, first, end):
    """Quantize groups first .. end-1 of a token's values.

    x  Activations
    """
    values = x.values[token]
    for group in range(first, end):
        codes, scales, sums = x.codes[group], x.scales[group], x.sums[group]
        quantize_group(values, group * GROUP, codes, scales, sums, token)
