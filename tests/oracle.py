"""Takes a config, checkpoint tensors and ids, returns the model's logits in plain float64 NumPy.

Nothing of ours is imported: the oracle is held to transformers' stored logits (test_oracle.py) and
the fast kernels are held to the oracle. Its forward passes take the tensors under the
checkpoint's names and in the checkpoint's row order, as float arrays of any width.

    h = wte[ids]
    for each block:  x = ln_1(h);  h = h + attention(x) + mlp(x)      parallel, one norm
    logits = lm_head(ln_f(h))
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

GROUP = 32  # values that share one activation scale
NO_SCALE_BELOW = 2.0**-100  # a group whose largest magnitude is smaller counts as zero

Tensors = Mapping[str, np.ndarray]
Rounding = Callable[[np.ndarray], np.ndarray]


def oracle_logits(config: Mapping, tensors: Tensors, ids: Sequence[int]) -> np.ndarray:
    """Logits of every position, [n_tokens, vocab_size] f64, with nothing rounded on the way."""
    return _forward(config, tensors, ids, round_input=np.asarray, round_cache=np.asarray)


def oracle_states(config: Mapping, tensors: Tensors, ids: Sequence[int]) -> np.ndarray:
    """What ln_f gives at every position, [n_tokens, n_embd] f64, with nothing rounded."""
    return _forward(
        config, tensors, ids, round_input=np.asarray, round_cache=np.asarray, head=False
    )


def twin_logits(config: Mapping, tensors: Tensors, ids: Sequence[int]) -> np.ndarray:
    """Logits of an int8 or int4 model, [n_tokens, vocab_size] f64.

    The tensors are the dequantized ones. The input of every matrix (q, k, v and fc_in: the ln_1
    output; out_proj: the attention output; fc_out: the activations; lm_head: the ln_f output) is
    rounded to int8 per group of 32, values and rotated keys are rounded to fp16, and everything
    else is float64. The embedding is looked up, not multiplied: its row is not rounded.
    """
    return _forward(config, tensors, ids, round_input=round_to_int8, round_cache=round_to_fp16)


def _forward(
    config: Mapping,
    tensors: Tensors,
    ids: Sequence[int],
    *,
    round_input: Rounding,
    round_cache: Rounding,
    head: bool = True,
) -> np.ndarray:
    epsilon = config["layer_norm_epsilon"]

    def parameter(name: str) -> np.ndarray:
        return np.asarray(tensors[name], dtype=np.float64)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, parameter(f"{name}.weight"), parameter(f"{name}.bias"), epsilon)

    def project(x: np.ndarray, name: str) -> np.ndarray:
        return round_input(x) @ parameter(f"{name}.weight").T

    h = parameter("transformer.wte.weight")[np.asarray(ids)]  # [n_tokens, n_embd]
    for layer in range(config["n_layer"]):
        block = f"transformer.h.{layer}"
        x = norm(h, f"{block}.ln_1")
        if config["model_type"] == "gptj":
            projected = [project(x, f"{block}.attn.{name}_proj") for name in "qkv"]
            heads = [by_head(each, config["n_head"]) for each in projected]
        else:
            qkv = project(x, f"{block}.attn.qkv_proj")  # [n_tokens, 3 * n_embd]
            heads = split_heads(qkv, config["n_head"], n_shards(config))
        mixed = attention(*heads, config["rotary_dim"], round_cache)
        inner = project(x, f"{block}.mlp.fc_in") + parameter(f"{block}.mlp.fc_in.bias")
        activated = ACTIVATIONS[config["activation_function"]](inner)
        mlp = project(activated, f"{block}.mlp.fc_out") + parameter(f"{block}.mlp.fc_out.bias")
        h = h + project(mixed, f"{block}.attn.out_proj") + mlp
    states = norm(h, "transformer.ln_f")
    if not head:
        return states
    lm_head = "transformer.wte" if config["tie_word_embeddings"] else "lm_head"
    return project(states, lm_head) + parameter("lm_head.bias")


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    rotary_dim: int,
    round_cache: Rounding = np.asarray,
) -> np.ndarray:
    """Causal self-attention: three times [n_head, n_tokens, head_dim] -> [n_tokens, n_embd]."""
    n_head, n_tokens, head_dim = query.shape
    query = rotate(query, rotary_dim)
    key = round_cache(rotate(key, rotary_dim))
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(head_dim)  # [n_head, n_tokens, n_tokens]
    future = np.triu(np.ones((n_tokens, n_tokens), dtype=bool), k=1)
    mixed = softmax(np.where(future, -np.inf, scores)) @ round_cache(value)
    return mixed.transpose(1, 0, 2).reshape(n_tokens, n_head * head_dim)


def n_shards(config: Mapping) -> int:
    """TPU cores that the model was trained on; qkv_proj is stored core by core.

    4 in transformers. CodeGen2 (code of its own: auto_map) has 8 where its config has a head_dim,
    as those of 1B and 3.7B do: CTranslate2's converter, CodeGenLoader.
    """
    return 8 if "auto_map" in config and "head_dim" in config else 4


def split_heads(
    qkv: np.ndarray, n_head: int, n_shards: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The qkv_proj output [n_tokens, 3 * n_embd] -> query, key, value [n_head, n_tokens, head_dim].

    qkv_proj is 4 shards, each with the query, the *value* and then the key rows of its quarter of
    the heads; or 8, each of an eighth:

        | Q heads 0.. | V heads 0.. | K heads 0.. | Q heads n_head/4.. | V ... | K ... | ...
        '---------------- shard 0 ----------------'------------ shard 1 --------------'

    Source: CodeGenAttention.forward of transformers (mp_num = 4).
    """
    n_tokens = qkv.shape[0]
    shards = qkv.reshape(n_tokens, n_shards, 3, n_head // n_shards, -1)
    query, value, key = (by_head(shards[:, :, part], n_head) for part in range(3))
    return query, key, value


def by_head(x: np.ndarray, n_head: int) -> np.ndarray:
    """The values of n_tokens, head by head -> [n_head, n_tokens, head_dim]."""
    return x.reshape(len(x), n_head, -1).transpose(1, 0, 2)


def rotate(x: np.ndarray, rotary_dim: int) -> np.ndarray:
    """Rotary embedding of [n_head, n_tokens, head_dim]: pairs (0, 1), (2, 3), ... below rotary_dim.

    Pair i of the value at position p turns by p * 10000 ** (-2 * i / rotary_dim) radians, as in
    GPT-J (https://arxiv.org/abs/2104.09864).
    """
    frequencies = 10000.0 ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    angles = np.arange(x.shape[1])[:, None] * frequencies  # [n_tokens, rotary_dim / 2]
    even, odd = x[..., 0:rotary_dim:2], x[..., 1:rotary_dim:2]
    rotated = x.copy()
    rotated[..., 0:rotary_dim:2] = even * np.cos(angles) - odd * np.sin(angles)
    rotated[..., 1:rotary_dim:2] = odd * np.cos(angles) + even * np.sin(angles)
    return rotated


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """Each row of [n_tokens, n_embd] to mean 0 and variance 1, then scaled and shifted."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * weight + bias


def gelu_new(x: np.ndarray) -> np.ndarray:
    """The tanh form of GELU (https://arxiv.org/abs/1606.08415), CodeGen's activation_function."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU itself, by the standard library's error function."""
    return x * np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2.0)))(x)


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def silu(x: np.ndarray) -> np.ndarray:
    """x times its logistic function."""
    return x / (1.0 + np.exp(-x))


ACTIVATIONS = {"gelu_new": gelu_new, "gelu": gelu, "relu": relu, "silu": silu, "tanh": np.tanh}


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; a score of -inf gets exactly 0."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the softmax over the last axis, f64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def log_probabilities(
    logits: np.ndarray, targets: Sequence[int], never: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln p of each row's target, the likeliest ids but for those of `never`, and their ln p."""
    rows, values = np.arange(len(logits)), log_softmax(logits)
    own = values[rows, list(targets)]
    values[:, list(never)] = -np.inf
    likeliest = values.argmax(axis=1)
    return own, likeliest, values[rows, likeliest]


def round_to_int8(x: np.ndarray) -> np.ndarray:
    """x [n_tokens, n_in] as its int8 codes and scales represent it, f64.

    Each group of 32 (the last one filled with zeros) has scale = max|x| / 127 and codes
    rint(x * (127 / max|x|)), halves to even, in float32 as the kernels compute it.
    """
    n_tokens, n_in = x.shape
    padded = np.pad(x.astype(np.float32), ((0, 0), (0, -n_in % GROUP)))
    groups = padded.reshape(n_tokens, -1, GROUP)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    used = largest >= np.float32(NO_SCALE_BELOW)
    divisor = np.where(used, largest, np.float32(1.0))
    codes = np.where(used, np.rint(groups * (np.float32(127.0) / divisor)), 0.0)
    rounded = codes.astype(np.float64) * (divisor / np.float32(127.0))
    return rounded.reshape(n_tokens, -1)[:, :n_in]


def round_to_fp16(x: np.ndarray) -> np.ndarray:
    """x as the fp16 key and value cache holds it: rounded from float32, returned as f64."""
    return x.astype(np.float32).astype(np.float16).astype(np.float64)
