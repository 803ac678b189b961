"""Makes tests/fixtures: a tiny random checkpoint of every family, and its logits.

    pip install -e '.[interop]' && python tests/make_fixtures.py [name ...]

The logits are those of transformers in float32, for a full row, a row padded at its end
and one padded at its start. The weights are large enough for every effect to show:
under the usual initialisation most of a model could be left out unnoticed.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
LENGTH = 24

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GATED = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 24}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}

FAMILIES = {
    "gpt2": transformers.GPT2Config(
        vocab_size=50,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(
        **SIZES | {"num_attention_heads": 2}, intermediate_size=24
    ),
    "opt": transformers.OPTConfig(**SIZES, ffn_dim=24),
    "llama": transformers.LlamaConfig(**GATED),
    "llama3": transformers.LlamaConfig(
        **GATED,
        rope_parameters=LLAMA3,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    ),
    "llama_linear": transformers.LlamaConfig(**GATED, rope_parameters=LINEAR),
    "smollm2": transformers.LlamaConfig(
        **GATED
        | {
            "hidden_size": 24,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        },
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    ),
    "mistral": transformers.MistralConfig(**GATED, sliding_window=5),
    "ministral": transformers.MinistralConfig(
        **GATED | {"num_hidden_layers": 3},
        sliding_window=5,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    ),
    "qwen2": transformers.Qwen2Config(
        **{k: v for k, v in GATED.items() if k != "head_dim"},
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
    ),
    "qwen3": transformers.Qwen3Config(**GATED, tie_word_embeddings=True),
    "gemma": transformers.GemmaConfig(**GATED, hidden_act="gelu"),
    "gemma2": transformers.Gemma2Config(
        **GATED,
        sliding_window=5,
        query_pre_attn_scalar=12,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=10.0,
    ),
    "gemma3": transformers.Gemma3TextConfig(
        **GATED | {"num_hidden_layers": 7, "num_key_value_heads": 1},
        sliding_window=5,
        query_pre_attn_scalar=12,
        rope_parameters={
            "full_attention": {**LINEAR, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        },
    ),
}


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Fills the parameters; norms stay near what they are at the start."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            is_one = bool((parameter == 1).all())
            parameter.data = is_one + 0.3 * noise
        elif "emb" in name or "wte" in name or "wpe" in name:
            parameter.data = 0.7 * noise
        else:
            parameter.data = noise / min(parameter.shape) ** 0.5


def batch() -> dict[str, np.ndarray]:
    """Returns tokens, and which of them are real."""
    rng = np.random.default_rng(0)
    real = np.ones((3, LENGTH), np.int32)
    real[1, 17:] = real[2, :8] = 0
    tokens = rng.integers(0, 50, real.shape, dtype=np.int32)
    return {"tokens": tokens, "segments": real}


def main() -> None:
    """Writes the fixtures that are named, or every one."""
    rows = batch()
    real = torch.tensor(rows["segments"])
    for name in sys.argv[1:] or FAMILIES:
        config = FAMILIES[name]
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        model.float()
        randomise(model, torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = model(
                torch.tensor(rows["tokens"]).long(),
                attention_mask=real,
                position_ids=(real.cumsum(1) - 1).clamp(min=0),
            ).logits
        logits = np.where(rows["segments"][..., None], logits.numpy(), 0)
        model.save_pretrained(FIXTURES / name)
        (FIXTURES / name / "generation_config.json").unlink(missing_ok=True)
        expected = {**rows, "logits": logits.astype(np.float32)}
        save_file(expected, FIXTURES / name / "expected.safetensors")
        size = (FIXTURES / name / "model.safetensors").stat().st_size
        print(f"{name}: {size:,} bytes, logits up to {np.abs(logits).max():.1f}")


if __name__ == "__main__":
    main()
