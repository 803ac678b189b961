"""The tensors of every family, one table each.

Each row holds the parameter, the tensor and the layout that relates them (`layouts`).
Not every model of a family has all of them; its config decides.
"""

Tensors = dict[str, tuple[str, str]]


def _rows(text: str, layers: str = "") -> Tensors:
    """Returns the rows of a table; `layers` prefixes the tensors of a layer."""
    rows = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        parameter, tensor, layout = map(str.strip, line.split("|"))
        inside = "layers/" if layers else ""
        rows[inside + parameter] = (layers + tensor, layout)
    return rows


GPT2 = _rows("""
    embed/tokens     | transformer.wte.weight  | v d
    embed/positions  | transformer.wpe.weight  | p d
    final_norm/scale | transformer.ln_f.weight | d
    final_norm/bias  | transformer.ln_f.bias   | d
    head/kernel      | lm_head.weight          | v d -> d v
""") | _rows(
    """
    attention_norm/scale   | ln_1.weight        | d
    attention_norm/bias    | ln_1.bias          | d
    attention/query/kernel | attn.c_attn.weight | d (0 h k) -> d h k
    attention/query/bias   | attn.c_attn.bias   | (0 h k) -> h k
    attention/key/kernel   | attn.c_attn.weight | d (1 h k) -> d h k
    attention/key/bias     | attn.c_attn.bias   | (1 h k) -> h k
    attention/value/kernel | attn.c_attn.weight | d (2 h k) -> d h k
    attention/value/bias   | attn.c_attn.bias   | (2 h k) -> h k
    attention/out/kernel   | attn.c_proj.weight | (h k) d -> h k d
    attention/out/bias     | attn.c_proj.bias   | d
    mlp_norm/scale         | ln_2.weight        | d
    mlp_norm/bias          | ln_2.bias          | d
    mlp/up/kernel          | mlp.c_fc.weight    | d f
    mlp/up/bias            | mlp.c_fc.bias      | f
    mlp/down/kernel        | mlp.c_proj.weight  | f d
    mlp/down/bias          | mlp.c_proj.bias    | d
    """,
    "transformer.h.{}.",
)

NEOX = _rows("""
    embed/tokens     | gpt_neox.embed_in.weight         | v d
    final_norm/scale | gpt_neox.final_layer_norm.weight | d
    final_norm/bias  | gpt_neox.final_layer_norm.bias   | d
    head/kernel      | embed_out.weight                 | v d -> d v
""") | _rows(
    """
    attention_norm/scale   | input_layernorm.weight           | d
    attention_norm/bias    | input_layernorm.bias             | d
    attention/query/kernel | attention.query_key_value.weight | (h 0 k) d -> d h k
    attention/query/bias   | attention.query_key_value.bias   | (h 0 k) -> h k
    attention/key/kernel   | attention.query_key_value.weight | (h 1 k) d -> d h k
    attention/key/bias     | attention.query_key_value.bias   | (h 1 k) -> h k
    attention/value/kernel | attention.query_key_value.weight | (h 2 k) d -> d h k
    attention/value/bias   | attention.query_key_value.bias   | (h 2 k) -> h k
    attention/out/kernel   | attention.dense.weight           | d (h k) -> h k d
    attention/out/bias     | attention.dense.bias             | d
    mlp_norm/scale         | post_attention_layernorm.weight  | d
    mlp_norm/bias          | post_attention_layernorm.bias    | d
    mlp/up/kernel          | mlp.dense_h_to_4h.weight         | f d -> d f
    mlp/up/bias            | mlp.dense_h_to_4h.bias           | f
    mlp/down/kernel        | mlp.dense_4h_to_h.weight         | d f -> f d
    mlp/down/bias          | mlp.dense_4h_to_h.bias           | d
    """,
    "gpt_neox.layers.{}.",
)

OPT = _rows("""
    embed/tokens     | model.decoder.embed_tokens.weight     | v d
    embed/positions  | model.decoder.embed_positions.weight  | p+2 d -> p d
    final_norm/scale | model.decoder.final_layer_norm.weight | d
    final_norm/bias  | model.decoder.final_layer_norm.bias   | d
    head/kernel      | lm_head.weight                        | v d -> d v
""") | _rows(
    """
    attention_norm/scale   | self_attn_layer_norm.weight | d
    attention_norm/bias    | self_attn_layer_norm.bias   | d
    attention/query/kernel | self_attn.q_proj.weight     | (h k) d -> d h k
    attention/query/bias   | self_attn.q_proj.bias       | (h k) -> h k
    attention/key/kernel   | self_attn.k_proj.weight     | (h k) d -> d h k
    attention/key/bias     | self_attn.k_proj.bias       | (h k) -> h k
    attention/value/kernel | self_attn.v_proj.weight     | (h k) d -> d h k
    attention/value/bias   | self_attn.v_proj.bias       | (h k) -> h k
    attention/out/kernel   | self_attn.out_proj.weight   | d (h k) -> h k d
    attention/out/bias     | self_attn.out_proj.bias     | d
    mlp_norm/scale         | final_layer_norm.weight     | d
    mlp_norm/bias          | final_layer_norm.bias       | d
    mlp/up/kernel          | fc1.weight                  | f d -> d f
    mlp/up/bias            | fc1.bias                    | f
    mlp/down/kernel        | fc2.weight                  | d f -> f d
    mlp/down/bias          | fc2.bias                    | d
    """,
    "model.decoder.layers.{}.",
)

# Llama, Mistral, Qwen2, Qwen3 and the first Gemma.
LLAMA = _rows("""
    embed/tokens     | model.embed_tokens.weight | v d
    final_norm/scale | model.norm.weight         | d
    head/kernel      | lm_head.weight            | v d -> d v
""") | _rows(
    """
    attention_norm/scale       | input_layernorm.weight          | d
    attention/query/kernel     | self_attn.q_proj.weight         | (h k) d -> d h k
    attention/query/bias       | self_attn.q_proj.bias           | (h k) -> h k
    attention/key/kernel       | self_attn.k_proj.weight         | (g k) d -> d g k
    attention/key/bias         | self_attn.k_proj.bias           | (g k) -> g k
    attention/value/kernel     | self_attn.v_proj.weight         | (g k) d -> d g k
    attention/value/bias       | self_attn.v_proj.bias           | (g k) -> g k
    attention/out/kernel       | self_attn.o_proj.weight         | d (h k) -> h k d
    attention/out/bias         | self_attn.o_proj.bias           | d
    attention/query_norm/scale | self_attn.q_norm.weight         | k
    attention/key_norm/scale   | self_attn.k_norm.weight         | k
    mlp_norm/scale             | post_attention_layernorm.weight | d
    mlp/gate/kernel            | mlp.gate_proj.weight            | f d -> d f
    mlp/gate/bias              | mlp.gate_proj.bias              | f
    mlp/up/kernel              | mlp.up_proj.weight              | f d -> d f
    mlp/up/bias                | mlp.up_proj.bias                | f
    mlp/down/kernel            | mlp.down_proj.weight            | d f -> f d
    mlp/down/bias              | mlp.down_proj.bias              | d
    """,
    "model.layers.{}.",
)

# Gemma 2 and 3 also normalise each output before adding it to the residual stream.
GEMMA = LLAMA | _rows(
    """
    attention_post_norm/scale | post_attention_layernorm.weight   | d
    mlp_norm/scale            | pre_feedforward_layernorm.weight  | d
    mlp_post_norm/scale       | post_feedforward_layernorm.weight | d
    """,
    "model.layers.{}.",
)
