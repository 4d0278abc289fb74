"""A checkpoint's config.json -> a frozen ModelConfig, each field judged before it is believed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from quantize.errors import UserError
from quantize.input_file import quoted, read_input
from quantize.json_object import parse_json_object

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
_HINT = "Use the unchanged config.json of a Salesforce CodeGen checkpoint."


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The dimensions of one CodeGen model, in config.json's words."""

    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    rotary_dim: int
    vocab_size: int
    n_positions: int
    layer_norm_epsilon: float
    tie_word_embeddings: bool

    @property
    def head_dim(self) -> int:
        """Values per attention head: n_embd / n_head."""
        return self.n_embd // self.n_head


def read_config(path: Path) -> ModelConfig:
    """Read and judge a config.json; a UserError names path, field, what was found and needed."""
    fields = parse_json_object(read_input(path, _LARGEST_FILE_BYTES), str(path))
    return parse_config(fields, str(path))


def parse_config(fields: Mapping[str, object], where: str) -> ModelConfig:
    """Judge the fields of a config.json; `where` names their origin in errors.

    Fields that do not change the numbers (dropout, token ids, dtype hints) are ignored. Raises
    UserError for another architecture, a missing field, a wrong type, or dimensions that no CodeGen
    model can have.
    """
    _judge_architecture(fields, where)
    n_embd = _dimension(fields, "n_embd", where)
    if fields.get("n_inner") is None:
        fields = {**fields, "n_inner": 4 * n_embd}
    config = ModelConfig(
        n_layer=_dimension(fields, "n_layer", where),
        n_head=_dimension(fields, "n_head", where),
        n_embd=n_embd,
        n_inner=_dimension(fields, "n_inner", where),
        rotary_dim=_dimension(fields, "rotary_dim", where),
        vocab_size=_dimension(fields, "vocab_size", where),
        n_positions=_dimension(fields, "n_positions", where),
        layer_norm_epsilon=_epsilon(fields, where),
        tie_word_embeddings=_flag(fields, "tie_word_embeddings", where),
    )
    _judge_heads(config, where)
    _judge_matrices(config, where)
    return config


def config_fields(config: ModelConfig) -> dict[str, object]:
    """The config as JSON-ready fields that `parse_config` turns into an equal config."""
    return {"model_type": "codegen", "activation_function": "gelu_new", **asdict(config)}


def _judge_architecture(fields: Mapping[str, object], where: str) -> None:
    model_type = fields.get("model_type")
    if model_type != "codegen":
        found = "no model_type" if model_type is None else f"model_type {quoted(model_type)}"
        raise UserError(f"{where} has {found}, need model_type 'codegen'", _HINT)
    activation = fields.get("activation_function", "gelu_new")
    if activation != "gelu_new":
        raise UserError(
            f"{where}: activation_function is {quoted(activation)}, need 'gelu_new'", _HINT
        )
    if not _flag(fields, "scale_attn_weights", where, default=True):
        raise UserError(f"{where}: scale_attn_weights is False, need True", _HINT)
    # CodeGen2 calls itself "codegen" too, but splits qkv_proj into another number of shards.
    if fields.get("auto_map") is not None:
        raise UserError(
            f"{where} brings model code of its own (auto_map {quoted(fields['auto_map'])}), "
            "need a model that transformers' CodeGenForCausalLM runs",
            "CodeGen2 is another architecture; use a Salesforce/codegen-* checkpoint.",
        )


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
    if config.n_head % 4:
        # qkv_proj is stored as 4 shards of whole heads.
        raise UserError(f"{where}: n_head is {config.n_head}, need a multiple of 4", _HINT)
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
