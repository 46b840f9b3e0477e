"""Clusters that are known, tokens that are known to be unused, and what the tables say of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from soft_prompts.data.texts import read_texts
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.language_model import LanguageModel
from soft_prompts.models.loading import load
from soft_prompts.models.spread import copied
from soft_prompts.probes import undertrained
from soft_prompts.probes.clusters import agreement, fits, k_means, silhouette, without_clusters
from soft_prompts.probes.undertrained import (
    ORDINARY,
    PARTIAL,
    SPECIAL,
    UNREACHABLE,
    Tokens,
    from_unused,
    indicator,
    is_tied,
    known_unused,
    of_like_frequency,
    repeats,
    tokens_of,
)
from soft_prompts.probes.vocabulary import SHARE, VocabularyProbe, _undertrained, repeated, vocabulary
from soft_prompts.texts import BOOKS, GOVERNMENT
from tests import vocabulary_test
from tests.vocabulary_test import POCKET, RESULT, Settings, config_of, found_in, place, table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "vocabulary"


def planted_clusters() -> tuple[np.ndarray, np.ndarray]:
    """Three clouds that lie far apart, of 50, 30 and 20 vectors, and which vector is of which."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    return random.normal(size=(100, 8)) + 100 * np.eye(8)[labels], labels


def test_planted_clusters_are_found_with_their_members_from_every_start() -> None:
    rows, labels = planted_clusters()
    found = fits(rows, (2, 3, 4, 5), 4)
    best = max(found, key=lambda fit: fit.silhouette)
    assert best.k == 3 and best.agreement == 1.0 and best.silhouette > 0.9
    members = k_means(rows, 3, 4)[0].nearest_first()
    assert [set(of) for of in members] == [set(np.flatnonzero(labels == j)) for j in range(3)]
    of_first = rows[labels == 0]
    distances = np.linalg.norm(rows[members[0]] - of_first.mean(0), axis=1)
    assert (np.diff(distances) >= 0).all() and distances[0] < distances[-1]


def test_a_gaussian_with_the_same_covariance_has_none_of_the_clusters() -> None:
    rows, _ = planted_clusters()
    control = without_clusters(rows, 5000)
    np.testing.assert_allclose(control.mean(0), rows.mean(0), atol=3)
    np.testing.assert_allclose(np.cov(control, rowvar=False), np.cov(rows, rowvar=False), atol=150)
    assert np.cov(rows, rowvar=False).max() > 2000
    (of_rows,), (of_control,) = fits(rows, (3,), 4), fits(control[:100], (3,), 4)
    assert of_control.silhouette < 0.4 < of_rows.silhouette


def test_in_round_noise_the_starts_disagree_and_no_vector_belongs_anywhere() -> None:
    (fit,) = fits(np.random.default_rng(0).normal(size=(400, 32)), (8,), 4)
    assert fit.agreement < 0.2 and abs(fit.silhouette) < 0.03


def test_agreement_is_the_adjusted_rand_index() -> None:
    a = np.array([0, 0, 0, 1, 1, 1])
    assert agreement([a, 1 - a]) == 1.0  # the names of clusters do not count
    # Together in both: 2 pairs of 15; in a: 6, in b: 3; so 2 - 6 * 3 / 15 of (6 + 3) / 2 - 6 * 3 / 15.
    assert agreement([a, np.array([0, 0, 1, 1, 2, 2])]) == pytest.approx((2 - 1.2) / (4.5 - 1.2))
    assert agreement([a, a, np.array([0, 0, 1, 1, 2, 2])]) == pytest.approx((1 + 2 * 0.8 / 3.3) / 3)
    assert agreement([a, np.array([0, 1, 0, 1, 0, 1])]) < 0
    assert agreement([np.zeros(3, int), np.zeros(3, int)]) == 1.0


def test_silhouette_by_hand() -> None:
    at = np.array([0.0, 1.0, 4.0, 10.0])
    between = np.abs(at[:, None] - at)
    # 0: 1 to its own, 7 to the others. 1: 1 and 6. 4 is with 10: 6 and 3.5. 10: 6 and 9.5.
    parts = [(7 - 1) / 7, (6 - 1) / 6, (3.5 - 6) / 6, (9.5 - 6) / 9.5]
    assert silhouette(between, np.array([7, 7, 2, 2])) == pytest.approx(np.mean(parts))
    # 10 alone counts 0. 4 is with 0 and 1: 3.5 to its own, 6 to the other.
    parts = [(10 - 2.5) / 10, (9 - 2) / 9, (6 - 3.5) / 6, 0]
    assert silhouette(between, np.array([0, 0, 0, 1])) == pytest.approx(np.mean(parts))


def small_tokenizer() -> PreTrainedTokenizerFast:
    """BPE that writes "abab" as "ab" "ab", though its vocabulary has an entry for it. It knows bytes of no text."""
    entries = ["<|end|>", "a", "b", ".", "ab", "abab", "Ġa", "Ġ", "Ã", "À", "õ"]
    bpe = models.BPE({entry: i for i, entry in enumerate(entries)}, [("a", "b"), ("Ġ", "a")])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>")


def test_a_token_whose_text_is_written_with_others_is_unreachable() -> None:
    tokens = tokens_of(small_tokenizer())
    assert tokens.classes.tolist() == [SPECIAL, *[ORDINARY] * 4, UNREACHABLE, ORDINARY, ORDINARY, *[PARTIAL] * 3]
    assert tokens.shown(5) == "«abab»" and tokens.shown(6) == "« a»" and tokens.shown(8) == "«Ã»"
    assert Tokens(["a\n\x00"], tokens.classes).shown(0) == r"«a\n\x00»"


def test_a_word_that_is_written_otherwise_at_the_start_of_a_text_is_reachable() -> None:
    """As sentencepiece has it: a text begins with a space, which decoding drops."""
    entries = ["<s>", "▁a", "a", "▁.", ".", "▁"]
    bpe = models.BPE({entry: i for i, entry in enumerate(entries)}, [("▁", "a"), ("▁", ".")])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Metaspace()
    tokens = tokens_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"))
    assert tokens.classes[1:5].tolist() == [ORDINARY] * 4
    assert [tokens.texts[i] for i in (1, 2)] == [" a", "a"]


def test_unused_are_bytes_of_no_text_and_rows_beyond_the_vocabulary(neox: LanguageModel) -> None:
    tokens = tokens_of(neox.tokenizer)
    unused = known_unused(neox, tokens)
    n = len(tokens.texts)
    assert len(neox.head.weight) == n + 7 and unused[-7:] == list(range(n, n + 7))
    of_bytes = {tokens.texts[i].encode("latin-1")[0] for i in unused[:-7]}
    assert of_bytes == {0xC0, 0xC1, *range(0xF5, 0x100)} and len(unused) == 13 + 7


def test_without_unused_rows_the_norm_of_the_input_embedding_counts(neox: LanguageModel) -> None:
    assert not is_tied(neox)
    tokens = tokens_of(neox.tokenizer)
    name, values = indicator(neox, tokens, known_unused(neox, tokens))
    assert name == "norm of the input embedding" and len(values) == len(tokens.texts)
    np.testing.assert_allclose(values, neox.vocabulary.float().norm(dim=1), rtol=1e-6)


def test_the_distance_from_unused_rows_leaves_out_what_all_rows_share() -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 6, generator=random)
    rows[:, 0] = 50  # shared by all: with it, all rows are alike
    rows[:4, 1:] = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0]) + 0.01 * torch.randn(4, 5, generator=random)
    rows[3, 1:] *= -1  # one of those that are said to be unused is in use
    distances = from_unused(rows, [0, 1, 3, 2])
    assert distances[:3].max() < 0.01 and distances[3] > 1.9 and distances[4:].min() > 0.05


PLANTED = (1000, 1500, 2000)
"""Ordinary tokens of pocket that its texts have."""
CHAT = (1, 2, 3)
"""The marks of dialogues, which pocket's training never had, and pocket-chat's had."""


def planted(pocket: LanguageModel) -> LanguageModel:
    """pocket with the rows of three words as its training leaves rows that no text has: those of the marks."""
    lm = copied(pocket.lm)
    with torch.no_grad():
        weight = lm.get_output_embeddings().weight
        weight[list(PLANTED)] = weight[list(CHAT)]
    return replace(pocket, lm=lm)


def ranks(model: LanguageModel) -> list[int]:
    """Where the words stand by the indicator among ordinary tokens of letters; 0 is the most under-trained."""
    tokens = tokens_of(model.tokenizer)
    _, values = indicator(model, tokens, known_unused(model, tokens))
    words = [i for i in tokens.of(ORDINARY) if tokens.texts[i].strip().isalpha()]
    order = sorted(words, key=lambda i: values[i])
    assert len(order) > 2000
    return sorted(order.index(i) for i in PLANTED)


def test_planted_rows_that_no_text_trained_are_at_the_top_and_ordinary_ones_are_not(pocket: LanguageModel) -> None:
    assert is_tied(pocket)
    assert ranks(planted(pocket)) == [0, 1, 2]
    assert ranks(pocket)[0] > 500


def test_planted_rows_are_not_repeated(pocket: LanguageModel) -> None:
    before, after = (repeats(model, PLANTED) for model in (pocket, planted(pocket)))
    assert before.shape == (3, len(undertrained.REPEAT))
    assert (after.max(1) < 1e-4).all() and (after.max(1) < before.max(1)).all()


def test_marks_lie_with_the_unused_tokens_until_dialogues_are_trained_on(pocket: LanguageModel) -> None:
    """They are not among the tokens that distances are measured from. pocket-chat reads them, but never writes them."""
    distances = {}
    for model in (pocket, load("pocket-chat")):
        tokens = tokens_of(model.tokenizer)
        unused = known_unused(model, tokens)
        assert not set(unused) & set(CHAT) and len(unused) == 13
        name, values = indicator(model, tokens, unused)
        assert name == "distance from unused tokens"
        distances[model.name] = values[list(CHAT)]
    assert (distances["pocket"] < 0.0005).all() and (distances["pocket-chat"] > 0.003).all()


def test_a_repeated_token_has_the_probability_that_the_model_gives_it(neox: LanguageModel) -> None:
    """Read anew, a text at a time, from token ids that are put together by hand."""
    tokens = [40, 100, 7]
    found = repeats(neox, tokens, at_once=2)
    for i, token in enumerate(tokens):
        for j, pieces in enumerate(undertrained.REPEAT):
            ids = [neox.separator]
            for k, piece in enumerate(pieces):
                ids += [token] * (k > 0) + neox.tokenizer(piece, add_special_tokens=False)["input_ids"]
            logits = neox.lm(torch.tensor([ids])).logits[0, -1]
            assert found[i, j] == pytest.approx(logits.softmax(-1)[token].item(), rel=1e-4)


def test_each_candidate_has_another_token_of_nearly_its_frequency_beside_it() -> None:
    assert of_like_frequency([10, 11, 50], [1, 9, 13, 60, 49, 200]) == [9, 13, 49]
    assert of_like_frequency([5, 5, 5], [4, 7, 100]) == [4, 7, 100]


def test_shares_have_wilsons_interval() -> None:
    of = repeated(np.array([0.0, 0.009, 0.01, 0.5]), np.array([0.2, 0.2, 0.001, 0.6]))
    assert (of["fails"]["value"], of["others_fail"]["value"], of["below"]["value"]) == (0.5, 0.25, 0.75)
    # (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) with p = 1/2, n = 4 and z = 1.95996
    z = 1.959964
    half = z * np.sqrt(0.25 / 4 + z**2 / 64) / (1 + z**2 / 4)
    assert of["fails"]["interval"] == pytest.approx([0.5 - half, 0.5 + half], abs=1e-6)


SMALL = VocabularyProbe(ks=(2, 5), look_at=3, starts=2, sample=200, candidates=8)


def test_what_is_recorded_says_the_same_as_what_there_is_of_every_token(pocket: LanguageModel) -> None:
    found = vocabulary(pocket, SMALL)
    record, of = found.record, found.by_token
    assert record["entries"] == 3072 == len(of["id"]) and record["tied"] and record["unreachable"] == []
    assert record["classes"] == {name: of["class"].count(name) for name in record["classes"]}
    assert [x["k"] for x in record["clusters"]["shown"]] == sorted({3, record["clusters"]["chosen"]})
    for shown in record["clusters"]["shown"]:
        labels = np.array(of[f"cluster_of_{shown['k']}"])
        assert sorted(m["size"] for m in shown["members"]) == sorted(np.bincount(labels))
    candidates = record["undertrained"]["candidates"]
    ordinary = [i for i in of["id"] if of["class"][i] == ORDINARY]
    assert [c["indicator"] for c in candidates] == sorted(of["indicator"][i] for i in ordinary)[:8]
    assert all(of["indicator"][c["id"]] == c["indicator"] and c["id"] in ordinary for c in candidates)
    assert [part["fails"]["n"] for part in record["undertrained"]["parts"]] == [2, 2, 2, 2, 8]
    rows = pocket.vocabulary.float()
    distances = (rows - rows.mean(0)).norm(dim=1)
    np.testing.assert_allclose(of["distance_to_centroid"], distances, atol=1e-3)
    assert record["centroid"]["nearest"][0]["id"] == int(distances.argmin())
    for one in candidates:
        assert one["centroid_rank"] == pytest.approx((distances < distances[one["id"]]).sum().item() / 3071, abs=2e-4)


def test_as_many_are_candidates_as_the_paper_takes(pocket: LanguageModel) -> None:
    record, _ = _undertrained(pocket, tokens_of(pocket.tokenizer), VocabularyProbe())
    assert len(record["candidates"]) == round(SHARE * 2938) == 59
    assert [part["fails"]["n"] for part in record["parts"]] == [15, 15, 15, 14, 59]


def test_tokens_that_are_known_to_be_unused_can_be_named(pocket: LanguageModel) -> None:
    tokens = tokens_of(pocket.tokenizer)
    record, _ = _undertrained(pocket, tokens, replace(SMALL, unused=("<|user|>", "õ")))
    assert record["unused"] == ["«<|user|>»", "«õ»"] and record["n_unused"] == 2
    with pytest.raises(SoftPromptsError, match="--unused names '<unused_1>', which the vocabulary of pocket does not"):
        _undertrained(pocket, tokens, replace(SMALL, unused=("<unused_1>",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": (1, 2)}, "must be at least 2"),
        ({"ks": ()}, "must be at least 2"),
        ({"starts": 1}, "must be at least 2"),
        ({"look_at": 1}, "0 or at least 2"),
        ({"sample": 5}, "a sample of more tokens than clusters"),
        ({"candidates": 3}, "4 candidates at least"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict, message: str) -> None:
    with pytest.raises(SoftPromptsError, match=message):
        replace(SMALL, **options).check()


def test_more_clusters_than_tokens_are_refused(neox: LanguageModel) -> None:
    with pytest.raises(SoftPromptsError, match=r"has 257 tokens, too few for 300 clusters; give smaller --ks"):
        vocabulary(neox, replace(SMALL, look_at=300))


def test_a_model_is_looked_at_once(tmp_path, capsys, folders) -> None:
    settings = Settings(models=(str(folders["llama"]),), probe=SMALL, out=tmp_path, dtype="float32", device="cpu")
    vocabulary_test.run(settings)
    path = tmp_path / "results" / place(config_of(settings, settings.models[0])) / RESULT
    first = path.stat().st_mtime_ns
    shown = capsys.readouterr().out
    vocabulary_test.run(settings)
    assert path.stat().st_mtime_ns == first and capsys.readouterr().out == shown
    assert shown.strip() == table(tmp_path).strip() and shown.startswith("**llama**: 257 tokens (")
    tokens = (tmp_path / "runs" / place(config_of(settings, settings.models[0])) / "tokens.csv").read_text()
    assert len(tokens.splitlines()) == 258 and tokens.startswith("id,token,class,indicator,")
    other = replace(settings, probe=replace(SMALL, look_at=0))
    assert place(config_of(other, settings.models[0])) != place(config_of(settings, settings.models[0]))
    assert len(vocabulary_test.figure(tmp_path).axes) == 2


def test_a_folder_without_results_and_a_file_that_is_none_are_refused(tmp_path) -> None:
    with pytest.raises(SoftPromptsError, match="there are no results of vocabulary"):
        table(tmp_path)
    for content in ("{", "[]", '{"config": {"experiment": "chess"}}'):
        (tmp_path / RESULT).write_text(content)
        with pytest.raises(SoftPromptsError, match="cannot be read as a result"):
            table(tmp_path)


def test_no_character_of_a_token_means_anything_in_a_table() -> None:
    shown = vocabulary_test._shown("«a|b»", "«*x* _y_ `z`»", "«<b>»")
    assert shown == r"«a\|b» «\*x\* \_y\_ \`z\`» «&lt;b>»"


def test_the_committed_results_are_those_of_the_presets() -> None:
    (of_pocket,) = POCKET.models
    assert (ROOT / "results" / place(config_of(replace(POCKET, device="cpu"), of_pocket)) / RESULT).is_file()
    found = found_in(RESULTS)
    assert [result["config"]["model"] for result in found] == ["pocket", "smollm2"]
    for result in found:
        settings = vocabulary_test.PRESETS[result["config"]["model"]]
        assert result["config"]["probe"] == config_of(replace(settings, device="cpu"), of_pocket)["probe"]
    assert all(path.stat().st_size < 300_000 for path in RESULTS.rglob("*") if path.is_file())


def test_the_tables_of_the_page_are_those_of_the_committed_results() -> None:
    page = (ROOT / "results" / "vocabulary.md").read_text()
    parts = table(RESULTS).split("\n\n")
    assert len(parts) > 10 and all(part in page for part in parts)


def test_words_that_pocket_is_found_to_have_hardly_seen_are_in_none_of_the_texts_that_ship(pocket) -> None:
    """Pieces of words that longer tokens have swallowed. The tokens beside them are in these texts."""
    found = found_in(RESULTS)[0]["undertrained"]["candidates"]
    hardly = [one["id"] for one in found if one["token"].strip("« »").isalpha()][:5]
    assert [pocket.tokenizer.decode([i]) for i in hardly] == [" memb", "gether", " agenc", "Hub", " webs"]
    assert all(one["repeated"] < 0.001 for one in found if one["id"] in hardly)
    counts = np.zeros(3072, int)
    for file in (BOOKS, GOVERNMENT):
        texts = read_texts([str(file)], None, 500, 10_000).documents
        for row in pocket.tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
            counts += np.bincount(row, minlength=3072)
    assert counts.sum() > 200_000
    assert counts[hardly].sum() == 0 and np.median(counts[500:]) > 20
