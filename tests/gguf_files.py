"""GGUF files as the converter of llama.cpp writes them."""

import gguf
import numpy as np

STEMS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
GEMMA_STEMS = STEMS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def converted(tensors, values, architecture):
    """Yields names and tensors as the converter of llama.cpp writes them."""
    stems = GEMMA_STEMS if architecture in ("gemma2", "gemma3") else STEMS
    for name, tensor in tensors.items():
        stem, _, suffix = name.rpartition(".")
        layer = ""
        for before in ("model.layers.", "transformer.h."):
            if stem.startswith(before):
                number, _, stem = stem.removeprefix(before).partition(".")
                layer = f"blk.{number}."
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):
            key = "num_key_value_heads" if "k_proj" in stem else "num_attention_heads"
            split = tensor.reshape(values[key], 2, -1, *tensor.shape[1:])
            tensor = split.swapaxes(1, 2).reshape(tensor.shape)
        if architecture == "gpt2" and layer and tensor.ndim == 2:
            tensor = tensor.T
        if architecture.startswith("gemma") and "norm" in stem:
            tensor = tensor + 1
        yield f"{layer}{stems[stem]}.{suffix}", np.ascontiguousarray(tensor)


def metadata(values, architecture):
    """Returns what the converter writes of a config.json."""
    if architecture == "gpt2":
        return {
            "block_count": values["n_layer"],
            "embedding_length": values["n_embd"],
            "attention.head_count": values["n_head"],
            "feed_forward_length": 4 * values["n_embd"],
            "context_length": values["n_positions"],
            "attention.layer_norm_epsilon": values["layer_norm_epsilon"],
        }
    rope = values["rope_parameters"]
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    meta = {
        "block_count": values["num_hidden_layers"],
        "embedding_length": values["hidden_size"],
        "feed_forward_length": values["intermediate_size"],
        "attention.head_count": values["num_attention_heads"],
        "attention.head_count_kv": values["num_key_value_heads"],
        "context_length": values["max_position_embeddings"],
        "attention.layer_norm_rms_epsilon": values["rms_norm_eps"],
        "rope.freq_base": rope["rope_theta"],
    }
    if "head_dim" in values:
        meta["attention.key_length"] = values["head_dim"]
    if values.get("sliding_window") and values.get("use_sliding_window", True):
        meta["attention.sliding_window"] = values["sliding_window"]
    if local:
        meta["rope.freq_base_swa"] = local["rope_theta"]
    if rope["rope_type"] == "linear":
        meta["rope.scaling.type"] = "linear"
        meta["rope.scaling.factor"] = rope["factor"]
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if values.get(key):
            meta[key] = values[key]
    return meta


def write(path, architecture, meta, tensors, kind=None):
    """Writes a GGUF file; keys without a dot of their own get the architecture's."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in meta.items():
        is_general = key.startswith(("general.", "tokenizer.", "split."))
        key = key if is_general else f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, tensor in tensors:
        writer.add_tensor(name, tensor, raw_dtype=kind if tensor.ndim > 1 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sentence_piece():
    """Returns the metadata of a SentencePiece model, and its scores by token."""
    words = ["▁the", "▁th", "he", "th", "▁t", "or", "ory", "▁theory", "eor", "▁a"]
    letters = sorted(set("▁thesoryand".replace("\n", "")))
    scores = {word: -float(rank) for rank, word in enumerate(words)}
    scores |= {letter: -100.0 - rank for rank, letter in enumerate(letters)}
    control = {"<unk>": 2, "<s>": 3, "</s>": 3}
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    kinds = [*control.values(), *[6] * 256, *[1] * len(scores)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*control, *bytes_, *scores],
        "tokenizer.ggml.scores": [0.0] * (3 + 256) + list(scores.values()),
        "tokenizer.ggml.token_type": kinds,
    }, scores
