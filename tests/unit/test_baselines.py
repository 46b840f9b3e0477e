import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from soft_prompts.data.example import IGNORE, Example
from soft_prompts.engine import baselines as module
from soft_prompts.engine.baselines import ALPHAS, N_BINS, Baseline, data_baselines

SEPARATOR = 9
Context = tuple[object, ...]


def document(
    name: object, tokens: list[int], labels: list[int] | None = None, condition: float | None = None
) -> Example:
    """A document; by default every token behind the first is wanted where it stands."""
    conditions = np.array([] if condition is None else [condition], np.float32)
    wanted = np.array(labels or [IGNORE, *tokens[1:]])
    return Example(np.array(tokens), wanted, f"document-{name}", condition=conditions)


def named(training: list[Example], held_out: list[Example], n_vocabulary: int) -> dict[str, Baseline]:
    return {b.name: b for b in data_baselines(training, held_out, n_vocabulary)}


def naive_alpha(labels: list[int], n_vocabulary: int) -> float:
    """The constant under which every label is most likely, once it is left out."""

    def left_out(alpha: float) -> float:
        rest = [(y, labels[:i] + labels[i + 1 :]) for i, y in enumerate(labels)]
        return sum(math.log((r.count(y) + alpha) / (len(r) + alpha * n_vocabulary)) for y, r in rest)

    return max(ALPHAS, key=left_out)


def naive_unigram(training: list[Example], n_vocabulary: int) -> np.ndarray:
    labels = [int(y) for e in training for y in e.labels if y != IGNORE]
    alpha = naive_alpha(labels, n_vocabulary)
    return np.array([(labels.count(y) + alpha) / (len(labels) + alpha * n_vocabulary) for y in range(n_vocabulary)])


def contexts(e: Example, i: int, order: int, given_conditions: bool) -> list[Context]:
    """What position i is predicted from, the shortest first."""
    bins = tuple(e.condition.tolist()) if given_conditions else ()
    tokens = [(bins, *e.tokens[i - n : i].tolist()) for n in range(1, order + 1) if n <= i]
    return [(bins,), *tokens] if given_conditions else tokens


def naive_losses(
    training: list[Example], held_out: list[Example], unigram: np.ndarray, order: int, given_conditions: bool = False
) -> list[float]:
    """Witten-Bell as it is written, a dictionary for every context. Every value of a condition is a bin."""
    counts: dict[Context, Counter[int]] = defaultdict(Counter)
    for e in training:
        for i in np.flatnonzero(e.labels != IGNORE):
            for context in contexts(e, i, order, given_conditions):
                counts[context][int(e.labels[i])] += 1
    losses = []
    for e in held_out:
        losses.append(0.0)
        for i in np.flatnonzero(e.labels != IGNORE):
            p = unigram[e.labels[i]]
            for context in contexts(e, i, order, given_conditions):
                if context in counts:
                    seen = counts[context]
                    p = (seen[int(e.labels[i])] + len(seen) * p) / (seen.total() + len(seen))
            losses[-1] -= math.log(p)
    return losses


def random_examples(n: int, seed: int, n_tokens: int, n_labels: int, n_values: int = 3) -> list[Example]:
    """Documents of 1 to 12 tokens with holes, few different tokens, and two conditions of few values."""
    random = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        tokens = random.integers(0, n_tokens, random.integers(1, 13))
        labels = np.where(random.random(len(tokens)) < 0.7, random.integers(0, n_labels, len(tokens)), IGNORE)
        labels[1:] = np.where(random.random(len(tokens) - 1) < 0.5, labels[1:], tokens[:-1] % n_labels)
        labels[0] = IGNORE
        condition = random.integers(0, n_values, 2) / 4
        examples.append(Example(tokens, labels, f"{seed}-{i}", condition=condition.astype(np.float32)))
    return examples


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_order_equals_a_plain_count_with_dictionaries(monkeypatch, seed: int) -> None:
    """Held-out documents have contexts, labels and conditions that training lacks, and tokens outside the
    vocabulary."""
    monkeypatch.setattr(module, "ORDERS", {str(n): n for n in range(1, 7)})
    training, held_out = random_examples(60, seed, n_tokens=4, n_labels=4), random_examples(25, seed + 9, 9, 6, 4)
    unigram = naive_unigram(training, 7)
    found = named(training, held_out, 7)
    for order in range(1, 7):
        assert found[str(order)].losses == pytest.approx(naive_losses(training, held_out, unigram, order))
        # A held-out value above all training values is in the bin of the largest.
        known = [replace(e, condition=np.minimum(e.condition, np.float32(0.5))) for e in held_out]
        wanted = naive_losses(training, known, unigram, order, given_conditions=True)
        assert found[f"{order} given conditions"].losses == pytest.approx(wanted)


def test_names_and_order_of_the_baselines() -> None:
    plain = [document(i, [SEPARATOR, 1, 2]) for i in range(2)]
    names = ["uniform", "unigram", "bigram", "trigram", "5-gram"]
    assert [b.name for b in data_baselines(plain, plain, 10)] == names
    conditional = [document(i, [SEPARATOR, 1, 2], condition=0.5) for i in range(2)]
    names += ["bigram given conditions", "trigram given conditions", "5-gram given conditions"]
    assert [b.name for b in data_baselines(conditional, conditional, 10)] == names


def test_losses_are_those_of_documents_and_add_up() -> None:
    training, held_out = random_examples(30, 0, 5, 5), random_examples(10, 1, 5, 5)
    together = data_baselines(training, held_out, 5)
    for i, e in enumerate(held_out):
        for alone, b in zip(data_baselines(training, [e], 5), together, strict=True):
            assert b.losses[i] == pytest.approx(alone.losses[0])
            assert b.counts[i] == alone.counts[0] == e.n_scored
    assert {b.losses.dtype for b in together} == {np.dtype(np.float64)}
    assert together[0].losses == pytest.approx([e.n_scored * math.log(5) for e in held_out])
    n_scored = sum(e.n_scored for e in held_out)
    assert [b.loss for b in together] == pytest.approx([b.losses.sum() / n_scored for b in together])


def test_probabilities_sum_to_one_behind_every_context() -> None:
    """Also behind those never seen, and in every bin of conditions. Each label in turn is the last one wanted."""
    training = random_examples(60, 3, 4, 4)
    for before in ([0, 1, 2, 3, 0], [1, 1], [3, 8, 1, 2], [8]):
        for condition in ([0, 0], [0.5, 0.25], [7, -7]):
            held_out = [
                Example(
                    np.array([*before, 0]),
                    np.array([IGNORE] * len(before) + [label]),
                    str(label),
                    condition=np.array(condition, np.float32),
                )
                for label in range(6)
            ]
            for b in data_baselines(training, held_out, 6):
                assert np.exp(-b.losses).sum() == pytest.approx(1), (b.name, before, condition)


def test_what_always_follows_is_nearly_free_for_the_bigram() -> None:
    """0 1 2 0 1 2 ..., 300 tokens behind a separator that is never wanted: a third each, whatever is added to all."""
    cycle = [document("cycle", [SEPARATOR, *([0, 1, 2] * 100)])]
    found = named(cycle, cycle, 3)
    assert found["unigram"].loss == pytest.approx(math.log(3))
    # Behind the separator 0 came once, behind 0 and 1 their followers 100 times, behind 2 its own 99 times.
    first, others, last = (1 + 1 / 3) / 2, (100 + 1 / 3) / 101, (99 + 1 / 3) / 100
    by_hand = -(math.log(first) + 200 * math.log(others) + 99 * math.log(last))
    assert found["bigram"].losses == pytest.approx([by_hand])
    assert found["bigram"].loss < 0.01


@pytest.mark.parametrize("n_between, probability", [(3, 3 / 4), (4, 1 / 2)])
def test_a_5_gram_reads_four_tokens_and_no_more(n_between: int, probability: float) -> None:
    """The last token is the same as the one before some others that tell nothing."""
    labels = [[IGNORE] * (n_between + 2) + [k] for k in (0, 1)]
    examples = [document(k, [SEPARATOR, k, *[5] * n_between, k], labels[k]) for k in (0, 1)]
    found = named(examples, examples, 2)
    assert np.exp(-found["bigram"].losses) == pytest.approx([1 / 2] * 2)
    assert np.exp(-found["5-gram"].losses) == pytest.approx([probability] * 2)


def test_contexts_do_not_reach_into_the_document_before() -> None:
    """1 and 2 take turns as the only tokens of a document: across documents they would predict each other."""
    training = [document(i, [SEPARATOR, 1 + i % 2]) for i in range(8)]
    found = named(training, [document("a", [SEPARATOR, 2]), document("b", [SEPARATOR, 1])], 3)
    half = naive_unigram(training, 3)[1]
    wanted = -math.log((4 + 2 * half) / (8 + 2))
    assert found["bigram"].losses == pytest.approx([wanted, wanted])
    assert found["5-gram"].losses == pytest.approx([wanted, wanted])


def test_tokens_that_are_skipped_do_not_predict() -> None:
    """The token behind the next is wanted. So the context of a label is two places before its own token."""
    training = [
        document("a", [SEPARATOR, 1, 2, 1], [IGNORE, 2, 1, IGNORE]),
        document("b", [SEPARATOR, 1, 3, 2], [IGNORE, 3, 2, IGNORE]),
    ]
    u = naive_unigram(training, 4)
    behind_separator, behind_1 = (1 + 2 * u[2]) / (2 + 2), (1 + 2 * u[1]) / (2 + 2)
    found = named(training, [document("h", [SEPARATOR, 1, 2, 0], [IGNORE, 2, 1, IGNORE])], 4)
    assert found["bigram"].losses == pytest.approx([-math.log(behind_separator) - math.log(behind_1)])


@pytest.mark.parametrize(
    "labels, n_vocabulary, alpha",
    [
        ([1] * 9 + [2, 3, 4, 5, 6], 50, ALPHAS[13]),
        ([1, 1, 2, 2], 9, ALPHAS[0]),
        (list(range(40)), 40, ALPHAS[-1]),
        ([1, 1, 1, 2], 3, ALPHAS[16]),
    ],
    ids=["some rare", "none rare", "all as frequent", "so few that each counts"],
)
def test_the_smoothing_constant_predicts_labels_left_out_best(labels, n_vocabulary: int, alpha: float) -> None:
    assert naive_alpha(labels, n_vocabulary) == alpha
    held_out = [document(y, [SEPARATOR, y]) for y in range(n_vocabulary)]
    found = named([document("t", [SEPARATOR, *labels])], held_out, n_vocabulary)["unigram"].losses
    wanted = [(labels.count(y) + alpha) / (len(labels) + alpha * n_vocabulary) for y in range(n_vocabulary)]
    assert np.exp(-found) == pytest.approx(wanted)


def test_a_label_that_hangs_on_the_condition_needs_the_condition() -> None:
    """Ten documents of each of four conditions, and each condition has a label of its own."""
    training = [document(f"{k}-{i}", [SEPARATOR, k], condition=k / 4) for k in range(4) for i in range(10)]
    held_out = [document(f"h{k}", [SEPARATOR, k], condition=k / 4) for k in range(4)]
    found = named(training, held_out, 4)
    assert found["bigram"].loss == found["5-gram"].loss == pytest.approx(math.log(4))
    of_condition = (10 + 1 / 4) / 11
    behind_separator = (10 + of_condition) / 11
    wanted = -math.log(behind_separator)
    assert found["bigram given conditions"].losses == pytest.approx([wanted] * 4)
    assert found["5-gram given conditions"].losses == pytest.approx([wanted] * 4)


def bins_of(training: list[float], held_out: list[float]) -> list[list[float]]:
    """Which training conditions each held-out one is in a bin with: they alone make their labels likelier."""
    examples = [document(i, [SEPARATOR, i], condition=x) for i, x in enumerate(training)]
    bins = []
    for x in held_out:
        asked = [document(i, [SEPARATOR, i], condition=x) for i in range(len(training))]
        losses = named(examples, asked, len(training))["bigram given conditions"].losses
        bins.append([training[i] for i in np.flatnonzero(losses < math.log(len(training)) - 1e-9)])
    return bins


def test_conditions_of_many_values_are_cut_at_their_quantiles() -> None:
    training = [float(x) for x in np.random.default_rng(0).permutation(4 * N_BINS) ** 2]
    pairs = [sorted(b) for b in bins_of(training, sorted(training))]
    ordered = sorted(training)
    assert pairs == [ordered[i // 4 * 4 : i // 4 * 4 + 4] for i in range(4 * N_BINS)]
    below, between, above = bins_of(training, [-5.0, 9.5, 9999.0])
    assert sorted(below) == sorted(between) == ordered[:4]
    assert sorted(above) == ordered[-4:]


def test_few_different_conditions_are_a_bin_each_however_rare() -> None:
    training = [0.0, 1.0] + [2.0] * 50 + [3.0] * 20
    assert bins_of(training, [0.0, 1.0, 2.0, 3.0]) == [[0.0], [1.0], [2.0] * 50, [3.0] * 20]


def test_a_condition_that_most_documents_share_does_not_take_the_bins_of_the_others() -> None:
    training = [0.0] * 60 + [float(x) for x in range(1, 2 * N_BINS - 1)]  # 14 others for 7 bins
    found = bins_of(training, [0.0, 1.0, 2.0, 3.0, 14.0])
    assert found == [[0.0] * 60, [1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [13.0, 14.0]]


def test_a_document_that_comes_again_is_counted_once_and_weights_do_not_count() -> None:
    training, held_out = random_examples(30, 4, 5, 5), random_examples(10, 5, 5, 5)
    again = [replace(e, weights=np.full(len(e), 3.0, np.float32)) for e in training]
    for once, twice in zip(
        data_baselines(training, held_out, 5), data_baselines(training + again, held_out, 5), strict=True
    ):
        assert twice.losses == pytest.approx(once.losses)
    # The same tokens in another document are new evidence.
    others = [replace(e, document=f"other {e.document}") for e in training]
    assert named(training + others, held_out, 5)["bigram"].loss != named(training, held_out, 5)["bigram"].loss


@pytest.mark.parametrize("n_documents", [0, 3])
def test_without_a_training_label_all_labels_are_as_likely(n_documents: int) -> None:
    held_out = random_examples(5, 6, 5, 5)
    training = [replace(e, labels=np.full(len(e), IGNORE)) for e in random_examples(n_documents, 7, 5, 5)]
    for b in data_baselines(training, held_out, 5):
        assert b.loss == pytest.approx(math.log(5)), b.name
