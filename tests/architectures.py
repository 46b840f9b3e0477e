"""Which architectures can be measured? `python -m tests.architectures` tries tiny random models and writes a table.

For every architecture: does it load, are losses and gradients those of a naive loop over single rows through the whole
model, and are texts continued in batches as each is alone? Texts are longer than the window of models that have one.
The table is docs/models.md. Takes some minutes; words on the command line choose architectures by name.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

from soft_prompts.console import ends_in_a_sentence
from soft_prompts.data.documents import Encoding
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench, PromptedModel
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.report.tables import as_markdown
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients
from tests.unit.conftest import save_random_model

CONTEXT, WINDOW = 128, 16
N_NEW = 12
"""Tokens of a continuation."""
EXACT = 1e-3
"""Largest error that rounding explains: of a loss in nats, of a gradient as a share of its length."""
PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": CONTEXT,
}
GROUPED = {**PLAIN, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
SLIDING = {**HEADS, "sliding_window": WINDOW}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GEMMA = {**SLIDING, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]}
LATENT = {
    **PLAIN,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
MAMBA = {"state_size": 8, "hidden_size": 32, "num_hidden_layers": 2}

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
INTRODUCTION = """# Models

Any causal language model works that transformers loads and that passes the check made on loading. It is refused in a
sentence if it computes something else from embeddings than from tokens, looks ahead, or lacks weights.

`python -m tests.architectures` made this table with transformers {transformers}: of {n} architectures, {n_exact} are
measured and exact. The models are tiny and random, the texts longer than any window. The columns say:

- *loss*: the largest error of a held-out loss, in nats, against single rows through the whole model; *gradient*: the
  error of the prompt's gradient against the same, as a share of its length. Both are rounding in float32.
- *texts*: whether texts of different lengths, continued together, are those that each gets alone. Without a cache
  every new token reads its whole text anew, which is slow: the architecture's own cache takes another form, or does not
  compute the same.

Of a real model, the check on loading has the last word: a factor or a per-layer input that this table does not try is
found there, too.

"""

ARCHITECTURES: dict[str, tuple[str, dict]] = {
    "gpt_neox": ("GPTNeoX", PLAIN),
    "llama": ("Llama", GROUPED),
    "llama, tied head": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", GPT),
    "gptj": ("GPTJ", {**GPT, "rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": CONTEXT,
            "window_size": WINDOW,
        },
    ),
    "codegen": ("CodeGen", {**GPT, "rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCode", GPT),
    "opt": ("OPT", {**PLAIN, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "opt, projected embeddings": (
        "OPT",
        {**PLAIN, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT}),
    "falcon, rotary": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "falcon, alibi": (
        "Falcon",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "alibi": True,
            "multi_query": False,
        },
    ),
    "stablelm": ("StableLm", GROUPED),
    "phi": ("Phi", PLAIN),
    "phi3": ("Phi3", {**GROUPED, "sliding_window": WINDOW, "pad_token_id": 0}),
    "phimoe": ("Phimoe", {**GROUPED, "num_local_experts": 4}),
    "mistral": ("Mistral", SLIDING),
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4}),
    "ministral": ("Ministral", SLIDING),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2, sliding": (
        "Qwen2",
        {**GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen2_moe": ("Qwen2Moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3": ("Qwen3", HEADS),
    "qwen3_moe": ("Qwen3Moe", {**HEADS, **EXPERTS}),
    "qwen3_next": (
        "Qwen3Next",
        {
            **HEADS,
            **EXPERTS,
            "num_hidden_layers": 4,
            "shared_expert_intermediate_size": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "gemma": ("Gemma", HEADS),
    "gemma2": ("Gemma2", GEMMA),
    "gemma2, no caps": ("Gemma2", {**GEMMA, "final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma3": ("Gemma3Text", GEMMA),
    "gemma3n": (
        "Gemma3nText",
        {
            **SLIDING,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "intermediate_size": [64, 64],
            "activation_sparsity_pattern": [0.0, 0.0],
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma4": (
        "Gemma4Text",
        {**SLIDING, "global_head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "vaultgemma": ("VaultGemma", GEMMA),
    "recurrent_gemma": (
        "RecurrentGemma",
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "attention_window_size": WINDOW,
            "lru_width": 32,
        },
    ),
    "olmo": ("Olmo", GROUPED),
    "olmo2": ("Olmo2", GROUPED),
    "olmo3": ("Olmo3", {**GROUPED, "sliding_window": WINDOW}),
    "olmoe": ("Olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "granite": (
        "Granite",
        {
            **GROUPED,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.25,
        },
    ),
    "granitemoe": ("GraniteMoe", {**GROUPED, **LOCAL_EXPERTS, "logits_scaling": 6.0}),
    "cohere": ("Cohere", {**GROUPED, "logit_scale": 0.0625}),
    "cohere2": ("Cohere2", {**GROUPED, "logit_scale": 0.25, "sliding_window": WINDOW}),
    "starcoder2": ("Starcoder2", {**GROUPED, "sliding_window": WINDOW}),
    "smollm3": ("SmolLM3", {**GROUPED, "num_hidden_layers": 4, "pad_token_id": 0}),
    "nemotron": ("Nemotron", GROUPED),
    "persimmon": ("Persimmon", PLAIN),
    "glm": ("Glm", {**HEADS, "pad_token_id": 0}),
    "glm4": ("Glm4", {**HEADS, "pad_token_id": 0}),
    "exaone4": ("Exaone4", {**GROUPED, "sliding_window": WINDOW, "sliding_window_pattern": 2}),
    "helium": ("Helium", HEADS),
    "ernie4_5": ("Ernie4_5", HEADS),
    "arcee": ("Arcee", GROUPED),
    "hunyuan": ("HunYuanDenseV1", HEADS),
    "seed_oss": ("SeedOss", HEADS),
    "apertus": ("Apertus", GROUPED),
    "diffllama": ("DiffLlama", GROUPED),
    "gpt_oss": ("GptOss", {**SLIDING, **LOCAL_EXPERTS}),
    "deepseek_v2": ("DeepseekV2", LATENT),
    "deepseek_v3": ("DeepseekV3", LATENT),
    "llama4": (
        "Llama4Text",
        {**HEADS, "num_local_experts": 4, "intermediate_size_mlp": 64, "attention_chunk_size": WINDOW},
    ),
    "minimax": ("MiniMax", {**HEADS, "num_local_experts": 4, "block_size": WINDOW}),
    "lfm2": ("Lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    "mamba": ("Mamba", MAMBA),
    "mamba2": ("Mamba2", {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "falcon_h1": (
        "FalconH1",
        {
            **GROUPED,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
    ),
    "jamba": (
        "Jamba",
        {
            **GROUPED,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": (
        "Bamba",
        {**GROUPED, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8},
    ),
    "zamba2": ("Zamba2", {**PLAIN, "layers_block_type": ["linear_attention", "hybrid"], "mamba_d_state": 8}),
    "rwkv": ("Rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": CONTEXT}),
    "xglm": (
        "XGLM",
        {
            "d_model": 32,
            "ffn_dim": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "scale_embedding": True,
        },
    ),
    "biogpt": ("BioGpt", {**PLAIN, "scale_embedding": True}),
    "xlnet": ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    "ctrl": ("CTRL", {"n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
    "openai-gpt": ("OpenAIGPT", GPT),
    "bert, causal": ("Bert", {**PLAIN, "is_decoder": True}),
    "bert, bidirectional": ("Bert", {**PLAIN, "is_decoder": False}),
    "roberta, causal": ("Roberta", {**PLAIN, "is_decoder": True}),
    "bart, decoder": (
        "Bart",
        {
            "d_model": 32,
            "decoder_layers": 2,
            "encoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": CONTEXT,
            "is_encoder_decoder": False,
            "is_decoder": True,
        },
    ),
    "gpt_neox_japanese": ("GPTNeoXJapanese", PLAIN),
    "dbrx": (
        "Dbrx",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": CONTEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "nanochat": ("NanoChat", GROUPED),
    "modernbert-decoder": ("ModernBertDecoder", {**PLAIN, "local_attention": WINDOW, "pad_token_id": 0}),
}
"""Name -> the configuration's class, without "Config", and its options."""


@dataclass(frozen=True)
class Found:
    """What was found of one architecture."""

    name: str
    refused: str = ""
    """Why it does not load; "" if it does."""
    loss: float = 0.0
    """Largest error of a held-out loss, in nats."""
    gradient: float = 0.0
    """Error of the prompt's gradient, as a share of its length."""
    same_texts: bool = True
    """Whether texts continued in batches are those of single rows."""
    has_cache: bool = True
    """Whether it continues texts with a key-value cache."""
    shares_starts: bool = False
    """Whether it read the prompt once for all texts."""

    @property
    def exact(self) -> bool:
        """Whether it loads, and all its numbers are right."""
        return not self.refused and self.loss < EXACT and self.gradient < EXACT and self.same_texts

    @property
    def cells(self) -> list[str]:
        """Its row of the table."""
        if self.refused:
            return [self.name, "refused", "", "", self.refused]
        texts = ("as alone" if self.same_texts else "WRONG") + ("" if self.has_cache else ", without a cache")
        return [self.name, "yes", f"{self.loss:.0e}", f"{self.gradient:.0e}", texts]


def try_architecture(name: str, folder: Path) -> Found:
    """Make a tiny random model, and compare what we compute of it with the naive way.

    Args:
        name: One of ARCHITECTURES.
        folder: Where the model is saved.
    """
    kind, options = ARCHITECTURES[name]
    save_random_model(getattr(transformers, f"{kind}Config")(**options), folder, vectors=0.1)
    try:
        model = load(str(folder), device="cpu")
    except SoftPromptsError as error:
        return Found(name, refused=_reason(str(error)))
    # The prompt is long, so that models that can read it once for all texts do.
    examples = [_random_text(model, n, seed) for seed, n in enumerate((40, 33, 9))]
    prompt = SoftPrompt(model.vocabulary[5:25].float(), model.scale)
    rows = (prompt.rows.detach().clone()).requires_grad_()

    def naive(e: Example) -> Tensor:
        logits = _logits(model, e.tokens, rows * model.scale)[len(rows) :]  # the prompt's last place predicts token 1
        return torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(e.tokens[1:]), reduction="none")

    losses = [naive(e) for e in examples]
    scores = evaluate(model, [prompt], examples, 4096)[0]
    loss = max(np.abs(x.detach().numpy() - y).max() for x, y in zip(losses, scores.losses, strict=True))
    torch.cat(losses).mean().backward()
    accumulate_gradients(model, Task(), [prompt], [examples], 4096)
    gradient = (prompt.rows.grad - rows.grad).norm() / rows.grad.norm()
    starts = [Example(e.tokens[:n], e.labels[:n], e.document) for e, n in zip(examples, (20, 14, 1), strict=True)]
    behind = PromptedModel(Bench(model, Encoding(model.tokenizer, model.separator, CONTEXT), [], 4096), prompt)
    texts = behind.generate(starts, N_NEW)
    alone = [_continued(model, start.tokens, rows * model.scale) for start in starts]
    same = all(np.array_equal(a, b) for a, b in zip(texts, alone, strict=True))
    return Found(name, "", float(loss), float(gradient), same, model.has_cache, model.shares_starts)


def _reason(refusal: str) -> str:
    """The part of a refusal that is about the architecture, without numbers."""
    return refusal.split("soft prompts: ")[-1].split("; choose")[0].split(" by ")[0]


def _random_text(model: LanguageModel, n: int, seed: int) -> Example:
    tokens = np.random.default_rng(seed).integers(1, 250, n)
    tokens[0] = model.separator
    return Example(tokens, np.array([IGNORE, *tokens[1:]]), f"text {seed}")


def _logits(model: LanguageModel, tokens: np.ndarray, prompt: Tensor) -> Tensor:
    """Plain: one row, the prompt behind the separator, through the whole model. [L, V]"""
    embeddings = model.lm.get_input_embeddings()(torch.from_numpy(tokens))
    row = torch.cat([embeddings[:1], prompt.to(embeddings.dtype), embeddings[1:]])
    return model.lm(inputs_embeds=row[None], use_cache=False).logits[0]


@torch.no_grad()
def _continued(model: LanguageModel, tokens: np.ndarray, prompt: Tensor) -> np.ndarray:
    """The most likely continuation, token by token through the whole model."""
    row = tokens
    for _ in range(N_NEW):
        token = int(_logits(model, row, prompt)[-1].argmax())
        if token == model.separator:
            break
        row = np.append(row, token)
    return row[len(tokens) :]


def table(found: Sequence[Found]) -> str:
    """What was found as the text of docs/models.md."""
    n_exact = sum(f.exact for f in found)
    header = ["architecture", "measured", "loss", "gradient", "texts"]
    # In GitHub's tables a cell must hold no bar.
    cells = [header, *(["".join(cell.split("|")) for cell in f.cells] for f in found)]
    return INTRODUCTION.format(n=len(found), n_exact=n_exact, transformers=version("transformers")) + as_markdown(
        "Tiny random models", cells
    )


def main(words: Sequence[str]) -> None:
    """Try the architectures whose names hold one of some words; without words all, and write docs/models.md."""
    transformers.logging.set_verbosity_error()
    names = [name for name in ARCHITECTURES if not words or any(word in name for word in words)]
    found = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found.append(try_architecture(name, Path(folder, "tiny")))
        print(" | ".join(found[-1].cells), flush=True)
    if not words:
        write_atomically(PAGE, table(found).encode())
    if wrong := [f.name for f in found if not f.refused and not f.exact]:
        raise SoftPromptsError(f"measured, but wrong: {', '.join(wrong)}; they must be refused or computed rightly.")


if __name__ == "__main__":
    with ends_in_a_sentence():
        main(sys.argv[1:])
