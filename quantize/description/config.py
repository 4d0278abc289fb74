"""A checkpoint's config.json -> a frozen ModelConfig, each field judged before it is believed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantize.files.errors import UserError
from quantize.files.input_file import quoted, read_input
from quantize.files.json_object import parse_json_object

# Far above the largest CodeGen (34 layers, 6144 wide), and small enough that a forged file cannot
# ask for a huge table of tensors.
_LARGEST = {
    "n_layer": 1024,
    "n_head": 4096,
    "n_embd": 1 << 16,
    "n_inner": 1 << 20,
    "rotary_dim": 1 << 16,
    "vocab_size": 1 << 22,
    "n_positions": 1 << 20,
}
# Offsets into a matrix stay within int32.
_LARGEST_MATRIX = (1 << 31) - 1
_LARGEST_FILE_BYTES = 1 << 20

# Every field of transformers' CodeGenConfig and GPTJConfig is in one of these; docs/config.md says
# more of each.
HONOURED = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "rotary_dim",
    "n_inner",
    "activation_function",
    "layer_norm_epsilon",
    "eos_token_id",
    "tie_word_embeddings",
)
WITHOUT_EFFECT = (
    "n_ctx",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "initializer_range",
    "use_cache",
    "bos_token_id",
    "pad_token_id",
    "dtype",
    "transformers_version",
    "architectures",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "id2label",
    "label2id",
    "problem_type",
    "_name_or_path",
)
# Neither has any of these, but transformers' cache acts on them for every model.
OTHER_ATTENTION = ("sliding_window", "attention_chunk_size", "layer_types", "kv_sharing_modes")
# The attribute_map of both: other names that a config.json may use.
ALIASES = {
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# In the order of the numbers in codegen_cli.kernels.activations.
ACTIVATION_FUNCTIONS = ("gelu_new", "gelu", "relu", "silu", "tanh")

# The auto_map of Salesforce/codegen2-*: code of their own, though all but the shards is CodeGen's.
_CODEGEN2_CODE = {
    "AutoConfig": "configuration_codegen.CodeGenConfig",
    "AutoModel": "modeling_codegen.CodeGenModel",
    "AutoModelForCausalLM": "modeling_codegen.CodeGenForCausalLM",
}
_HINT = "Use the unchanged config.json of a CodeGen or GPT-J checkpoint."


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The dimensions of one CodeGen or GPT-J model, in config.json's words.

    activation_function  one of ACTIVATION_FUNCTIONS
    mp_num               shards of qkv_proj in CodeGen's layout, 4 or 8 (tensor_map.qkv_row_order);
                         1 in GPT-J's, where q, k and v are apart
    eos_token_id         every id that the config calls an end, each below vocab_size
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    rotary_dim: int
    vocab_size: int
    n_positions: int
    layer_norm_epsilon: float
    tie_word_embeddings: bool
    activation_function: str = "gelu_new"
    mp_num: int = 4
    eos_token_id: tuple[int, ...] = ()

    @property
    def head_dim(self) -> int:
        """Values per attention head: n_embd / n_head."""
        return self.n_embd // self.n_head

    @property
    def model_type(self) -> str:
        """Whose layout the weights have: codegen or gptj; the two compute the same."""
        return "gptj" if self.mp_num == 1 else "codegen"


def read_config(path: Path) -> ModelConfig:
    """Read and judge a config.json; a UserError names path, field, what was found and needed."""
    fields = parse_json_object(read_input(path, _LARGEST_FILE_BYTES), str(path))
    return parse_config(fields, str(path))


def parse_config(fields: Mapping[str, object], where: str) -> ModelConfig:
    """Judge the fields of a config.json; `where` names their origin in errors.

    Fields in WITHOUT_EFFECT are ignored, and so are those that transformers' config does not have,
    but for the few that docs/config.md names. Raises UserError for another architecture, a missing
    field, a wrong type, or dimensions that no such model can have.
    """
    _judge_architecture(fields, where)
    fields = _own_names(fields, where)
    n_embd = _dimension(fields, "n_embd", where)
    if fields.get("n_inner") is None:
        fields = {**fields, "n_inner": 4 * n_embd}
    config = ModelConfig(
        n_layer=_dimension(fields, "n_layer", where),
        n_head=_dimension(fields, "n_head", where),
        n_embd=n_embd,
        n_inner=_dimension(fields, "n_inner", where),
        rotary_dim=_dimension(fields, "rotary_dim", where),
        vocab_size=(vocab_size := _dimension(fields, "vocab_size", where)),
        n_positions=_dimension(fields, "n_positions", where),
        layer_norm_epsilon=_epsilon(fields, where),
        tie_word_embeddings=_flag(fields, "tie_word_embeddings", where),
        activation_function=_activation(fields, where),
        mp_num=_shards(fields, where),
        eos_token_id=_end_ids(fields, vocab_size, where),
    )
    _judge_heads(config, where)
    _judge_matrices(config, where)
    return config


def config_fields(config: ModelConfig) -> dict[str, object]:
    """The config as JSON-ready fields that `parse_config` turns into an equal config."""
    return {"model_type": config.model_type, **asdict(config)}


def packed_config(config: ModelConfig) -> ModelConfig:
    """The config that a packed file states, where rows are in one order whatever they were in.

    Its first readers know CodeGen's layout alone: as that a GPT-J is declared wherever its heads
    could have been in 4 shards, and any other they refuse by its model_type.
    """
    could_be_codegen = config.model_type == "gptj" and config.n_head % 4 == 0
    return replace(config, mp_num=4) if could_be_codegen else config


def _judge_architecture(fields: Mapping[str, object], where: str) -> None:
    model_type = fields.get("model_type")
    if model_type not in ("codegen", "gptj"):
        found = "no model_type" if model_type is None else f"model_type {quoted(model_type)}"
        raise UserError(f"{where} has {found}, need model_type 'codegen' or 'gptj'", _HINT)
    _judge_attention(fields, where)
    if fields.get("quantization_config") is not None:
        raise UserError(
            f"{where} is of weights that are quantized already (quantization_config "
            f"{quoted(fields['quantization_config'])}), need fp16, bf16 or fp32 weights",
            "Use the checkpoint from which they were made.",
        )
    if fields.get("auto_map") and not _is_codegen2(fields):
        raise UserError(
            f"{where} brings model code of its own (auto_map {quoted(fields['auto_map'])}), "
            "need a model that transformers' CodeGenForCausalLM or GPTJForCausalLM runs, or "
            "CodeGen2",
            "Use a Salesforce/codegen-* or Salesforce/codegen2-* checkpoint.",
        )


def _judge_attention(fields: Mapping[str, object], where: str) -> None:
    """Refuse other attention than theirs: causal, over all positions, scaled, in each layer."""
    for name in ("scale_attn_weights", "is_causal"):
        if not _flag(fields, name, where, default=True):
            raise UserError(f"{where}: {name} is False, need True", _HINT)
    for name in OTHER_ATTENTION:
        if fields.get(name) is not None:
            raise UserError(f"{where}: {name} is {quoted(fields[name])}, need null", _HINT)


def _is_codegen2(fields: Mapping[str, object]) -> bool:
    """Whether the config names CodeGen2's code; transformers may write `owner/name--` before it."""
    auto_map = fields.get("auto_map")
    if not isinstance(auto_map, dict) or "AutoModelForCausalLM" not in auto_map:
        return False
    return fields["model_type"] == "codegen" and all(
        _CODEGEN2_CODE.get(key) == str(value).rpartition("--")[2] for key, value in auto_map.items()
    )


def _own_names(fields: Mapping[str, object], where: str) -> dict[str, object]:
    """The fields with transformers' own names in place of its aliases."""
    own = {name: value for name, value in fields.items() if name not in ALIASES}
    for alias, name in ALIASES.items():
        if alias in fields and own.setdefault(name, fields[alias]) != fields[alias]:
            raise UserError(
                f"{where}: {name} is {quoted(own[name])} and {alias} is {quoted(fields[alias])}, "
                "need the same, as both mean one thing",
                _HINT,
            )
    return own


def _activation(fields: Mapping[str, object], where: str) -> str:
    value = fields.get("activation_function", "gelu_new")
    if not isinstance(value, str) or value not in ACTIVATION_FUNCTIONS:
        raise UserError(
            f"{where}: activation_function is {quoted(value)}, "
            f"need one of {', '.join(ACTIVATION_FUNCTIONS)}",
            _HINT,
        )
    return value


def _shards(fields: Mapping[str, object], where: str) -> int:
    """The rule that tensor_map.qkv_row_order states; mp_num itself stands in packed files."""
    if fields["model_type"] == "gptj":
        return 1
    stated, head_dim = fields.get("mp_num"), fields.get("head_dim")
    if stated is not None:
        if not isinstance(stated, int) or stated not in (4, 8):
            raise UserError(f"{where}: mp_num is {quoted(stated)}, need 4 or 8", _HINT)
        return stated
    return 8 if _is_codegen2(fields) and head_dim is not None else 4


def _end_ids(fields: Mapping[str, object], vocab_size: int, where: str) -> tuple[int, ...]:
    """The ids of eos_token_id that are below vocab_size: one, several or none may be given."""
    value = fields.get("eos_token_id")
    ids: Sequence[Any] = () if value is None else (value,)
    if isinstance(value, list | tuple):
        ids = value
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        need = "need a whole number, a list of them, or null"
        raise UserError(f"{where}: eos_token_id is {quoted(value)}, {need}", _HINT)
    return tuple(dict.fromkeys(i for i in ids if 0 <= i < vocab_size))


def _dimension(fields: Mapping[str, object], name: str, where: str) -> int:
    largest = _LARGEST[name]
    need = f"need a whole number from 1 to {largest}"
    value = fields.get(name)
    if value is None:
        raise UserError(f"{where} has no {name}, {need}", _HINT)
    # bool is an int to Python, not to a config.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UserError(f"{where}: {name} is {quoted(value)}, {need}", _HINT)
    return value


def _flag(fields: Mapping[str, object], name: str, where: str, default: bool = False) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {name} is {quoted(value)}, need true or false", _HINT)
    return value


def _epsilon(fields: Mapping[str, object], where: str) -> float:
    """Bounded below so that it is not lost in float32 beside a variance of zero."""
    value = fields.get("layer_norm_epsilon", 1e-5)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 1e-12 <= value <= 1.0:  # type: ignore[operator]
        raise UserError(
            f"{where}: layer_norm_epsilon is {quoted(value)}, need a number from 1e-12 to 1", _HINT
        )
    return float(value)  # type: ignore[arg-type]


def _judge_heads(config: ModelConfig, where: str) -> None:
    if config.n_head % config.mp_num:
        # Each shard of qkv_proj holds whole heads.
        need = f"need a multiple of {config.mp_num}"
        raise UserError(f"{where}: n_head is {config.n_head}, {need}", _HINT)
    if config.n_embd % config.n_head:
        raise UserError(
            f"{where}: n_embd is {config.n_embd}, need a multiple of n_head {config.n_head}", _HINT
        )
    if config.head_dim % 2:
        raise UserError(
            f"{where}: n_embd {config.n_embd} / n_head {config.n_head} gives a head_dim of "
            f"{config.head_dim}, need an even one",
            _HINT,
        )
    if config.rotary_dim % 2 or config.rotary_dim > config.head_dim:
        raise UserError(
            f"{where}: rotary_dim is {config.rotary_dim}, need an even number from 2 to "
            f"the head_dim {config.head_dim}",
            _HINT,
        )


def _judge_matrices(config: ModelConfig, where: str) -> None:
    for name, n_out in (
        ("vocab_size", config.vocab_size),
        ("n_inner", config.n_inner),
        ("3 x n_embd", 3 * config.n_embd),
    ):
        if n_out * config.n_embd > _LARGEST_MATRIX:
            raise UserError(
                f"{where}: {name} x n_embd is {n_out * config.n_embd}, "
                f"need at most {_LARGEST_MATRIX}",
                _HINT,
            )
