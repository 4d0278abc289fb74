"""A ModelConfig -> the one table of its tensors: our name, source names, shape, row order."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from quantize.containers.source_tensor import FLOAT_DTYPES, SourceTensor, TensorStack
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError
from quantize.files.input_file import quoted, shown

# What transformers saves beside the parameters, or once did, and its forward pass does not read
# from a checkpoint: masks and tables of positions (`_keys_to_ignore_on_load_unexpected` of
# CodeGenPreTrainedModel and of GPTJModel, whose code CodeGen's was made from; `inv_freq` where
# PreTrainedModel loads weights), and the heads that models of other tasks have.
_UNUSED = re.compile(
    r"transformer\.h\.\d+\.attn\.(causal_mask|bias|masked_bias|embed_positions)"
    r"|(\w+\.)*inv_freq"
    r"|(score|qa_outputs)\.(weight|bias)",
    re.ASCII,
)
# What we call qkv_proj: a matrix of CodeGen's; of GPT-J's three, that put one under another in this
# order are its single shard.
_QKV = {"codegen": ("qkv_proj",), "gptj": ("q_proj", "v_proj", "k_proj")}
_NAMED_PROBLEMS = 8
_COMPARED_ROWS = 1024
_HINT = "The weights and config.json must be of one checkpoint; download both again."


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model: what we call it and where its rows come from.

    name        the name in CodeGen's checkpoints without "transformer.": "h.3.mlp.fc_in.weight"
    sources     the names in a checkpoint: one, or those of equal matrices to put under one another
    shape       a matrix is [n_out, n_in], a vector [n]
    row_order   [n_out] int64, the source row of each of our rows; None keeps the order
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    kind: Literal["matrix", "vector"]
    row_order: npt.NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> str:
        """What a checkpoint calls it, in words where that is several names."""
        return " or ".join(self.sources)

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape of each source."""
        return (self.shape[0] // len(self.sources), *self.shape[1:])


def tensor_specs(config: ModelConfig) -> list[TensorSpec]:
    """Every tensor of the model, in the order in which a forward pass reads them.

    A tied model has no lm_head.weight: wte.weight serves both.
    """
    n_embd, n_inner, vocab_size = config.n_embd, config.n_inner, config.vocab_size
    row_order, projections = qkv_row_order(config), _QKV[config.model_type]
    specs = [_spec("transformer.wte.weight", vocab_size, n_embd)]
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        qkv = tuple(f"{block}.attn.{projection}.weight" for projection in projections)
        specs += [
            _spec(f"{block}.ln_1.weight", n_embd),
            _spec(f"{block}.ln_1.bias", n_embd),
            TensorSpec(
                f"h.{layer}.attn.qkv_proj.weight", qkv, (3 * n_embd, n_embd), "matrix", row_order
            ),
            _spec(f"{block}.mlp.fc_in.weight", n_inner, n_embd),
            _spec(f"{block}.mlp.fc_in.bias", n_inner),
            _spec(f"{block}.attn.out_proj.weight", n_embd, n_embd),
            _spec(f"{block}.mlp.fc_out.weight", n_embd, n_inner),
            _spec(f"{block}.mlp.fc_out.bias", n_embd),
        ]
    specs += [_spec("transformer.ln_f.weight", n_embd), _spec("transformer.ln_f.bias", n_embd)]
    if not config.tie_word_embeddings:
        specs.append(_spec("lm_head.weight", vocab_size, n_embd))
    specs.append(_spec("lm_head.bias", vocab_size))
    return specs


def qkv_row_order(config: ModelConfig) -> npt.NDArray[np.int64]:
    """[3 * n_embd] int64: the source row of each row of our qkv_proj.

    A checkpoint holds  [mp_num shards][query, value, key][n_head / mp_num heads][head_dim]
    we hold             [n_head heads][query, key, value][head_dim]

    The shards are the TPU cores that a model was trained on, and its code splits and joins them in
    each forward pass (CodeGenAttention, `mp_num`). mp_num is 4 in transformers' code, for every
    CodeGen, and in that of CodeGen2-7B and 16B; it is 8 in that of CodeGen2-1B and 3.7B. No config
    says so, but of the four CodeGen2 configs those two have a `head_dim`. docs/config.md gives the
    sources. A checkpoint of GPT-J's has 1.
    """
    source = np.arange(3 * config.n_embd, dtype=np.int64)
    shards = source.reshape(config.mp_num, 3, config.n_head // config.mp_num, config.head_dim)
    query_key_value = shards[:, [0, 2, 1]]
    return query_key_value.transpose(0, 2, 1, 3).reshape(-1)


def is_unused(name: str) -> bool:
    """Tell whether a checkpoint may have this tensor though the model is the same without it."""
    return bool(_UNUSED.fullmatch(name))


def listed(names: Iterable[str]) -> str:
    """Return the names of tensors in words, those of all layers as one with their number."""
    counts = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    parts = [
        f"{shown(name)} ({count})" if count > 1 else shown(name) for name, count in counts.items()
    ]
    more = len(parts) - _NAMED_PROBLEMS
    return ", ".join(parts[:_NAMED_PROBLEMS]) + (f" and {more} more" if more > 0 else "")


def match_tensors(
    specs: Sequence[TensorSpec], tensors: Mapping[str, SourceTensor], where: str = "the checkpoint"
) -> list[tuple[TensorSpec, TensorStack]]:
    """Pair each spec with the rows of its sources, in the order of the specs.

    Missing, surplus and misshapen tensors and tensors of no floating-point type are one UserError
    that names them. A tied model may bring an lm_head.weight if it equals wte.weight.
    """
    problems = [*_unfit(specs, tensors), *_surplus(specs, tensors)]
    if problems:
        more = len(problems) - _NAMED_PROBLEMS
        named = "; ".join(problems[:_NAMED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(f"{where} does not fit its config.json: {named}", _HINT)
    return [
        (spec, TensorStack(tuple(tensors[source] for source in spec.sources))) for spec in specs
    ]


def _spec(source: str, *shape: int) -> TensorSpec:
    kind: Literal["matrix", "vector"] = "matrix" if len(shape) == 2 else "vector"
    return TensorSpec(source.removeprefix("transformer."), (source,), shape, kind)


def _unfit(specs: Sequence[TensorSpec], tensors: Mapping[str, SourceTensor]) -> Iterator[str]:
    needed = ((source, spec.source_shape) for spec in specs for source in spec.sources)
    for source, shape in needed:
        tensor = tensors.get(source)
        if tensor is None:
            yield f"{source} is missing, need {list(shape)}"
        elif tensor.shape != shape:
            yield f"{source} is {list(tensor.shape)}, need {list(shape)}"
        elif tensor.dtype not in FLOAT_DTYPES:
            yield f"{source} is {tensor.dtype}, need one of {', '.join(FLOAT_DTYPES)}"


def _surplus(specs: Sequence[TensorSpec], tensors: Mapping[str, SourceTensor]) -> Iterator[str]:
    known = {source for spec in specs for source in spec.sources}
    for name, tensor in tensors.items():
        if name in known:
            continue
        if name == "lm_head.weight":
            if not _equal_values(tensor, tensors.get("transformer.wte.weight")):
                yield (
                    f"lm_head.weight {list(tensor.shape)} differs from transformer.wte.weight, "
                    "but tie_word_embeddings is true"
                )
        else:
            yield f"{quoted(name)} {list(tensor.shape)} is surplus"


def _equal_values(left: SourceTensor, right: SourceTensor | None) -> bool:
    """Bit for bit in float32, a few rows in memory at a time."""
    if right is None or left.shape != right.shape or not left.shape:
        return False
    if left.dtype not in FLOAT_DTYPES or right.dtype not in FLOAT_DTYPES:
        return False
    return all(
        np.array_equal(
            left.read_float32(slice(row, row + _COMPARED_ROWS)).view(np.uint32),
            right.read_float32(slice(row, row + _COMPARED_ROWS)).view(np.uint32),
        )
        for row in range(0, left.shape[0], _COMPARED_ROWS)
    )
