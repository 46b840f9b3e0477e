"""A model's vocabulary: the clusters of its embeddings, the tokens that it hardly saw, and how far each lies from the
centroid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import settle
from soft_prompts.stats import rate

if TYPE_CHECKING:
    from soft_prompts.models.language_model import LanguageModel
    from soft_prompts.probes.undertrained import Tokens

SHARE = 0.02
"""Of the ordinary tokens that are candidates (Land and Bartolo 2024)."""
PARTS = 4
"""Into which candidates are shared out by the indicator: the most under-trained quarter first."""
LISTED = 12
"""Tokens listed of each cluster and kind."""


@dataclass(frozen=True)
class VocabularyProbe:
    """How a vocabulary is looked at."""

    ks: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16, 24, 32)
    """Numbers of clusters that are tried. The one with the largest silhouette is chosen."""
    look_at: int = 16
    """So many clusters are shown, too; 0: only the chosen ones."""
    starts: int = 4
    """Of k-means, at every number of clusters."""
    sample: int = 4096
    """Tokens that numbers of clusters are compared on, drawn once; memory grows with its square. What is shown is
    clusters of all tokens."""
    candidates: int = 256
    """Tokens that the model is asked to repeat, at most; it is asked for as many others beside them."""
    unused: tuple[str, ...] = ()
    """Tokens that no training text had, as the tokenizer's vocabulary writes them, such as "<unused_1>". Empty: rows
    beyond the vocabulary and bytes that UTF-8 does not use or, if there are none, special tokens without a role."""

    def __post_init__(self) -> None:
        settle(self)

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        if not self.ks or min(self.ks) < 2 or self.starts < 2 or self.look_at == 1 or self.look_at < 0:
            raise SoftPromptsError(
                f"--ks ({self.ks}) and --starts ({self.starts}) must be at least 2, --look-at ({self.look_at}) 0 or at "
                f"least 2: of one cluster, or from one start, nothing can be told."
            )
        if self.sample <= max(self.ks) or self.candidates < PARTS:
            raise SoftPromptsError(
                f"--sample is {self.sample} and --candidates {self.candidates}; give a sample of more tokens than "
                f"clusters ({max(self.ks)}), and {PARTS} candidates at least."
            )


@dataclass(frozen=True)
class Looked:
    """What was found."""

    record: dict[str, Any]
    """As plain JSON, without what there is of every token."""
    by_token: dict[str, list]
    """What there is of every token: name -> values, [V] each."""


def vocabulary(model: LanguageModel, probe: VocabularyProbe) -> Looked:
    """Look at a model's vocabulary.

    Args:
        model: The model.
        probe: How.

    Raises:
        SoftPromptsError: The vocabulary is too small, or has none of the tokens that are said to be unused.
    """
    from soft_prompts.probes.undertrained import CLASSES, UNREACHABLE, is_tied, tokens_of

    tokens = tokens_of(model.tokenizer)
    rows = model.vocabulary.float().cpu().numpy()
    if len(rows) <= max(*probe.ks, probe.look_at):
        raise SoftPromptsError(
            f"{model.name} has {len(rows)} tokens, too few for {max(*probe.ks, probe.look_at)} clusters; give smaller "
            f"--ks and --look-at."
        )
    undertrained, indicators = _undertrained(model, tokens, probe)
    clusters, of_token = _clusters(rows, tokens, indicators, probe)
    distances = np.linalg.norm(rows - rows.mean(0), axis=1)
    order = np.argsort(distances, kind="stable")
    nearer_than = np.empty(len(rows))
    nearer_than[order] = np.arange(len(rows)) / (len(rows) - 1)
    for one in undertrained["candidates"]:
        one["centroid_rank"] = round(float(nearer_than[one["id"]]), 4)
    record = {
        "entries": len(rows),
        "width": rows.shape[1],
        "tied": is_tied(model),
        "classes": {name: int((tokens.classes == name).sum()) for name in CLASSES},
        "unreachable": [tokens.shown(i) for i in tokens.of(UNREACHABLE)[:LISTED]],
        "clusters": clusters,
        "undertrained": undertrained,
        "centroid": {
            "quantiles": np.quantile(distances.astype(float), [0, 0.25, 0.5, 0.75, 1]).round(4).tolist(),
            "nearest": _listed(order, distances, tokens),
            "farthest": _listed(order[::-1], distances, tokens),
        },
    }
    ids = range(len(rows))
    by_token = {
        "id": list(ids),
        "token": [tokens.shown(i) for i in ids],
        "class": tokens.classes.tolist(),
        "indicator": indicators.astype(float).round(5).tolist(),
        "distance_to_centroid": distances.astype(float).round(4).tolist(),
        **of_token,
    }
    return Looked(record, by_token)


def _listed(order: np.ndarray, values: np.ndarray, tokens: Tokens) -> list[dict[str, Any]]:
    return [{"id": int(i), "token": tokens.shown(i), "value": round(float(values[i]), 5)} for i in order[:LISTED]]


def _clusters(
    rows: np.ndarray, tokens: Tokens, indicators: np.ndarray, probe: VocabularyProbe
) -> tuple[dict[str, Any], dict[str, list]]:
    """The clusters of the embeddings; and the cluster of every token, and how far its centre is."""
    from soft_prompts.probes.clusters import agreement, fits, k_means, without_clusters

    drawn = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[: probe.sample])]
    found = fits(drawn, probe.ks, probe.starts)
    controls = fits(without_clusters(rows, len(drawn)), probe.ks, probe.starts)
    chosen = max(found, key=lambda fit: fit.silhouette).k
    shown, of_token = [], {}
    for k in sorted({chosen, probe.look_at or chosen}):
        of_starts = k_means(rows, k, probe.starts)
        best = of_starts[0]
        of_token[f"cluster_of_{k}"] = best.labels.tolist()
        of_token[f"distance_to_centre_of_{k}"] = best.distances.round(4).tolist()
        members = [
            {
                "size": len(of),
                "indicator": round(float(np.median(indicators[of])), 5),
                "tokens": [tokens.shown(i) for i in of[:LISTED]],
            }
            for of in best.nearest_first()
        ]
        shown.append({"k": k, "agreement": agreement([one.labels for one in of_starts]), "members": members})
    record = {
        "sampled": len(drawn),
        "tried": [asdict(fit) for fit in found],
        "control": [asdict(fit) for fit in controls],
        "chosen": chosen,
        "shown": shown,
    }
    return record, of_token


def _undertrained(model: LanguageModel, tokens: Tokens, probe: VocabularyProbe) -> tuple[dict[str, Any], np.ndarray]:
    """Which tokens the model hardly saw, verified; and the indicator of every token."""
    from soft_prompts.probes import undertrained as of

    unused = _named(model, probe.unused) if probe.unused else of.known_unused(model, tokens)
    name, indicators = of.indicator(model, tokens, unused)
    order = np.argsort(indicators, kind="stable")
    ordinary = [int(i) for i in order if tokens.classes[i] == of.ORDINARY]
    n = min(probe.candidates, max(PARTS, round(SHARE * len(ordinary))), len(ordinary) // 2)
    candidates = ordinary[:n]
    controls = of.of_like_frequency(candidates, ordinary[n:])
    asked, beside = (of.repeats(model, chosen).max(1) for chosen in (candidates, controls))
    quarters = [slice(int(a[0]), int(a[-1]) + 1) for a in np.array_split(np.arange(n), PARTS)]
    special = [i for i in order if tokens.classes[i] == of.SPECIAL]
    record = {
        "indicator": name,
        "unused": [tokens.shown(i) if i < len(tokens.texts) else f"row {i}" for i in unused[:LISTED]],
        "n_unused": len(unused),
        "median": round(float(np.median(indicators)), 5),
        "special": _listed(np.array(special), indicators, tokens),
        "candidates": [
            {
                "id": i,
                "token": tokens.shown(i),
                "indicator": round(float(indicators[i]), 5),
                "repeated": float(f"{asked[j]:.4g}"),
                "beside": tokens.shown(controls[j]),
                "beside_repeated": float(f"{beside[j]:.4g}"),
            }
            for j, i in enumerate(candidates)
        ],
        "parts": [repeated(asked[part], beside[part]) for part in (*quarters, slice(None))],
    }
    return record, indicators


def repeated(candidates: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """How often a model fails to repeat candidates, and the others beside them.

    Args:
        candidates: The probability of each that it comes where it must be repeated, [N].
        others: That of the token beside each, [N].

    Returns:
        Shares with Wilson's intervals: "fails", "others_fail", and "below", candidates that are repeated less than the
        token beside them; by chance that is a half.
    """
    from soft_prompts.probes.undertrained import FAILS_BELOW

    return {
        "fails": rate(candidates < FAILS_BELOW),
        "others_fail": rate(others < FAILS_BELOW),
        "below": rate(candidates < others),
    }


def _named(model: LanguageModel, names: Sequence[str]) -> list[int]:
    """The ids of entries of the vocabulary.

    Raises:
        SoftPromptsError: There is no such entry.
    """
    entries = model.tokenizer.get_vocab()
    if lacking := [name for name in names if name not in entries]:
        raise SoftPromptsError(
            f"--unused names {lacking[0]!r}, which the vocabulary of {model.name} does not have; write tokens as "
            f"tokenizer.json does."
        )
    return [entries[name] for name in names]
