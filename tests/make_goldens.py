"""Takes the configurations below, writes tests/goldens/NAME.npz: transformers' logits for each.

Run by hand where torch and transformers are installed: `python tests/make_goldens.py [NAME...]`.
It imports nothing of ours, so a golden cannot share a mistake with the code that it judges. A
golden holds

    config          JSON text, the fields of config.json
    seed            of `golden_tensors` below; the weights themselves are not stored
    weights_sha256  of every tensor, in the order of the names: the name, then its fp16 bytes
    ids             [n_tokens] i32
    positions       [n_positions stored] i32, the rows of `logits`
    logits          [n_positions stored, vocab_size] f32, computed in fp32
    made_with       versions of transformers and torch
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

GOLDENS = Path(__file__).parent / "goldens"
STORED_POSITIONS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 64)  # and the last


def golden_config(**fields: object) -> dict[str, object]:
    """A config.json of 2 layers; the fields given replace or extend these."""
    defaults: dict[str, object] = {
        "model_type": "codegen",
        "activation_function": "gelu_new",
        "n_layer": 2,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "scale_attn_weights": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return defaults | fields


# The fields by which the configs of CodeGen2-1B and 3.7B differ from CodeGen's.
CODEGEN2 = {
    "auto_map": {
        "AutoConfig": "configuration_codegen.CodeGenConfig",
        "AutoModel": "modeling_codegen.CodeGenModel",
        "AutoModelForCausalLM": "modeling_codegen.CodeGenForCausalLM",
    },
    "eos_token_id": 2,
}

# name: (config, seed, n_tokens). head_dim is n_embd / n_head. Vocabularies, inner widths
# and prompts are of odd sizes on purpose, so that rows, columns and ids which fill no block of 16
# or 32 occur. A seed is the first that `judge_golden` accepts.
GOLDEN_MODELS = {
    "head_dim_32_rotary_32": (
        golden_config(n_head=4, n_embd=128, rotary_dim=32, vocab_size=517, n_positions=64),
        5,
        64,
    ),
    "head_dim_64_rotary_32": (
        golden_config(n_head=8, n_embd=512, rotary_dim=32, vocab_size=1000, n_positions=512),
        1,
        47,
    ),
    "head_dim_80_rotary_64": (
        golden_config(
            n_layer=3, n_head=4, n_embd=320, rotary_dim=64, vocab_size=517, n_positions=128
        ),
        3,
        70,
    ),
    "head_dim_80_rotary_80": (
        golden_config(
            n_head=4, n_embd=320, rotary_dim=80, n_inner=500, vocab_size=1000, n_positions=100
        ),
        1,
        65,
    ),
    "head_dim_256_rotary_64": (
        golden_config(
            n_head=4, n_embd=1024, rotary_dim=64, n_inner=700, vocab_size=517, n_positions=128
        ),
        1,
        41,
    ),
    "tied_embeddings": (
        golden_config(
            n_head=4,
            n_embd=128,
            rotary_dim=16,
            vocab_size=1001,
            n_positions=80,
            tie_word_embeddings=True,
        ),
        1,
        50,
    ),
    "layer_norm_epsilon_0_01": (
        golden_config(
            n_layer=3,
            n_head=4,
            n_embd=96,
            rotary_dim=8,
            n_inner=333,
            vocab_size=250,
            n_positions=77,
            layer_norm_epsilon=0.01,
        ),
        2,
        77,
    ),
    "activation_relu": (
        golden_config(
            n_head=4,
            n_embd=40,
            rotary_dim=10,
            n_inner=161,
            vocab_size=259,
            n_positions=37,
            activation_function="relu",
        ),
        2,
        37,
    ),
    "activation_silu": (
        golden_config(
            n_head=8,
            n_embd=48,
            rotary_dim=2,
            n_inner=75,
            vocab_size=257,
            n_positions=50,
            activation_function="silu",
        ),
        2,
        50,
    ),
    "activation_gelu": (
        golden_config(
            n_layer=1,
            n_head=4,
            n_embd=72,
            rotary_dim=18,
            n_inner=32,
            vocab_size=261,
            n_positions=64,
            activation_function="gelu",
        ),
        2,
        40,
    ),
    "activation_tanh": (
        golden_config(
            n_head=12,
            n_embd=72,
            rotary_dim=4,
            n_inner=99,
            vocab_size=259,
            n_positions=64,
            layer_norm_epsilon=1e-6,
            tie_word_embeddings=True,
            activation_function="tanh",
        ),
        1,
        40,
    ),
    "codegen2_8_shards": (
        golden_config(
            n_head=16,
            n_embd=128,
            head_dim=8,
            rotary_dim=6,
            vocab_size=517,
            n_positions=64,
            **CODEGEN2,
        ),
        1,
        40,
    ),
    "gptj_8_heads": (
        golden_config(
            n_head=8, n_embd=128, rotary_dim=16, vocab_size=517, n_positions=64, model_type="gptj"
        ),
        1,
        40,
    ),
    "gptj_6_heads": (
        golden_config(
            model_type="gptj",
            n_layer=3,
            n_head=6,
            n_embd=120,
            rotary_dim=8,
            n_inner=333,
            vocab_size=259,
            n_positions=77,
            layer_norm_epsilon=1e-3,
            activation_function="gelu",
        ),
        1,
        70,
    ),
    "gptj_3_heads_tied": (
        golden_config(
            model_type="gptj",
            n_head=3,
            n_embd=66,
            rotary_dim=22,
            n_inner=75,
            vocab_size=261,
            n_positions=50,
            activation_function="silu",
            tie_word_embeddings=True,
        ),
        1,
        50,
    ),
    "gptj_1_head": (
        golden_config(
            model_type="gptj",
            n_head=1,
            n_embd=80,
            rotary_dim=64,
            vocab_size=257,
            n_positions=40,
            activation_function="relu",
        ),
        2,
        20,
    ),
}


def golden_tensors(config: dict[str, object], seed: int) -> dict[str, np.ndarray]:
    """Noise for every parameter of the config as f16, drawn in the checkpoint's order.

    The same numbers as golden.py makes from checkpoints.py, restated. Matrices of queries, keys and
    values with 1.25 times the noise that would keep their input's scale give scores with a standard
    deviation of about 1.5, so that attention picks some positions over others.
    """
    random = np.random.RandomState(seed)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        noise = random.standard_normal(shape).astype(np.float32)
        if name == "transformer.wte.weight":
            values = noise
        elif len(shape) == 2:
            values = noise / np.float32(np.sqrt(shape[1]))
        else:
            is_norm_weight = ".ln_" in name and name.endswith("weight")
            values = np.float32(is_norm_weight) + np.float32(0.1) * noise
        if name.split(".")[-2] in ("qkv_proj", "q_proj", "k_proj", "v_proj"):
            values = np.float32(1.25) * values
        tensors[name] = values.astype(np.float16)
    return tensors


def transformers_model(config: dict[str, object]) -> transformers.PreTrainedModel:
    """transformers' own model of a config, its parameters as they begin."""
    if config["model_type"] == "gptj":
        return transformers.GPTJForCausalLM(transformers.GPTJConfig(**config))
    return transformers.CodeGenForCausalLM(transformers.CodeGenConfig(**config))


def parameter_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its name, in the checkpoint's order.

    transformers names them in that order, but CodeGen's out_proj: from 5.24 on before qkv_proj.
    """
    with torch.device("meta"):
        model = transformers_model(config)
    shapes: dict[str, tuple[int, ...]] = {}
    last_of_attention: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        if ".attn." not in name:
            shapes |= last_of_attention
            last_of_attention = {}
        (last_of_attention if "out_proj" in name else shapes)[name] = tuple(parameter.shape)
    return shapes


def weights_sha256(tensors: dict[str, np.ndarray]) -> str:
    """Hash of every tensor in the order of the names: the name, then its fp16 bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].astype("<f2").tobytes())
    return digest.hexdigest()


def load_transformers_model(
    config: dict[str, object], tensors: dict[str, np.ndarray]
) -> transformers.PreTrainedModel:
    """transformers' own model in fp32, with every parameter taken from `tensors`."""
    model = transformers_model(config).float().eval()
    if "auto_map" in config:
        tensors = {
            name: from_8_shards_to_4(tensor) if "qkv_proj" in name else tensor
            for name, tensor in tensors.items()
        }
    state = {name: torch.from_numpy(tensor.astype(np.float32)) for name, tensor in tensors.items()}
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    model.load_state_dict(state)  # strict: a missing or surplus tensor is an error
    return model


def from_8_shards_to_4(rows: np.ndarray) -> np.ndarray:
    """The rows of a qkv_proj [3 * n_embd, n_embd] of 8 shards in the order of 4.

    transformers has no model of 8 shards, but heads are heads: shard i of 4 holds the queries, the
    values and the keys of shards 2 i and 2 i + 1 of 8.
    """
    n_out, n_in = rows.shape
    pairs = rows.reshape(4, 2, 3, n_out // 24, n_in)
    return pairs.transpose(0, 2, 1, 3, 4).reshape(n_out, n_in)


@torch.no_grad()
def all_logits(model: transformers.PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    """Logits of every position, [n_tokens, vocab_size] f32."""
    return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()


def judge_golden(model: transformers.PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    """Logits of every position, or a ValueError if they could hide a mistake.

    The order of the earlier ids must matter to the last logits, or attention and its positions
    would be idle; the best id must lead clearly, or "same argmax" would be a matter of rounding.
    """
    logits = all_logits(model, ids)
    reordered = all_logits(model, np.append(ids[-2::-1], ids[-1]))
    moved = np.sqrt(np.mean((reordered[-1] - logits[-1]) ** 2)) / logits.std()
    second, best = np.sort(logits, axis=1)[:, -2:].T
    lead = (best - second).min() / logits.std()
    print(f"spread {logits.std():.3f}, order of the ids {moved:.3f}, smallest lead {lead:.4f}")
    if moved < 0.2 or lead < 0.005:
        raise ValueError("the order of the ids or the best id hardly matters: take another seed")
    return logits


def write_golden(name: str, config: dict[str, object], seed: int, n_tokens: int) -> None:
    """Compute one golden and write tests/goldens/NAME.npz."""
    tensors = golden_tensors(config, seed)
    ids = np.random.RandomState(seed + 1).randint(config["vocab_size"], size=n_tokens)
    positions = sorted({*(p for p in STORED_POSITIONS if p < n_tokens), n_tokens - 1})
    print(f"{name}: ", end="")
    logits = judge_golden(load_transformers_model(config, tensors), ids)
    np.savez_compressed(
        GOLDENS / f"{name}.npz",
        config=json.dumps(config),
        seed=seed,
        weights_sha256=weights_sha256(tensors),
        ids=ids.astype(np.int32),
        positions=np.array(positions, dtype=np.int32),
        logits=logits[positions],
        made_with=f"transformers {transformers.__version__}, torch {torch.__version__}",
    )


def main() -> None:
    """Write every golden, or those named as arguments."""
    GOLDENS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or GOLDEN_MODELS:
        write_golden(name, *GOLDEN_MODELS[name])


if __name__ == "__main__":
    main()
