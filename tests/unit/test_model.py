"""Loading a model: it is frozen and whole, and what cannot be measured is refused in one sentence."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)

from soft_prompts.errors import SoftPromptsError
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.device import pick_device
from soft_prompts.models.fitness import check_fitness
from soft_prompts.models.language_model import Head, LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.models.names import split_revision
from soft_prompts.tasks.base import Task
from soft_prompts.training.loop import accumulate_gradients
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from tests.unit.conftest import CONFIGS, CONTEXT, TINY, make_examples, save_random_model


def bits(model) -> str:
    """A hash of everything that the model holds."""
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in model.lm.state_dict().values())).hexdigest()


def rewrite_weights(folder: Path, change: Callable[[str], str | None]) -> None:
    """Give the weights in a folder other names; without a name a weight is left out."""
    file = folder / "model.safetensors"
    weights = {change(name): weight for name, weight in load_file(file).items()}
    save_file({name: weight for name, weight in weights.items() if name}, file, {"format": "pt"})


def test_a_loaded_model_is_frozen_in_evaluation_mode_and_keeps_its_bits_through_training(model) -> None:
    before = bits(model)
    prompt = SoftPrompt(torch.randn(3, 32))
    optimizer = torch.optim.AdamW(prompt.parameters(), lr=0.1)
    for _ in range(3):
        accumulate_gradients(model, Task(), [prompt], [make_examples(4)], 10**6)
        optimizer.step()
    assert not model.lm.training
    assert not any(p.requires_grad or p.grad is not None for p in model.lm.parameters())
    assert model.lm.config._attn_implementation == "sdpa"
    assert bits(model) == before


def test_the_separator_is_bos_and_padding_is_resolved(model) -> None:
    assert model.separator == model.tokenizer.bos_token_id == 0
    assert model.tokenizer.pad_token_id is not None
    assert model.context == CONTEXT
    assert len(model.vocabulary) == len(model.tokenizer) == model.head.out_features - 7


def test_dtype_is_what_was_asked_not_what_the_checkpoint_has(folders) -> None:
    assert load(str(folders["neox"])).dtype == torch.float32
    assert load(str(folders["neox"]), dtype="bfloat16").dtype == torch.bfloat16


def test_the_weight_hash_does_not_depend_on_the_dtype_but_on_the_weights(folders) -> None:
    first, second = (load(str(folders["neox"]), dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert first.weight_hash == second.weight_hash
    assert first.weight_hash != load(str(folders["llama"])).weight_hash


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [GPT2Config, OPTConfig, Qwen2Config, MistralConfig], ids=lambda c: c.model_type)
def test_other_causal_models_pass_the_fitness_check(config, dtype: str, tmp_path) -> None:
    options = {**TINY, "ffn_dim": 64, "word_embed_proj_dim": 32, "num_key_value_heads": 4, "n_positions": CONTEXT}
    model = load(str(save_random_model(config(**options), tmp_path)), dtype=dtype)
    assert model.lm.config.model_type == config.model_type


def test_the_vocabulary_is_what_the_embedding_module_gives_not_its_matrix(tmp_path) -> None:
    """Gemma's embedding module multiplies by the square root of D. Rows, scale and learning rate must follow."""
    config = GemmaConfig(**TINY, num_key_value_heads=2, head_dim=8)
    model = load(str(save_random_model(config, tmp_path)))
    matrix = model.lm.get_input_embeddings().weight[: len(model.tokenizer)]
    torch.testing.assert_close(model.vocabulary, matrix * 32**0.5)
    assert model.scale == pytest.approx(32**0.5 * matrix.square().mean().sqrt().item(), rel=1e-5)
    assert not model.vocabulary.requires_grad


def test_a_vocabulary_that_the_model_reads_otherwise_is_refused(neox) -> None:
    wrong = replace(neox)
    wrong.__dict__["vocabulary"] = neox.vocabulary * 2
    with pytest.raises(SoftPromptsError, match="reading the embeddings of tokens.*changes its logits"):
        check_fitness(wrong)


def test_a_model_that_reads_only_embeddings_of_tokens_is_refused(neox, monkeypatch) -> None:
    """Such models find the token of an embedding. A trained prompt has none."""
    wrong, plain = replace(neox), type(neox).body

    def nearest(model, embeddings):
        of_tokens = model.vocabulary[torch.cdist(embeddings, model.vocabulary).argmin(-1)]
        return plain(model, of_tokens)

    monkeypatch.setattr(type(neox), "body", nearest)
    with pytest.raises(SoftPromptsError, match="embeddings that no token has.*changes its logits"):
        check_fitness(wrong)


def test_a_head_with_a_factor_that_no_configuration_names_is_refused(neox, monkeypatch) -> None:
    wrong = Head(neox.head.weight, factor=2.0)
    monkeypatch.setattr(LanguageModel, "head", wrong)
    with pytest.raises(SoftPromptsError, match=r"taking its head for a matrix .* changes its logits by [\d.]+"):
        check_fitness(neox)


def test_a_model_that_looks_ahead_is_refused(tmp_path) -> None:
    with pytest.raises(SoftPromptsError, match=r"what stands behind a token changes its logits by"):
        load(str(save_random_model(BertConfig(**TINY), tmp_path)))


def test_what_stops_inside_a_models_own_code_is_one_sentence(neox, monkeypatch) -> None:
    def needs_tokens(*_, **given):
        assert "input_ids" in given, "no token ids"

    monkeypatch.setattr(type(neox.lm), "forward", needs_tokens)
    message = "fed with embeddings, its own code stops with AttributeError: .*; choose another model"
    with pytest.raises(SoftPromptsError, match=message):
        load(neox.lm.config.name_or_path)


def test_a_tokenizer_of_more_entries_than_the_model_has_is_refused_with_both_numbers(tmp_path) -> None:
    folder = save_random_model(CONFIGS["llama"], tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<new-{i}>" for i in range(8)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(SoftPromptsError, match="token ids up to 264, but the model has 264 embeddings"):
        load(str(folder))


def test_a_tokenizer_that_does_not_know_where_tokens_stand_is_refused(folders, monkeypatch) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(SoftPromptsError, match="cannot say where in a text its tokens stand; put a tokenizer.json"):
        load(str(folders["neox"]))


def test_an_encoder_decoder_is_refused(tmp_path) -> None:
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(SoftPromptsError, match="encoder-decoder"):
        load(str(tmp_path))


def test_an_unknown_model_name_without_network_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"'nobody/no-such-model'.*check the spelling and the network, or give the path"
    with pytest.raises(SoftPromptsError, match=message):
        load("nobody/no-such-model")


def test_a_folder_without_a_model_is_one_sentence(tmp_path) -> None:
    with pytest.raises(SoftPromptsError, match=r"cannot be loaded as a causal language model.*config\.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("revision", ["main", "step3000"])
def test_a_folder_with_a_revision_is_refused_before_anything_is_recorded(folders, revision: str) -> None:
    for name in (str(folders["neox"]), "pocket"):
        run = Run("test", Task(), f"{name}@{revision}", 0, 0, TrainConfig(), "float32")
        for refused in (lambda run=run: run.config, lambda run=run: split_revision(run.model)):
            with pytest.raises(SoftPromptsError, match=rf"@{revision}' asks for a revision of a folder.*leave @"):
                refused()
    with pytest.raises(SoftPromptsError, match="'pocket@step3000' asks for a revision of a folder"):
        load("pocket", "step3000")


def test_names_of_the_hub_have_revisions_and_folders_may_have_an_at_sign(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine@home").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_revision("owner/name@step3000") == ("owner/name", "step3000")
    assert split_revision("owner/name") == ("owner/name", "main")
    assert split_revision("mine@home") == ("mine@home", "main")


def test_what_a_name_of_two_models_stands_for_is_said(folders, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner/name").symlink_to(folders["neox"])
    (tmp_path / "pocket").symlink_to(folders["neox"])
    monkeypatch.chdir(tmp_path)
    load("owner/name")
    assert "'owner/name' could be a model of the hub, too; the folder" in " ".join(capsys.readouterr().err.split())
    assert load("pocket").lm.config.hidden_size > 32
    assert "the model that ships was taken; ./pocket" in " ".join(capsys.readouterr().err.split())
    assert load("./pocket").lm.config.hidden_size == 32
    load(str(folders["neox"]))
    assert capsys.readouterr().err == ""


def test_a_truncated_weight_file_is_one_sentence(tmp_path) -> None:
    folder = save_random_model(CONFIGS["neox"], tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SoftPromptsError, match="cannot be loaded as a causal language model"):
        load(str(folder))


def test_a_damaged_tokenizer_is_one_sentence(tmp_path) -> None:
    tokenizer = save_random_model(CONFIGS["neox"], tmp_path) / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"BPE"', '"BP"'))
    with pytest.raises(SoftPromptsError, match="cannot be loaded as a causal language model"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: None if name == "lm_head.weight" else name, "lacks 1 of .*: lm_head.weight; save"),
        (lambda name: "_orig_mod." + name, "lacks 21 of .* and 18 more; it holds others .* such as _orig_mod"),
    ],
)
def test_a_checkpoint_that_lacks_weights_is_refused_with_their_names(change, said: str, tmp_path) -> None:
    """transformers fills them at random and goes on."""
    rewrite_weights(folder := save_random_model(CONFIGS["llama"], tmp_path), change)
    with pytest.raises(SoftPromptsError, match=said):
        load(str(folder))


def test_a_checkpoint_of_another_vocabulary_is_refused_with_both_shapes(tmp_path) -> None:
    folder = save_random_model(CONFIGS["llama"], tmp_path)
    config = AutoConfig.from_pretrained(folder)
    config.vocab_size += 3
    config.save_pretrained(folder)
    with pytest.raises(SoftPromptsError, match=r"lm_head.weight \(\[264, 32\] instead of \[267, 32\]\)"):
        load(str(folder))


def test_a_tied_head_is_not_lacking(tmp_path) -> None:
    folder = save_random_model(LlamaConfig(**TINY, tie_word_embeddings=True), tmp_path)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = load(str(folder))
    assert model.head.weight is model.lm.get_input_embeddings().weight


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(SoftPromptsError, match="'warp' cannot be used here.*--device cpu"):
        pick_device("warp")


def test_pythia_at_its_real_shape_loads_with_its_real_tokenizer(data, tmp_path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(data / "configs/pythia/70m")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(data / "tokenizers/pythia").save_pretrained(tmp_path)
    model = load(str(tmp_path))
    assert (model.separator, len(model.vocabulary), model.head.out_features, model.context) == (0, 50_277, 50_304, 2048)
