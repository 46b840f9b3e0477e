"""Models in GGUF files: numbers as from safetensors, nothing but the file, and a sentence for what cannot be."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import fingerprint
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.models.gguf import READER
from soft_prompts.models.loading import load
from soft_prompts.models.names import SMOLLM2, SMOLLM2_COMMAND, local_path, model_name, split_revision
from soft_prompts.sweep import Sweep, plan
from soft_prompts.tasks.base import Task
from tests.unit.conftest import CONFIGS, TINY, save_random_model
from tests.unit.made_up import byte_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny random llama as transformers keeps it. Its heads are grouped: an order that is not theirs shows."""
    config = LlamaConfig(**{**TINY, "hidden_size": 96, "num_attention_heads": 6}, num_key_value_heads=2)
    return save_random_model(config, tmp_path_factory.mktemp("whole"))


def write_gguf(
    folder: Path,
    file: Path,
    architecture: str = "llama",
    kind: str = "F32",
    without: str = "nothing",
    rope_freqs: bool = False,
    rope_factor: float | None = None,
) -> Path:
    """Write a llama in a folder to a GGUF file, as llama.cpp's converter does.

    Args:
        folder: As save_random_model makes it.
        file: Where the file goes.
        architecture: What the file calls it.
        kind: How the numbers of matrices are written.
        without: A tensor that is left out.
        rope_freqs: Add factors of the rotary frequencies as a tensor.
        rope_factor: One factor of rotary positions, among the metadata.
    """
    gguf = pytest.importorskip("gguf", reason=f"GGUF files are written and read with {READER}")
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, writer = lm.config, gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    entries = sorted(byte_tokenizer().get_vocab().items(), key=lambda entry: entry[1])
    spare = [f"<unused{i}>" for i in range(config.vocab_size - len(entries) - 1)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*(entry for entry, _ in entries), "ab", *spare])
    writer.add_token_types([3] + [1] * len(entries) + [5] * len(spare))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in lm.state_dict().items():
        rows = weight.numpy()
        if heads := {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(name[-13:-12]):
            # [heads, 2, n, D] to [heads, n, 2, D]: the two numbers that are turned together lie side by side
            rows = rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        if (called := names.get_name(name, try_suffixes=(".weight",))) != without:
            kept = gguf.GGMLQuantizationType[kind if rows.ndim > 1 else "F32"]
            if kept == gguf.GGMLQuantizationType.F64:  # a kind of number that is written and not read
                writer.add_tensor(called, rows.astype(np.float64))
            else:
                writer.add_tensor(called, gguf.quantize(np.ascontiguousarray(rows), kept), raw_dtype=kept)
    if rope_freqs:
        writer.add_tensor("rope_freqs.weight", np.full(config.head_dim // 2, 8.0, np.float32))
    if rope_factor:
        writer.add_rope_scaling_factor(rope_factor)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return file


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory) -> Path:
    return write_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny-F32.gguf")


@torch.no_grad()
def test_a_file_gives_the_logits_of_the_same_weights_in_safetensors(folder, file) -> None:
    model, wanted = load(str(file)), load(str(folder))
    tokens = torch.randint(258, (2, 100), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.lm(tokens).logits, wanted.lm(tokens).logits, rtol=0, atol=0)
    assert (model.name, model.revision, model.separator, model.context) == ("tiny-F32", "local", 0, wanted.context)
    assert model.weight_hash == wanted.weight_hash
    assert not any(p.requires_grad for p in model.lm.parameters()) and model.lm.config._attn_implementation == "sdpa"
    text = "Ein schöner Tag"
    assert model.tokenizer(text, add_special_tokens=False).input_ids == wanted.tokenizer(text).input_ids
    assert model.tokenizer("ab", add_special_tokens=False).input_ids == [257]  # the merges are the file's, too


def test_weights_of_few_bits_become_numbers_of_the_dtype_that_is_asked_for(folder, tmp_path) -> None:
    exact = load(str(folder)).vocabulary
    largest = exact.view(len(exact), -1, 32).abs().amax(-1, keepdim=True)  # of every 32 numbers that share a scale
    written = write_gguf(folder, tmp_path / "bits.gguf", kind="Q8_0")
    for dtype in (torch.float32, torch.bfloat16):
        model = load(str(written), dtype=str(dtype).removeprefix("torch."))
        assert {p.dtype for p in model.lm.parameters()} == {dtype}
        error = (model.vocabulary[: len(exact)].float() - exact).view(len(exact), -1, 32).abs() / largest
        half_a_step = 1 / 254  # between two numbers of 8 bits; besides, the scale is a float16
        rounding = 2**-11 + (2**-8 if dtype == torch.bfloat16 else 0)
        assert 0.9 * half_a_step < error.max() < half_a_step + rounding


def test_nothing_beside_the_file_is_read(folder, file, tmp_path, monkeypatch) -> None:
    """Neither a tokenizer in its folder or the working folder, nor a file of its name in the working folder."""
    wanted = load(str(file))
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    write_gguf(save_random_model(CONFIGS["llama"], tmp_path / "other"), here / file.name)
    shutil.copy(file, there)
    other = byte_tokenizer()
    other.add_tokens(["Ein", "Tag"])
    other.save_pretrained(there), other.save_pretrained(here)
    monkeypatch.chdir(here)
    for name, called in (("../there", "there"), (f"../there/{file.name}", "tiny-F32")):
        model = load(name)
        assert model.name == called
        assert model.weight_hash == wanted.weight_hash
        assert model.tokenizer_hash == wanted.tokenizer_hash
    assert load(file.name).weight_hash != wanted.weight_hash


def test_a_model_is_known_by_its_own_name_and_the_fingerprint_of_the_file(tmp_path) -> None:
    def config(model: Path) -> dict:
        return plan(Sweep("test", Task(), (str(model),), (0,)), str(model))[0].config

    file, alone = tmp_path / "tiny-F32.gguf", tmp_path / "my-model"
    alone.mkdir()
    file.write_bytes(b"GGUF: its content")
    copy = Path(shutil.copy(file, alone))
    (alone / "LICENSE").write_text("of no weight")
    assert [config(path)["model"] for path in (file, copy, alone)] == ["tiny-F32", "tiny-F32", "my-model"]
    assert {config(path)["model_files"] for path in (file, copy, alone)} == {fingerprint(file)}
    copy.write_bytes(b"GGUF: its contend")
    assert config(alone)["model_files"] != config(file)["model_files"]
    (alone / "config.json").write_text("{}")
    assert local_path(str(alone)) == alone  # a model of transformers goes before the file beside it
    assert split_revision(str(copy)) == (str(copy), "main")
    copy.rename(at := alone / "a@b.gguf")
    assert split_revision(str(at)) == (str(at), "main")
    assert split_revision("a/b@step3") == ("a/b", "step3")


def refusal(model: Path) -> str:
    """The sentence that a model is refused with."""
    with pytest.raises(SoftPromptsError) as refused:
        load(str(model))
    return str(refused.value)


def test_a_folder_of_several_files_is_refused_with_their_names(tmp_path) -> None:
    for name in ("b.gguf", "a.gguf", "notes.txt"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert re.search(r"several models \(a\.gguf, b\.gguf\); give the path of one", refusal(tmp_path))


def test_a_file_that_is_not_there_is_one_sentence() -> None:
    assert re.search(r"no file 'some/where\.gguf'; check the path", refusal(Path("some/where.gguf")))


def test_without_the_package_that_reads_it_the_sentence_names_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert re.search(rf"model\.gguf can be read only.*pip install --no-deps {READER}", refusal(tmp_path))


@pytest.mark.parametrize("kept", [4, 30, 1000, 5000, 8000, 0.5, -1])
def test_a_file_that_is_cut_short_is_one_sentence(file, tmp_path, kept) -> None:
    whole, cut = file.read_bytes(), tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * kept) if kept == 0.5 else kept])
    assert re.search(r"cut\.gguf \([\d,]+ bytes\) is cut short or damaged; compare its size.*download", refusal(cut))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_file_that_is_no_gguf_is_one_sentence(file, tmp_path, content: bytes) -> None:
    (tmp_path / "page.gguf").write_bytes(content)
    assert re.search(r"page\.gguf does not begin as a GGUF file does; download", refusal(tmp_path))


def test_an_architecture_or_a_kind_of_number_that_is_not_known_is_one_sentence(folder, file, tmp_path) -> None:
    of_images = refusal(write_gguf(folder, tmp_path / "images.gguf", architecture="clip"))
    assert re.search(r"\(.*architecture clip is not supported.*\).*architectures .*llama, .*folder", of_images)
    doubles = refusal(write_gguf(folder, tmp_path / "doubles.gguf", kind="F64"))
    assert re.search(r"\(.*F64 is not yet implemented.*\).*numbers such as F16, Q8_0", doubles)
    content = bytearray(file.read_bytes())
    kind = content.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8  # behind the count and the length
    content[kind] = 99
    (tmp_path / "new.gguf").write_bytes(content)
    assert re.search(r"\(.*99\)? is not a valid GGMLQuantizationType.*numbers such as", refusal(tmp_path / "new.gguf"))


def test_a_file_that_lacks_weights_is_refused_and_not_filled_in_at_random(folder, tmp_path) -> None:
    part = write_gguf(folder, tmp_path / "part.gguf", without="blk.1.attn_k.weight")
    said = refusal(part)
    assert re.search(
        r"part\.gguf' lacks 1 of the model's weights, .*: model\.layers\.1\.self_attn\.k_proj\.weight", said
    )


@pytest.mark.parametrize("scaling", [{"rope_freqs": True}, {"rope_factor": 4.0}])
def test_scaled_rotary_positions_that_would_be_lost_are_refused(folder, tmp_path, scaling) -> None:
    scaled = write_gguf(folder, tmp_path / "scaled.gguf", **scaling)
    assert re.search(r"scales its rotary positions \((rope_freqs\.weight|factor 4)\).*safetensors", refusal(scaled))


def test_a_factor_of_one_scales_nothing(folder, tmp_path) -> None:
    assert load(str(write_gguf(folder, tmp_path / "plain.gguf", rope_factor=1.0))).name == "plain"


def test_smollm2_names_a_package_and_says_how_to_install_it(tmp_path, monkeypatch) -> None:
    (tmp_path / SMOLLM2).mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name changes nothing
    assert model_name(SMOLLM2) == SMOLLM2
    monkeypatch.setattr(sys, "path", [])  # nothing is installed
    assert refusal(Path(SMOLLM2)).endswith(SMOLLM2_COMMAND)


ENGLISH = (
    "The old house stood at the end of the road, and nobody had lived in it for years.",
    "Water boils at one hundred degrees Celsius at the level of the sea.",
    "She opened the letter, read it twice, and put it back into the drawer without a word.",
)


def test_smollm2_knows_english_and_has_a_chat_template() -> None:
    try:
        file = local_path(SMOLLM2)
    except SoftPromptsError as error:
        pytest.skip(str(error))
    model = load(SMOLLM2)
    assert (model.name, model.lm.config.model_type, len(model.vocabulary)) == (SMOLLM2, "llama", 49_152)
    assert plan(Sweep("test", Task(), (SMOLLM2,), (0,)), SMOLLM2)[0].config["model"] == SMOLLM2
    assert file.stat().st_size == 98_362_432
    tokens = np.array([model.separator, *model.tokenizer(" ".join(ENGLISH), add_special_tokens=False).input_ids])
    examples = [Example(tokens, np.array([IGNORE, *tokens[1:]]), "English")]
    (scores,) = evaluate(model, [SoftPrompt(model.vocabulary[:0].float())], examples, 4096)
    assert scores.loss < 4.0  # 10.8 without any knowledge
    chat = model.tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert "<|im_start|>user\nHello<|im_end|>" in chat
    assert model.tokenizer("e2e4 g1f3", add_special_tokens=False).tokens()[:4] == ["e", "2", "e", "4"]
