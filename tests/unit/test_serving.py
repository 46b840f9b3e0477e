"""A trained prompt in use, and elsewhere: PEFT computes the same logits with it, to the bit."""

import base64
import io
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import soft_prompts
from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine.evaluate import evaluate
from soft_prompts.engine.prompted import Bench
from soft_prompts.errors import SoftPromptsError
from soft_prompts.export import Settings, main
from soft_prompts.interventions.soft_prompt import PromptGenerator, SoftPrompt
from soft_prompts.models.loading import load as load_model
from soft_prompts.report.collection import Filter, collect
from soft_prompts.results.snapshot import Use, save_prompt
from soft_prompts.save import _use
from soft_prompts.serving import Prompted, _model_of
from soft_prompts.tasks.base import Task
from soft_prompts.tasks.chess_moves import RATINGS
from soft_prompts.training.recipe import TrainConfig
from soft_prompts.training.run import Run
from tests.unit.conftest import make_examples
from tests.unit.test_page import measured

WIDTH, TEXT = 32, "some text, and more"


@pytest.fixture(params=["neox", "llama"])
def model(request, folders):
    return load_model(str(folders[request.param]))


def saved(model, path: Path, behind: str = "separator", conditional: bool = False) -> Path:
    """A snapshot of a random prompt of three tokens."""
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(3, model.vocabulary.shape[1], generator=random)
    prompt = PromptGenerator(rows, 0.1, (2, 8), random, 1.0) if conditional else SoftPrompt(rows, 0.1)
    use = Use(model.separator, behind, asdict(RATINGS) if conditional else None)
    run = {"experiment": "e", "n_tokens": 3, "seed": 0, "task": {"name": "T"}, "train": {"steps": 5}}
    save_prompt(prompt, model, run, path, use)
    return path


def ids_of(model, text: str = TEXT) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def naive_logits(model, rows: torch.Tensor, text: str = TEXT) -> torch.Tensor:
    """Of separator, prompt and text, one after another, by the model alone."""
    first, last = (
        model.lm.get_input_embeddings()(torch.tensor(ids)) for ids in ([model.separator], ids_of(model, text))
    )
    with torch.no_grad():
        return model.lm(inputs_embeds=torch.cat([first, rows, last])[None]).logits[0]


def test_log_probabilities_are_those_of_the_model_behind_the_prompt(model, folders, tmp_path) -> None:
    prompted = soft_prompts.load(saved(model, tmp_path / "p.safetensors"), folder_of(model, folders), "float32")
    (found,) = prompted.logprobs([TEXT])
    expected = naive_logits(model, prompted.rows()).log_softmax(-1)[3:-1]  # from the prompt's last token on
    assert found == pytest.approx([float(expected[i, token]) for i, token in enumerate(ids_of(model))], abs=1e-4)


def folder_of(model, folders) -> str:
    return str(folders[model.name])


def test_writing_goes_on_by_the_most_likely_token(model, folders, tmp_path) -> None:
    prompted = soft_prompts.load(saved(model, tmp_path / "p.safetensors"), folder_of(model, folders), "float32")
    text, expected = TEXT, ""
    for _ in range(3):
        token = int(naive_logits(model, prompted.rows(), text)[-1].argmax())
        if token in model.ends or token >= len(model.tokenizer):
            break
        expected += model.tokenizer.decode([token])
        text = TEXT + expected
    written = prompted.generate(TEXT, 3)
    assert written.startswith(expected) or "\ufffd" in written + expected  # a byte may be no letter
    assert prompted.generate(TEXT, 5, 1.0, 3) == prompted.generate(TEXT, 5, 1.0, 3)


def test_a_condition_is_given_in_people_s_numbers(model, folders, tmp_path) -> None:
    prompted = soft_prompts.load(saved(model, tmp_path / "p", conditional=True), folder_of(model, folders), "float32")
    with torch.no_grad():
        (expected,) = prompted.prompt(torch.tensor([[0.25, 0.5]]))
    assert torch.equal(prompted.rows((1500, 2000)), expected)
    with pytest.raises(SoftPromptsError, match=r"condition is \(1500,\), .* takes 2 numbers \(white's rating, black's"):
        prompted.generate(TEXT, 2, condition=(1500,))
    with pytest.raises(SoftPromptsError, match="this prompt takes no condition"):
        soft_prompts.load(saved(model, tmp_path / "q"), folder_of(model, folders)).rows((1.0,))


def test_a_prompt_behind_a_text_goes_on_from_there_and_scores_nothing(model, folders, tmp_path) -> None:
    prompted = soft_prompts.load(saved(model, tmp_path / "p", "text"), folder_of(model, folders), "float32")
    with pytest.raises(SoftPromptsError, match="stands behind a text"):
        prompted.logprobs([TEXT])
    example = prompted.start(TEXT)
    assert example.insert_at == len(example.tokens) == 1 + len(ids_of(model))
    with pytest.raises(SoftPromptsError, match="--to embeds writes a whole input"):
        main(Settings(tmp_path / "p", tmp_path / "out", model=folder_of(model, folders)))


def test_a_snapshot_from_before_says_so(model, folders, tmp_path) -> None:
    save_prompt(SoftPrompt(torch.randn(2, WIDTH), 0.1), model, {}, tmp_path / "old")
    with pytest.raises(SoftPromptsError, match="older version; train it again with --force"):
        soft_prompts.load(tmp_path / "old", folder_of(model, folders))
    with pytest.raises(SoftPromptsError, match="name the folder or file of"):  # the snapshot knows no path
        soft_prompts.load(saved(model, tmp_path / "p"))
    (tmp_path / "bad").write_bytes(b"no")
    with pytest.raises(SoftPromptsError, match="could not read the snapshot"):
        soft_prompts.load(tmp_path / "bad")


@pytest.mark.parametrize("conditional", [False, True])
def test_peft_computes_the_same_logits_to_the_bit(model, folders, tmp_path, conditional: bool) -> None:
    """Also of a naive adapter, which forgets the separator, it can be seen that it does not."""
    base = folder_of(model, folders)
    condition = (1500.0, 2000.0) if conditional else ()
    path = saved(model, tmp_path / "snapshots" / "p.safetensors", conditional=conditional)
    main(Settings(path, tmp_path / "out", model=base, condition=condition))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out"))
    ids = torch.tensor([ids_of(model)])
    with torch.no_grad():
        of_peft = adapted.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    own = naive_logits(model, soft_prompts.load(path, base, "float32").rows(condition))
    assert torch.equal(of_peft, own)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["num_virtual_tokens"], config["token_dim"], config["revision"]) == (4, WIDTH, None)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert set(tensors) == {"prompt_embeddings"}
    assert (naive_logits(model, tensors["prompt_embeddings"][2:])[-1] - own[-1]).abs().max() > 0.1
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"base_model: {base}" in card and "a soft prompt of 3 tokens" in card and "Held-out loss" not in card


def test_the_evaluation_harness_gives_the_same_log_likelihoods(model, folders, tmp_path) -> None:
    """EleutherAI's lm-evaluation-harness, if it is installed: it is no requirement. With an adapter, it cuts off the
    outputs that the tokenizer has no tokens for, so what they would have got goes to the others."""
    harness = pytest.importorskip("lm_eval.models.huggingface", reason="lm-eval is not installed")
    base, path = folder_of(model, folders), saved(model, tmp_path / "p.safetensors")
    main(Settings(path, tmp_path / "out", model=base))
    lm = harness.HFLM(pretrained=base, peft=str(tmp_path / "out"), device="cpu", dtype="float32", add_bos_token=False)
    asked = [(TEXT[:10], TEXT[10:]), (TEXT[:4], TEXT[4:12]), ("b", "c")]
    found = lm.loglikelihood([SimpleNamespace(args=pair) for pair in asked], disable_tqdm=True)
    prompted = soft_prompts.load(path, base, "float32")
    for (a, b), (loglikelihood, _) in zip(asked, found, strict=True):
        own = float(np.sum(prompted.logprobs([a + b])[0][len(ids_of(model, a)) :]))
        logits = naive_logits(model, prompted.rows(), a + b)[3 + len(ids_of(model, a)) : -1]
        cut_off = (logits.logsumexp(-1) - logits[:, : len(model.tokenizer)].logsumexp(-1)).sum().item()
        assert loglikelihood == pytest.approx(own + cut_off, abs=1e-4) and cut_off > 1e-3
    plain = harness.HFLM(pretrained=base, device="cpu", dtype="float32", add_bos_token=False)
    without = plain.loglikelihood([SimpleNamespace(args=pair) for pair in asked], disable_tqdm=True)
    assert abs(without[0][0] - found[0][0]) > 0.01  # the prompt was there


def test_a_card_says_what_was_measured_of_the_prompt_and_of_its_curve(model, folders, tmp_path) -> None:
    config = {"experiment": "e", "task": {"name": "T"}, "train": {"steps": 5, "batch_size": 2}}
    place = Path("e", "m", "0123abcd")
    for n, loss in {0: 5.0, 3: 2.0, 8: 2.0}.items():
        measured(n, loss, config=config).save(tmp_path / "results" / place / f"tokens-{n:04d}-seed-0.json")
    # Another curve of the model, which is none of the prompt's business.
    measured(0, 9.0, config={**config, "task": {"name": "U"}}).save(
        tmp_path / "results" / "e" / "m" / "other" / "tokens-0000-seed-0.json"
    )
    path = tmp_path / "snapshots" / place / "tokens-0003-seed-0.safetensors"
    prompt = SoftPrompt(torch.randn(3, WIDTH), 0.1)
    save_prompt(prompt, model, {**config, "n_tokens": 3, "seed": 0}, path, Use(model.separator, "separator"))
    main(Settings(path, tmp_path / "out", model=folder_of(model, folders)))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Held-out loss: 2.000 [" in card
    curve = collect([tmp_path / "results" / place], Filter()).shown[0].summary
    assert f"Of prompts of all lengths: {curve}." in card and "(0, 3]" in str(curve)
    assert card.count("Of prompts of all lengths") == 1


def test_a_whole_input_as_embeddings_and_the_nearest_tokens(model, folders, tmp_path) -> None:
    base = folder_of(model, folders)
    for behind in ("separator", "text"):
        path = saved(model, tmp_path / f"{behind}.safetensors", behind)
        main(Settings(path, tmp_path / behind, "embeds", base, text=TEXT))
        embeds = load_file(tmp_path / behind / "embeds.safetensors")["prompt_embeds"]
        rows = soft_prompts.load(path, base, "float32").rows()
        at = 1 if behind == "separator" else 1 + len(ids_of(model))
        assert torch.equal(embeds[at : at + 3], rows) and len(embeds) == 4 + len(ids_of(model))
        assert torch.equal(embeds[0], model.vocabulary[model.separator])
    known = SoftPrompt(3 * model.vocabulary[[ord("a") - 30, 7]].float(), 0.1)
    save_prompt(known, model, {}, tmp_path / "known", Use(model.separator, "separator"))
    main(Settings(tmp_path / "known", tmp_path / "text", "text", base))
    lines = (tmp_path / "text" / "nearest.txt").read_text().splitlines()
    decoded = [model.tokenizer.decode([i]) for i in (ord("a") - 30, 7)]
    assert [line.partition(" 1.00")[0] for line in lines] == [repr(text) for text in decoded]


def test_the_model_is_the_one_that_the_snapshot_names(pocket, tmp_path) -> None:
    prompted = soft_prompts.load(saved(pocket, tmp_path / "p.safetensors"))
    assert prompted.model.name == "pocket" and prompted.model.weight_hash == pocket.weight_hash
    facts = {"model": {"name": "org/name", "revision": "step3000"}}
    assert _model_of(facts) == "org/name@step3000"
    assert _model_of({"model": {"name": "org/name", "revision": "main"}}) == "org/name"


@pytest.mark.parametrize("n", [0, 2])
def test_conditions_of_a_task_that_names_none_are_taken_as_they_are(neox, n: int) -> None:
    state = SimpleNamespace(run=Run("e", Task(), "m", 1, 0, TrainConfig(), "float32"))
    use = _use(state, Bench(neox, None, [replace(e, insert_at=1) for e in make_examples(3, n_conditions=n)], 4096))
    assert use.behind == "separator" and use.separator == neox.separator
    prompted = Prompted(neox, SoftPrompt(torch.randn(1, WIDTH), 0.1), use)
    assert prompted._condition((0.5, 3.0)[:n]).tolist() == [0.5, 3.0][:n]


def test_a_place_within_a_text_is_told_from_one_behind_it(neox, folders, tmp_path) -> None:
    """Behind a text, what is scored follows at once."""
    state = SimpleNamespace(run=Run("e", Task(), "m", 1, 0, TrainConfig(), "float32"))
    tokens = np.arange(1, 6)

    def of(*places: int) -> str:
        labels = np.array([IGNORE, IGNORE, IGNORE, 4, 5])
        examples = [Example(tokens, labels, str(place), insert_at=place) for place in places]
        return _use(state, Bench(neox, None, examples, 4096)).behind

    assert [of(0, 0), of(1, 1), of(3, 3), of(3, 5), of(2, 2), of(1, 3)] == [
        "nothing",
        "separator",
        "text",
        "text",
        "within",
        "within",
    ]
    path = saved(neox, tmp_path / "p", "within")
    prompted = soft_prompts.load(path, folder_of(neox, folders), "float32")
    for use in (lambda: prompted.generate(TEXT, 2), lambda: prompted.logprobs([TEXT])):
        with pytest.raises(SoftPromptsError, match="stands within a text, where only its task knows; say where"):
            use()
    for form in ("peft", "embeds"):
        with pytest.raises(SoftPromptsError, match="stands within a text, where only its task knows; it has no such"):
            main(Settings(path, tmp_path / "out", form, folder_of(neox, folders)))
    at = prompted.start(TEXT, at=4)
    begins = neox.tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert at.insert_at == 1 + len([i for i, _ in begins if i < 4]) > 1
    assert len(prompted.continued(at, 2)) <= 2


def test_peft_s_prompts_and_none_are_taken_as_well(model, folders, tmp_path) -> None:
    base = folder_of(model, folders)
    path = saved(model, tmp_path / "p.safetensors")
    main(Settings(path, tmp_path / "out", model=base))
    there, again = soft_prompts.load(path, base, "float32"), soft_prompts.load(tmp_path / "out", "", "float32")
    assert torch.equal(again.rows(), there.rows()) and again.use == there.use
    assert again.generate(TEXT, 5) == there.generate(TEXT, 5)
    none = soft_prompts.load(None, base, "float32")
    expected = naive_logits(model, torch.zeros(0, WIDTH)).log_softmax(-1)[:-1]
    assert none.logprobs([TEXT])[0] == pytest.approx(
        [float(row[token]) for row, token in zip(expected, ids_of(model), strict=True)], abs=1e-4
    )
    with pytest.raises(SoftPromptsError, match="without a prompt, nothing says which model is meant; name the model"):
        soft_prompts.load(None)


def test_how_likely_a_reply_is_and_what_would_have_been_likelier(model, folders, tmp_path) -> None:
    for behind in ("separator", "text"):
        path = saved(model, tmp_path / behind, behind)
        prompted = soft_prompts.load(path, folder_of(model, folders), "float32")
        start, new = prompted.start(TEXT[:6]), np.array(ids_of(model)[3:6])
        own, ids, best = prompted.likely(start, new, 4)
        rows, first = prompted.rows(), torch.tensor([model.separator, *ids_of(model, TEXT[:6])])
        order = (first[:1], None, first[1:], torch.from_numpy(new))
        order = order if behind == "separator" else (first, None, torch.from_numpy(new))
        embedded = torch.cat([rows if part is None else model.embed(part) for part in order])
        with torch.no_grad():
            logprobs = model.lm(inputs_embeds=embedded[None]).logits[0].log_softmax(-1)[-len(new) - 1 : -1]
        assert own == pytest.approx(logprobs[range(3), new].tolist(), abs=1e-4)
        assert best == pytest.approx(logprobs.topk(4).values.numpy(), abs=1e-4)
        assert ids.tolist() == logprobs.topk(4).indices.tolist()


def test_scores_agree_with_those_of_an_evaluation(model, folders, tmp_path) -> None:
    prompted = soft_prompts.load(saved(model, tmp_path / "p"), folder_of(model, folders), "float32")
    tokens = np.array([model.separator, *ids_of(model)])
    example = Example(tokens, np.concatenate([[IGNORE], tokens[1:]]), "d")
    (scores,) = evaluate(model, [prompted.prompt], [replace(example)], 4096)
    assert -sum(prompted.logprobs([TEXT])[0]) == pytest.approx(scores.sums[0], rel=1e-5)


@contextmanager
def server(lm, tokenizer, n_tokens: int):
    """Answers as vLLM's and SGLang's servers do, which take the embeddings of a whole input; yields its port."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/completions":  # vLLM: a tensor as torch.save writes it, in base 64
                packed = io.BytesIO(base64.b64decode(asked["prompt_embeds"], validate=True))
                rows, n = torch.load(packed, weights_only=True), asked["max_tokens"]
            else:  # SGLang: numbers, row by row
                assert self.path == "/generate"
                rows, n = torch.tensor(asked["input_embeds"]), asked["sampling_params"]["max_new_tokens"]
            assert n == 40 and rows.dim() == 2 and rows.is_floating_point()
            for _ in range(n_tokens):
                best = lm(inputs_embeds=rows[None]).logits[0, -1].argmax()
                rows = torch.cat([rows, lm.get_input_embeddings()(best[None])])
                ids.append(int(best))
            text = tokenizer.decode(ids[-n_tokens:])
            answer = json.dumps({"text": text, "choices": [{"text": text}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    ids: list[int] = []
    listening = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.mark.parametrize("at", ["localhost:8000", "localhost:30000"])
def test_calls_of_servers_that_the_page_shows_get_the_answer_of_generate(at: str, folders, tmp_path, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (call,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if at in code]
    model = load_model(str(folders["llama"]))
    path, n_tokens = saved(model, tmp_path / "p.safetensors"), 5
    main(Settings(path, tmp_path / "out", "embeds", str(folders["llama"]), text=TEXT))
    prompted = soft_prompts.load(path, str(folders["llama"]))
    with torch.no_grad(), server(model.lm, model.tokenizer, n_tokens) as port:
        exec(call.replace("FOLDER", str(tmp_path / "out")).replace(at, f"127.0.0.1:{port}"), {})
    assert capsys.readouterr().out.rstrip("\n") == prompted.generate(TEXT, n_tokens=n_tokens)
    assert prompted.generate(TEXT, n_tokens) != soft_prompts.load(None, str(folders["llama"])).generate(TEXT, n_tokens)
