"""A checkpoint -> an f16 GGUF of architecture phi2; runs in the llamacpp venv.

python convert_gguf.py CHECKPOINT FILE.gguf

llama.cpp has no CodeGen, but phi2 is the same graph (one norm, attention and MLP in parallel,
partial rotary embedding, biases) once two things are reordered: the rows of qkv_proj, and the
rotary pairs from interleaved to half-split.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

N_SHARDS = 4
"""qkv_proj is stored as 4 shards of query, value, key."""


def add_header(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_name("codegen-as-phi2")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_head_count_kv(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_rope_dimension_count(config["rotary_dim"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict, vocab_size: int) -> None:
    """GPT-2 byte-level BPE, with runs of spaces and tabs as added tokens; unused ids get a name."""
    vocab = tokenizer["model"]["vocab"]
    names = {i: (name, gguf.TokenType.NORMAL) for name, i in vocab.items()}
    for token in tokenizer["added_tokens"]:
        names[token["id"]] = (token["content"], gguf.TokenType.USER_DEFINED)
    end_of_text = vocab["<|endoftext|>"]
    names[end_of_text] = ("<|endoftext|>", gguf.TokenType.CONTROL)
    table = [names.get(i, (f"<|unused_{i}|>", gguf.TokenType.UNUSED)) for i in range(vocab_size)]
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([name for name, _ in table])
    writer.add_token_types([kind for _, kind in table])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_text)
    writer.add_unk_token_id(end_of_text)
    writer.add_add_bos_token(False)


def rotary_order(config: dict) -> np.ndarray:
    """Order of a head's rows that turns pairs (0,1), (2,3), ... into (0,r/2), (1,r/2+1), ...."""
    order = np.arange(config["n_embd"] // config["n_head"])
    r = config["rotary_dim"]
    order[:r] = np.concatenate([np.arange(0, r, 2), np.arange(1, r, 2)])
    return order


def query_key_value(qkv: np.ndarray, config: dict) -> np.ndarray:
    """[3 n_embd, n_embd] in shards of Q|V|K -> the same as one Q|K|V with phi2's rotary pairs."""
    n_embd, n_head = config["n_embd"], config["n_head"]
    shards = qkv.reshape(N_SHARDS, 3, n_embd // N_SHARDS, n_embd)
    query, value, key = (shards[:, i].reshape(n_embd, n_embd) for i in range(3))
    order = rotary_order(config)
    query, key = (
        matrix.reshape(n_head, n_embd // n_head, n_embd)[:, order].reshape(n_embd, n_embd)
        for matrix in (query, key)
    )
    return np.concatenate([query, key, value])


def layer_tensors(tensors, theirs: str, config: dict) -> dict[str, np.ndarray]:
    """One layer by phi2's names. phi2 has two biases more than CodeGen: zeros."""
    n_embd = config["n_embd"]
    norm, fc_in, fc_out = theirs + "ln_1.", theirs + "mlp.fc_in.", theirs + "mlp.fc_out."
    qkv = tensors.get_tensor(theirs + "attn.qkv_proj.weight")
    return {
        "attn_norm.weight": tensors.get_tensor(norm + "weight"),
        "attn_norm.bias": tensors.get_tensor(norm + "bias"),
        "attn_qkv.weight": query_key_value(qkv, config),
        "attn_qkv.bias": np.zeros(3 * n_embd),
        "attn_output.weight": tensors.get_tensor(theirs + "attn.out_proj.weight"),
        "attn_output.bias": np.zeros(n_embd),
        "ffn_up.weight": tensors.get_tensor(fc_in + "weight"),
        "ffn_up.bias": tensors.get_tensor(fc_in + "bias"),
        "ffn_down.weight": tensors.get_tensor(fc_out + "weight"),
        "ffn_down.bias": tensors.get_tensor(fc_out + "bias"),
    }


def add_tensors(writer: gguf.GGUFWriter, tensors, config: dict) -> None:
    """Matrices as f16, vectors as f32."""

    def add(name: str, values: np.ndarray) -> None:
        dtype = np.float16 if values.ndim == 2 else np.float32
        writer.add_tensor(name, np.ascontiguousarray(values, dtype))

    add("token_embd.weight", tensors.get_tensor("transformer.wte.weight"))
    for i in range(config["n_layer"]):
        for name, values in layer_tensors(tensors, f"transformer.h.{i}.", config).items():
            add(f"blk.{i}.{name}", values)
    add("output_norm.weight", tensors.get_tensor("transformer.ln_f.weight"))
    add("output_norm.bias", tensors.get_tensor("transformer.ln_f.bias"))
    add("output.weight", tensors.get_tensor("lm_head.weight"))
    add("output.bias", tensors.get_tensor("lm_head.bias"))


def main(checkpoint: str, target: str) -> None:
    source = Path(checkpoint)
    config = json.loads((source / "config.json").read_text())
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(target, "phi2")
    add_header(writer, config)
    add_tokenizer(writer, tokenizer, config["vocab_size"])
    add_tensors(writer, safe_open(source / "model.safetensors", "np"), config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
