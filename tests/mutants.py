"""Do the tests notice when a number comes out wrong? `python -m tests.mutants` makes one small fault after another.

Each fault is one that a tired author could make in one line: a sign, a factor, a level, an end of an interval. Every
fault is put into a copy of the package, and the tests that should notice run there. A fault that no test notices says
which test is missing. Slow: some seconds for each fault.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from soft_prompts.console import ends_in_a_sentence, progress_bar, say
from soft_prompts.errors import SoftPromptsError

ROOT = Path(__file__).parents[1]
COPIED = ("soft_prompts", "tests")
LOG = "pytest.log"
PROCESSES = multiprocessing.get_context("forkserver")
"""Every run of pytest is a process of its own. It begins as a copy of one that has imported what takes long."""
IMPORTED = [
    "hypothesis",
    "matplotlib.backends.backend_agg",
    "pandas",
    "scipy.stats",
    "tokenizers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "transformers.models.llama.modeling_llama",
]
LIMIT = 300
"""Seconds after which tests are stopped. A fault that makes them run on has been noticed."""
ENDLESS = f"no end within {LIMIT} s"


@dataclass(frozen=True)
class Fault:
    """One wrong line."""

    file: str
    """The module, as a path below soft_prompts."""
    old: str
    """A piece of one line that occurs once in the file."""
    new: str
    """What stands there instead."""
    tests: tuple[str, ...]
    """What pytest is given: the test files that should notice and, if they are long, which of their tests."""

    def __str__(self) -> str:
        return f"{self.file}: {self.old} -> {self.new}"

    def applied(self, text: str) -> str:
        """The module's text with the fault in it.

        Raises:
            SoftPromptsError: The piece does not occur exactly once.
        """
        n = text.count(self.old)
        if n != 1 or self.old == self.new:
            raise SoftPromptsError(
                f"{self.old!r} occurs {n} times in soft_prompts/{self.file} instead of once; correct the fault in "
                f"tests/mutants.py."
            )
        return text.replace(self.old, self.new)


def of(file: str, tests: str, *pairs: tuple[str, str], among: str = "") -> list[Fault]:
    """Faults of one file that the same tests should notice.

    Args:
        file: The module, as a path below soft_prompts.
        tests: Names of the test files, in one string.
        pairs: A piece of a line, and what stands there instead.
        among: Only tests with this in their name or in that of their file. Saves time.
    """
    chosen = [f"tests/unit/{name}.py" for name in tests.split()] + (["-k", among] if among else [])
    return [Fault(file, old, new, tuple(chosen)) for old, new in pairs]


FAULTS = [
    *of(
        "stats.py",
        "test_stats",
        ("CONFIDENCE = 0.95", "CONFIDENCE = 0.9"),
        ("drawn_counts = drawn @ counts", "drawn_counts = np.full(len(drawn), np.sum(counts))"),
        ("kept = drawn_counts > 0", "kept = drawn_counts >= 0"),
        ("student_t.ppf((1 + CONFIDENCE) / 2, n - 1) / norm", "student_t.ppf((1 + CONFIDENCE) / 2, n) / norm"),
        ("* np.sqrt(n / (n - 1))", "* np.sqrt((n - 1) / n)"),
        ("n = counts.sum() ** 2 / (counts**2).sum()", "n = len(counts)"),
        ("np.sqrt(seed_variance(of_seeds, counts) / len(of_seeds))", "np.sqrt(seed_variance(of_seeds, counts))"),
        ("student_t.ppf(even, len(of_seeds) - 1)", "student_t.ppf(even, len(of_seeds))"),
        ("if len(of_seeds) > 1:", "if len(of_seeds) > 2:"),
        ("random.permutation(len(draws)) + 0.5", "np.arange(len(draws)) + 0.5"),
        ("sums - sums.mean(0) - (losses", "sums - sums.mean(0) + (losses"),
        ("(deviations**2).sum() / (len(sums) - 1)", "(deviations**2).sum() / len(sums)"),
        ("losses.var(ddof=1) - by_documents", "losses.var() - by_documents"),
        ("losses.var(ddof=1) - by_documents", "losses.var(ddof=1) + by_documents"),
        ("max(0.0, float(losses.var(ddof=1) - by_documents))", "abs(float(losses.var(ddof=1) - by_documents))"),
        (
            "return [float(x) for x in np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]",
            "return [float(x) for x in np.quantile(draws, [1 - CONFIDENCE, CONFIDENCE])]",
        ),
        (".max(1), CONFIDENCE) * scale", ".mean(1), CONFIDENCE) * scale"),
        (".max(1), CONFIDENCE) * scale", ".max(1), (1 + CONFIDENCE) / 2) * scale"),
        ("paired = ((high - low) / 2)", "paired = (high - low)"),
        ("np.quantile(draws[:, first] - draws[:, second]", "np.quantile(draws[:, first] + draws[:, second]"),
        ("j if widths[j] > widths[k] else k", "j if widths[j] < widths[k] else k"),
        ("wanted - widths[j] - widths[k])", "wanted - widths[j])"),
        ('"value": float(sums.sum() / counts.sum())', '"value": float((sums / counts).mean())'),
        ('"n": int((counts > 0).sum())', '"n": len(counts)'),
        ('method="wilson"', 'method="exact"'),
        among="not covers_the_truth",
    ),
    *of(
        "probes/clusters.py",
        "test_vocabulary",
        ("np.maximum(counts[labels] - 1, 1)", "counts[labels]"),
        ("(other - own) / np.maximum", "(own - other) / np.maximum"),
        ("pairs(both) - expected) / (most", "pairs(both)) / (most"),
        ("np.sqrt(variances.clip(0))", "variances.clip(0)"),
        ("key=len, reverse=True", "key=len"),
        among="clusters or noise or agreement or silhouette or gaussian",
    ),
    *of(
        "probes/undertrained.py",
        "test_vocabulary",
        ("rows = rows - (rows @ shared)", "rows = rows + (rows @ shared)"),
        ("shared = axes[:, -1]", "shared = axes[:, 0]"),
        ("return 1 - torch.nn.functional", "return torch.nn.functional"),
        ("np.abs(np.array(left) - token).argmin()", "np.abs(np.array(left) - token).argmax()"),
        ("[[model.separator, *first], *others]", "[first, *others]"),
        among="planted or marks or leaves_out or beside_it or probability",
    ),
    *of(
        "probes/vocabulary.py",
        "test_vocabulary",
        ("rate(candidates < FAILS_BELOW)", "rate(candidates > FAILS_BELOW)"),
        ("rate(candidates < others)", "rate(candidates > others)"),
        ("SHARE = 0.02", "SHARE = 0.2"),
        among="wilson or paper",
    ),
    *of(
        "probes/dictionary.py",
        "test_attribution",
        ("((states - self.centre) @", "(states @"),
        ("torch.zeros_like(activations).scatter(-1, kept.indices, kept.values)", "activations"),
        among="a_dictionary_keeps or rebuild or random_directions",
    ),
    *of(
        "probes/attribution.py",
        "test_attribution",
        ("(at > 0) & (at < self.lengths[:, None])", "(at >= 0) & (at < self.lengths[:, None])"),
        ("(logits * (tuned - logits).detach())", "(logits * (tuned - logits))"),
        ("return -(tuned - logits).square().sum(-1) / 2", "return (tuned - logits).square().sum(-1) / 2"),
        ("steeper * change, change)", "steeper * change, -change)"),
        ("np.asarray(factors, np.float32) - 1)", "np.asarray(factors, np.float32))"),
        ("(signs[0] * signs[1] > 0)", "(signs[0] * signs[1] != 0)"),
        among="own_tokens or finite or same_gradient or hand_made or removed_and or same_way",
    ),
    *of(
        "probes/moved.py",
        "test_attribution",
        ("document[2:] == token", "document[1:-1] == token"),
        ('{"removed": -1, "tripled": 1}', '{"removed": 1, "tripled": -1}'),
        among="announces or every_way",
    ),
    *of(
        "results/distance.py",
        "test_distance",
        ("UPPER = (1 + CONFIDENCE) / 2", "UPPER = CONFIDENCE"),
        ("[x.mean(0).sum() for x in sums]", "[x.sum() for x in sums]"),
        ("draws = self.draws[:, :1] - self.draws[:, 1:]", "draws = self.draws[:, 1:] - self.draws[:, :1]"),
        ("np.minimum.reduce([value for", "np.maximum.reduce([value for"),
        ("np.minimum.reduce([draws for", "np.maximum.reduce([draws for"),
        ("self._drawn[:, n : n + n_control]", "self._drawn[:, :n_control]"),
        ("self._drawn[:, [n + n_control + i]]", "self._drawn[:, [n + i]]"),
        ("least_draws - self.draws)", "least - self.draws)"),
        ("goal, self._drawn[:, -1])", "goal, self._drawn[:, 0])"),
        ("self.losses[first:].mean()", "self.losses[first:].min()"),
        ("self.draws[:, first:].mean(1)", "self.draws[:, first:].min(1)"),
        ("contribution.values[first:].mean()", "contribution.values[first:].max()"),
        ("contribution.values[0] + self.losses[0]", "contribution.values[0] - self.losses[0]"),
        ("(value, rival_draws - self._drawn[:, -1]) if value > 0", "(value, rival_draws) if value > 0"),
        ("self._drawn[:, -1]) if value > 0", "self._drawn[:, -1]) if value > 9"),
        ("-wanted, -wanted_draws)", "-wanted, wanted_draws)"),
        ("self._crossing(-contribution.values, -contribution", "self._crossing(-contribution.values, contribution"),
        ("SATURATED * max(0.0, float(largest))", "SATURATED"),
        ("contribution.values.max() if contribution", "contribution.values.min() if contribution"),
        ("self.losses[0] - self.losses.min()", "self.losses[0] - self.losses[-1]"),
        ("np.quantile(lacks, UPPER, axis=0)", "np.quantile(lacks, 1 - UPPER, axis=0)"),
        ("self.n_tokens[within.argmax(1)], [1 - UPPER, UPPER]", "self.n_tokens[within.argmax(1)], [UPPER, 1 - UPPER]"),
        ("losses[:, :-1] - best_beyond[:, 1:]", "losses[:, :-1] - losses[:, 1:]"),
        ("/ np.log(2)", "* np.log(2)"),
        ("self.sums[0].mean(0) - self.sums[at].mean(0)", "self.sums[0].sum(0) - self.sums[at].sum(0)"),
        ("target = self.losses[0] - share * (", "target = goal + share * ("),
        (
            "target_draws = self.draws[:, 0] - share * (self.draws[:, 0]",
            "target_draws = self.losses[0] - share * (self.losses[0]",
        ),
        ("int(self.n_tokens[i - 1]) if i", "int(self.n_tokens[i]) if i"),
        ("np.quantile(places, [1 - UPPER, UPPER]", "np.quantile(places, [UPPER, 1 - UPPER]"),
        ("self.draws[:, k], [1 - UPPER, UPPER]", "self.draws[:, k], [UPPER, 1 - UPPER]"),
        ("((self.draws - self.values) / scale).max(1)", "((self.draws - self.values) / scale).mean(1)"),
        ("np.quantile(excess, UPPER)).any()", "np.quantile(excess, UPPER)).all()"),
        ("reached = losses <= targets[:, None] + 1e-12", "reached = losses < targets[:, None]"),
        ("np.log2(np.maximum(n_tokens, 1)), -1.0", "np.log2(np.maximum(n_tokens, 1)), 0.0"),
        ("np.where(at < 0, at + 1, 2.0**at)", "np.where(at < 1, at + 1, 2.0**at)"),
        ("tokens, np.inf)", "tokens, n_tokens[-1])"),
        ("if end >= target", "if end > target"),
        ("value = first(low_ends)", "value = first(high_ends)"),
    ),
    *of(
        "results/summary.py",
        "test_page test_report",
        ("losses.n_tokens[losses.losses.argmin()]", "losses.n_tokens[-1]"),
        ("(high - low) / 2 / 1.96", "(high - low) / 1.96"),
        ("np.var(point.losses, ddof=1)", "np.var(point.losses)"),
        ("chi2.ppf(CONFIDENCE, n - 1)", "chi2.ppf(CONFIDENCE, n)"),
        ("other.loss <= point.loss for", "other.loss >= point.loss for"),
        ("k = int(estimates.values.argmax())", "k = int(estimates.values.argmin())"),
        ("if point.n_tokens and n_as_low", "if n_as_low"),
        among="summary or rounding or disagree or random",
    ),
    *of(
        "results/curve.py",
        "test_page test_report",
        ("np.mean([r.held_out.document_losses", "np.sum([r.held_out.document_losses"),
        ("two_level_draws([self.by_seed], self", "two_level_draws([self.sums[None]], self"),
        ("draws[:, 0] - draws[:, 1]", "draws[:, 1] - draws[:, 0]"),
        ("estimated(other.loss - self.loss", "estimated(self.loss - other.loss"),
        ("(self.counts == other.counts).all()", "(self.counts == other.counts).any()"),
        ('float(np.mean([of_seed[name]["loss"]', 'float(np.min([of_seed[name]["loss"]'),
        ("return min(self.baselines", "return max(self.baselines"),
        ("return min((len(p.results)", "return max((len(p.results)"),
        ('if c.control in ("scrambled", "untrained")', "if c.control"),
        ("key=lambda c: CONTROLS.index(c.control)", "key=lambda c: -CONTROLS.index(c.control)"),
        ("all(p is not None and p.pairs_with(first) for p in other)", "all(p is not None for p in other)"),
        ("estimates.interval(k)", "estimates.interval(0)"),
        ("other.loss < self.baselines[best]", "other.loss > self.baselines[best]"),
        ("best = min(shorter, key=lambda p: p.loss)", "best = shorter[-1]"),
        ('gain["interval"][1] < 0', 'gain["interval"][0] < 0'),
        ("if point.n_tokens and point.loss >", "if point.loss >"),
        among="summary or said or a_curve or flagged or compared",
    ),
    *of(
        "interventions/base.py",
        "test_bits",
        ("self.n_scales * SCALE_BITS", "SCALE_BITS"),
    ),
    *of(
        "probes/bits.py",
        "test_bits",
        ("own.sums - scores.sums", "scores.sums - own.sums"),
        ("np.flatnonzero(scores.counts)[:CHECKED]", "np.arange(len(scores.counts))[:CHECKED]"),
        ('loss=scores.loss + increase["value"]', 'loss=scores.loss - increase["value"]'),
        ("validated.loss - unrounded.loss <= LOSSLESS", "unrounded.loss - validated.loss <= LOSSLESS"),
        ("for e in bench.validation if", "for e in bench.held_out if"),
        ("if e.n_scored][:CHECKED]", "][:CHECKED]"),
        ("validation_loss + validated.loss - unrounded.loss", "validation_loss"),
        ("numbers=intervention.n_numbers", "numbers=intervention.n_tokens"),
    ),
    *of(
        "serving.py",
        "test_serving",
        ("return [-losses", "return [losses"),
        ('"separator": 1,', '"separator": 0,'),
        ('"text": len(tokens)', '"text": 1'),
        ("[self.use.separator, *ids]", "[*ids, self.use.separator]"),
        ("Conditions(**known)(numbers)", "np.array(numbers, np.float32)"),
        ('("", "main", LOCAL)', '("", "main")'),
        ("1 + sum(begins < at", "sum(begins < at"),
        ("best = logprobs.topk(n)", "best = logprobs.neg().topk(n)"),
        ('"nothing" if given.before else "separator"', '"separator" if given.before else "nothing"'),
    ),
    *of(
        "save.py",
        "test_serving",
        ("!= IGNORE for e in bench.held_out", "== IGNORE for e in bench.held_out"),
        among="place_within",
    ),
    *of(
        "engine/generate.py",
        "test_generate",
        ("kept[row] = at + 1 - firsts[row]", "kept[row] = at + 1"),
        ("enough(new[row, firsts[row] : at + 1]", "enough(new[row, : at + 1]"),
        among="enough",
    ),
    *of(
        "export.py",
        "test_serving",
        ("torch.cat([first, rows.float()])", "torch.cat([rows.float(), first])"),
        ('"separator": [first, rows, text]', '"separator": [rows, first, text]'),
        ('"text": [first, text, rows]', '"text": [first, rows, text]'),
        ("vocabulary.T).topk(", "vocabulary.T).neg().topk("),
        ('"num_virtual_tokens": len(embeddings)', '"num_virtual_tokens": len(rows)'),
        ('("main", LOCAL)', '("main",)'),
    ),
    *of(
        "interventions/perturbed.py",
        "test_fragility",
        ("rows + norms * self.offset", "rows - norms * self.offset"),
        ("/ rows.shape[-1] ** 0.5", "* rows.shape[-1] ** 0.5"),
        ("return len(self._order)", "return self.offset.shape[0]"),
        ("[:, self._order]", "[:, sorted(self._order)]"),
        ("self._prompt[0](condition).detach()", "self._prompt[0](condition)"),
    ),
    *of(
        "probes/fragility.py",
        "test_fragility",
        ("Change(size * draw, order)", "Change(draw, order)"),
        ("for g in of_draws])) * whole", "for g in of_draws]))"),
        ("n_tokens - round(share * n_tokens)", "round(share * n_tokens)"),
        ("[:n_kept].sort().values", "[:n_kept]"),
        ("around]) * 2)", "around]))"),
        ("s.loss - before.loss", "s.loss"),
        ("for sign in (1, -1)", "for sign in (1, 1)"),
        ("STEP * whole * d", "STEP * d"),
        ('"gradient": curvature([gradient])', '"gradient": curvature(list(noise))'),
    ),
    *of(
        "results/fragility.py",
        "test_fragility",
        ("losses[:, 1] + HALF", "losses[:, 0] + HALF"),
        ("(losses[:, 0] - losses[:, 1])", "(losses[:, 1] - losses[:, 0])"),
        ("[0, *sizes / sizes[0]]", "[0, *sizes]"),
        ("without.by_seed[:, checked]", "without.by_seed[:, : len(checked)]"),
        ("[rankdata(side) for side in of]", "of"),
        ("(of[:, :1] - of[:, 2:]) /", "of[:, 2:] /"),
        ('fragility["curvature"]["random"]', 'fragility["curvature"]["gradient"]'),
        ("if _gains(draws) else", "if not _gains(draws) else"),
        ("draws[:, 0] - draws[:, 1], ENDS[0]) > 0", "draws[:, 0] - draws[:, 1], ENDS[1]) > 0"),
    ),
    *of(
        "results/enough_bits.py",
        "test_enough_bits",
        ('reached(r, size["validation_loss"], "validation") >=', 'reached(r, size["loss"], "held_out") >='),
        ('"validation") >= share', '"validation") <= share'),
        ("if r.seed == seed and", "if"),
        ("min(fit, key=lambda one: one[0])", "max(fit, key=lambda one: one[0])"),
        ('reached(r, size["loss"], "held_out") for', 'reached(r, size["validation_loss"], "validation") for'),
        ("(ends[split][0] - loss) /", "(loss - ends[split][1]) /"),
        ("return min([*known", "return max([*known"),
        ("r.n_tokens >= max(1, settled)", "r.n_tokens <= max(1, settled)"),
        ("if min(wanted.values()) <= 0", "if max(wanted.values()) >= 99"),
    ),
    *of(
        "results/dimensions.py",
        "test_dimensions",
        ("np.log(share / (1 - share)) / slopes", "np.log((1 - share) / share) / slopes"),
        ("-slopes * (x[:, None] - middles)", "-(x[:, None] - middles)"),
        ("x[-1] + 1, at", "x[-1] + 4, at"),
        ("- 2 * shares @ tried", "- shares @ tried"),
        ("losses + np.array([_increase", "losses - np.array([_increase"),
        ("* n_bits + SCALE_BITS\n\n    validated", "+ SCALE_BITS\n\n    validated"),
        ("n_bits = min(tried", "n_bits = max(tried"),
        ("[zero.by_seed, *(p.by_seed for", "[zero.by_seed, *(p.by_seed[:1] for"),
    ),
    *of(
        "measure.py",
        "test_enough_bits",
        ("tolerance(max(gains", "tolerance(min(gains"),
        ("before[key] - after[key] <= allowed", "after[key] - before[key] <= allowed"),
        ("sum(losses) / len(losses) for key", "min(losses) for key"),
        among="twice",
    ),
    *of(
        "save.py",
        "test_sweep",
        ("except Exception as error:  # of any kind: a", "except BaseException as error:  # of any kind: a"),
        ("except Exception as error:  # of any kind: a", "except ValueError as error:  # of any kind: a"),
        ("except Exception as error:  # of any kind, s", "except ValueError as error:  # of any kind, s"),
        ("        check_behaviour(scores, samples)", "        pass"),
        ("n_together), **not_scored, **not_rounded}", "n_together), **not_rounded}"),
        ("n_together), **not_scored, **not_rounded}", "n_together), **not_scored}"),
        ("if not with_samples:", "if with_samples:"),
        among="scor or rounding or samples_and",
    ),
    *of(
        "prepare.py",
        "test_sweep",
        ("facts(run, bench), variant(run)", "variant(run)"),
        ("None if self._sweep.force else measured", "None if not self._sweep.force else measured"),
        ("if anchor or not asked_for(run):", "if not asked_for(run):"),
        ("if result.anchor and result", "if not result.anchor and result"),
        among="facts or added_to_a_curve",
    ),
    *of(
        "report/plots.py",
        "test_exhaustion",
        ("[below, curve.widths]", "curve.widths"),
        among="below_a_loss",
    ),
    *of(
        "tasks/protection.py",
        "test_protection",
        ("share(answered[: len(asked)])", "share(answered)"),
        ("share(answered[len(asked) :])", "share(answered[: len(asked)])"),
        among="scores_count",
    ),
    *of(
        "locks.py",
        "test_locks",
        ("os.O_CREAT | os.O_EXCL", "os.O_CREAT"),
        ("str(latest + 1)", "str(latest + 2)"),
        ("self._now() - heard_of <= STALE", "self._now() - heard_of >= STALE"),
        ("if latest and (self._is_alive(before)", "if latest and (not self._is_alive(before)"),
        ("st_mtime >= self._began", "st_mtime <= self._began"),
        ("self.machine == _machine() and", ""),
        ("self.started != _started(self.pid)", "not _started(self.pid)"),
        ("_latest(path.parent) <= int(path.name)", "True"),
        ("return max((int(name)", "return min((int(name)"),
        ('if "released" in _content(path)', "if not _content(path)"),
        ("        for name in list(self._held):", "        for name in []:"),
        ("os.utime(path)", "path.stat()"),
    ),
    *of(
        "measure.py",
        "test_processes",
        ("if run.path not in self.failures and", "if"),
        ("and self._result(run) == self._before", "and self._before[run.path] == self._before"),
        ("for run in taken if run.path in pending", "for run in taken"),
        ("failure for path, failure in found if failure", "failure for path, failure in found if not failure"),
        ("locks.release(run.path, state.failure)", "locks.release(run.path)"),
        ("        if not locks.is_held(run.path):", "        if False:"),
        among="free or force or given or gave or diverges or left_to",
    ),
    *of(
        "shares.py",
        "test_launch",
        ("key=cost, reverse=True", "key=cost"),
        ("loads.index(min(loads))", "loads.index(max(loads))"),
        ("loads[least] += cost(run)", "loads[least] += 1"),
        ("recipe.max_tokens + run.n_tokens", "recipe.max_tokens"),
        ("BACKWARD * trained", "trained"),
        among="shares_are or costs",
    ),
    *of(
        "processes.py",
        "test_launch",
        ("(self.rank - dealt) % self.size", "self.rank"),
        ("key=length)[", "key=lambda row: 0)["),
        ("distributed.ReduceOp.MAX", "distributed.ReduceOp.MIN"),
        ("if wanted and rank() != source", "if rank() == source"),
        ("min(number for number, probe", "max(number for number, probe"),
        ("if failures := [said for said in told(failure) if said]", "if failures := [failure]"),
        among="tell_each or shared_out",
    ),
    *of(
        "training/loop.py",
        "test_launch",
        ("crew.add_up([losses, *(p.grad for p in parameters)])", "crew.add_up([losses])"),
        ("own = [crew.part(of_run, len, n)", "own = [list(of_run)"),
        ("logs if crew.is_first else None", "logs"),
        among="crew_trains",
    ),
    *of(
        "engine/evaluate.py",
        "test_launch",
        (
            "for i, (row_losses, row_correct) in zip(own, of_run",
            "for i, (row_losses, row_correct) in zip(range(len(own)), of_run",
        ),
        ("crew.add_up([tensor])", "pass"),
        among="crew_trains",
    ),
    *of(
        "models/spread.py",
        "test_spread",
        ("with align_module_device(holder):", "if True:"),
        ("memory[main] - n_bytes, {}", "memory[main], {}"),
        ("        left -= n_bytes", "        left -= 0"),
        ("found[name] = main", "found[name] = devices[-1]"),
        ("if memory[main] < n_bytes", "if memory[main] > n_bytes"),
    ),
    *of(
        "training/checkpoint.py",
        "test_processes",
        ("if common & steps or not (common or steps)", "if common & steps or not common"),
        ("common &= steps", "common |= steps"),
        among="one_step",
    ),
    *of(
        "tasks/base.py",
        "test_sweep",
        ("prompted.intervention.n_tokens + max((len", "max((len"),
        ("max(0, min(LONGEST_CONTINUATION", "max(1, min(LONGEST_CONTINUATION"),
        among="samples_are",
    ),
    *of(
        "tasks/chat_detuning.py",
        "test_language_experiments",
        ("if n_prompt + longest > model.context", "if longest > model.context"),
        ("if n_prompt + longest > model.context", "if n_prompt + longest >= model.context"),
        among="refused_before_training",
    ),
    *of(
        "options.py",
        "test_options",
        ("if isinstance(value, Path) and not is_path", "if isinstance(value, Path) and is_path"),
        ("isinstance(value, float) and math.isfinite(value)", "isinstance(value, float)"),
        ("if isinstance(value, Path) and is_file", "if isinstance(value, Path) and not is_file"),
        ("(list, tuple, range, np.ndarray)", "(tuple, range, np.ndarray)"),
        among="of_numpy or its_text or json_cannot",
    ),
    *of(
        "options.py",
        "test_options",
        ("isinstance(number, int) and number < 0", "isinstance(number, int) and number < -1"),
        ("for number in value if isinstance(value, tuple) else (value,)", "for number in (value,)"),
        among="below_0",
    ),
    *of(
        "data/pgn.py",
        "test_pgn",
        ("known = text.rstrip(b", "known = text + (b"),
        ('JOINED.sub(b"\\n[", text)', 'JOINED.sub(b"[", text)'),
        ("text.replace(END_OF_FILE, b", "text.replace(END_OF_FILE + END_OF_FILE, b"),
        ("return header[1] in self._tags", "return header[1] not in self._tags"),
        ("return blank or not", "return not"),
        ("if self._closed >= end:", "if self._closed < end:"),
        ("place = self._closed + 1", "place = end"),
        ("and start >= self._headers_until", "and not self._headers_until"),
        ("start, end - 1) + 1] not in", "start, end - 1) + 1] in"),
        ("endswith(b'\"]', 0, first)", 'startswith(b"")'),
        ("[match.end() for match in GAME_END", "[match.start() for match in GAME_END"),
        ("if self.seen == self.skipped[NO_HEADERS]", "if not self.seen"),
        ("sum(map(movetext.count, RESULTS)) == 1", "sum(map(movetext.count, RESULTS)) >= 1"),
        ("if match[0] in RESULTS and depth == 0", "if match[0] in RESULTS"),
        ("(text) if reason else text for text", "(text) if not reason else text for text"),
        ("if outcome is None else", "if outcome is not None else"),
    ),
    *of(
        "data/texts.py",
        "test_text",
        ('return text or ""', "return text"),
        ("if not n_good and n_bad == 3", 'if not n_good and skipped["not JSON"] == 3'),
        ('if encoding is None and b"\\0" in data', "if encoding is None and not data"),
        ("return decode(data)", 'return data.decode(errors="replace")'),
        ("elif not _is_unicode(text)", "elif not text"),
        ("if n_lines > 1", "if n_lines"),
        ("wanted, characters, split, FORMAT]", "wanted, characters, FORMAT]"),
    ),
    *of(
        "data/texts.py",
        "test_data_bounds",
        ("rest += text[len(known) :]", "rest = text[len(known) :]"),
        ("known = text.rstrip()", "known = text"),
        ("if length > MAX_DOCUMENT", "if length >= MAX_DOCUMENT"),
        ("if made > FREE_BYTES", "if size > FREE_BYTES"),
        ("if END_OF_TEXT in head or len", "if len"),
        among="longest or alike or address_has or whole_file or gibibyte",
    ),
    *of(
        "data/sources.py",
        "test_data_bounds",
        ("n_fed += len(data)", "n_fed += 1"),
        ("if n_made > FREE_BYTES + MAX_GROWTH * n_fed", "if n_made > FREE_BYTES"),
        ("if n_made > FREE_BYTES + MAX_GROWTH * n_fed", "if False"),
        among="compresses or gibibyte",
    ),
    *of(
        "data/sources.py",
        "test_pgn",
        ("request.add_unredirected_header(", "request.add_header("),
        ("if not is_url(target)", "if not target"),
        among="login or leads_on",
    ),
    *of(
        "addresses.py",
        "test_pgn",
        ('authority.rpartition("@")[2]', "authority"),
        ('re.split(r"[?#]", rest', 're.split(r"[#]", rest'),
        ("if _HOST.fullmatch(host) else", "if host else"),
        among="secrets",
    ),
    *of(
        "data/cache.py",
        "test_pgn",
        ('if kept["digest"] == _digest(arrays, facts)', "if kept"),
        ("digest.update(array", "str(array"),
        among="flipped",
    ),
    *of(
        "tasks/text.py",
        "test_text",
        ("if len(tokens) >= shortest", "if len(tokens) > shortest"),
        ("longest * (shortest - 1)", "longest"),
        ("if counts[split] == len(texts)", "if counts[split] > len(texts)"),
        among="too_short",
    ),
    *of(
        "data/sources.py",
        "test_pgn",
        ("if len(head) >= tarfile.BLOCKSIZE", "if head"),
        among="tar",
    ),
    *of(
        "data/documents.py",
        "test_text",
        ("is_held_out(document, HELD_OUT_SHARE + VALIDATION_SHARE)", "is_held_out(document, VALIDATION_SHARE)"),
        ("int(document, 16) < share * 2**64", "int(document, 16) > share * 2**64"),
        among="splits",
    ),
    *of(
        "tasks/permuted.py",
        "test_train",
        ("permutation[np.where(scored, e.labels, 0)], IGNORE", "permutation[np.where(scored, e.labels, 0)], 0"),
        (
            "default_rng(0).permutation(n_entries(encoding.tokenizer))",
            "default_rng(0).integers(0, 50, n_entries(encoding.tokenizer))",
        ),
        among="permuted",
    ),
    *of(
        "engine/evaluate.py",
        "test_loss",
        ("x.sum(dtype=np.float64)", "x.sum()"),
        ("float(self.sums.sum() / self.counts.sum())", "float(np.mean(self.sums / self.counts))"),
        ("losses[r][i], correct[r][i] =", "losses[r][i], correct[0][i] ="),
    ),
    *of(
        "engine/loss.py",
        "test_loss",
        ("self.total * shrink + part", "self.total + part"),
        ("return self.largest + self.total.log()", "return self.total.log()"),
        ("where + part.start, choice", "where, choice"),
        ("largest > sums.largest", "largest >= sums.largest"),
        ("(column >= 0) &", "(column > 0) &"),
        ("(column < len(weight))", "(column <= len(weight))"),
        ("head.bias[start : start + size]", "head.bias[: len(weight)]"),
        ("gradient.mul_(shrink).add_", "gradient.add_"),
        ("masked_fill_(part.holds_label, 0)", "masked_fill_(~part.holds_label, 0)"),
        ("gradient.div_(sums.total).addcmul_", "gradient.addcmul_"),
        ("torch.expm1(-losses)", "torch.exp(-losses)"),
        ("ctx.gradient * upstream[:, None]", "ctx.gradient * upstream.mean()"),
        ("slope = 1 - bent.square()", "slope = 1 + bent.square()"),
        ("torch.expm1(-losses) * slope_of_label", "torch.expm1(-losses)"),
        ("part.logits.mul_(part.slope)", "part.logits"),
        ("logits.mul_(head.factor)", "logits"),
        ("gradient.mul_(head.factor)", "gradient"),
    ),
    *of(
        "engine/generate.py",
        "test_generate",
        ("writing & torch.isin", "torch.isin"),
        ("(position < lengths[going])[:, None]", "(position <= lengths[going])[:, None]"),
        ("read.hand_out(still)", "read.hand_out(torch.arange(len(still)))"),
        ("going, token = going[still], token[still]", "going, token = going[still], token[: len(still)]"),
        ("2 * ended.sum() >= len(going)", "False"),
        ("row[first : first + n]", "row[:n]"),
        ("> n_new):", "> 2 * n_new):"),
        ("+ n_tokens + n_new) > token_budget", "+ n_new) > token_budget"),
        among="end_token or batches or still_read or dropped",
    ),
    *of(
        "models/attention.py",
        "test_attention",
        ("itemsize == 2", "itemsize == 4"),
        ("rows.shape[1] <= SHORT", "rows.shape[1] < SHORT"),
        (" and torch.is_grad_enabled()", ""),
        ("SDPBackend.MATH", "SDPBackend.FLASH_ATTENTION"),
    ),
    *of(
        "models/language_model.py",
        "test_attention",
        (
            "with quick_attention(piece):",
            "with __import__('contextlib').nullcontext():",
        ),
    ),
    *of(
        "models/language_model.py",
        "test_model test_generate",
        (
            "self.embed(torch.arange(n_entries(",
            "(lambda i: self.lm.get_input_embeddings().weight[i])(torch.arange(n_entries(",
        ),
        ("return 1 + max(", "return max("),
        ("self._model.body(torch.cat(self._pieces, 1))", "self._model.body(piece)"),
        ("else [ids])", "else [])"),
        ("ids if isinstance(ids, list)", "[] if isinstance(ids, list)"),
        among="vocabulary or separator or end_token or without",
    ),
    *of(
        "models/language_model.py",
        "test_generate",
        ("if torch.is_grad_enabled() or not before:", "if not before:"),
        ("not kept_there or now >", "now >"),
        ("room[..., before:now, :] = x", "room[..., : now - before, :] = x"),
        among="cache_with_room",
    ),
    *of(
        "engine/generate.py",
        "test_generate",
        ("/ temperature).softmax(-1)", "* temperature).relu()"),
        ("dtype=until.dtype) * until[:, -1:]", "dtype=until.dtype) * until[:, -1:] * 0.5"),
        among="sampling",
    ),
    *of(
        "pocket/backwards.py",
        "test_retrodiction",
        ("document[max(1, at - LENGTH) : at]", "document[max(0, at - LENGTH) : at]"),
        ("document[at : at + n_read]", "document[at + 1 : at + 1 + n_read]"),
        ("of[len(first) - 1 : len(row) - 1]", "of[len(first) : len(row)]"),
        ("(wanted, pairs[i - 1][1])", "(wanted, pairs[i][1])"),
        ("others - own", "own - others"),
        ('["interval"][0] <= 0', '["interval"][1] <= 0'),
        among="came_before or teller or asked_with",
    ),
    *of(
        "hard/retrodiction.py",
        "test_retrodiction",
        ("return [separator, *passage, separator]", "return [separator, *passage]"),
        ("teller.tokenizer_hash == model.tokenizer_hash", "True"),
        ("for tokens in passages if len(tokens)]", "for tokens in passages]"),
        ("replace(bench, model=teller)", "bench"),
        ("float(np.median(by_text))", "float(np.mean(by_text))"),
        among="came_before or teller or asked_with or of_a_kind",
    ),
    *of(
        "models/language_model.py",
        "test_loss",
        ("(logits / self.cap).tanh() * self.cap", "(logits / self.cap).tanh()"),
        (" * self.factor", " / self.factor"),
        among="a_head",
    ),
    *of(
        "models/language_model.py",
        "test_architectures",
        ("factor /= getattr", "factor *= getattr"),
        among="granite",
    ),
    *of(
        "models/fitness.py",
        "test_model test_generate",
        ("longer = model.window + N_LONG if", "longer = N_LONG if"),
        ("= -rows[:, PROMPT].flip(1)", "= rows[:, PROMPT]"),
        ("rows[:, PROMPT] = model.vocabulary[tokens[:, PROMPT]]", "pass"),
        ("compare(_in_parts(model, rows), wanted, HEAD)", "pass"),
        ("compare(alone, wanted[:, :N_SHORT]", "compare(alone, alone"),
        among="refused or wrong",
    ),
    *of(
        "models/loading.py",
        "test_model",
        ('lacking = sorted(loaded["missing_keys"])', "lacking = []"),
        ("if n_entries(tokenizer) > n_rows", "if n_entries(tokenizer) > n_rows + 1"),
        among="lacks or tokenizer",
    ),
    *of(
        "models/names.py",
        "test_model",
        ("if at and _found(name):", "if not at and _found(name):"),
        among="revision",
    ),
    *of(
        "results/provenance.py",
        "test_results",
        ("peak * 1024", "peak * 1000"),
        ('if sys.platform == "darwin"', 'if sys.platform != "darwin"'),
        among="memory",
    ),
    *of(
        "results/curve.py",
        "test_report",
        ("key=lambda curve: bool(curve.control)", "key=lambda curve: not curve.control"),
        ("if n_models[curve.model] < 2", "if n_models[curve.model] < 3"),
        ("in {(name, digits) for (name, _), known in weights.items() for digits in known}", "in weights"),
        among="told_apart",
    ),
    *of(
        "results/curve.py",
        "test_crafted_results",
        ("if len(known) > 1 and curve.weights not in known", "if len(known) > 2"),
        ("not (curve.control and known)", "not curve.control"),
        ("return Point(tuple(paired), len(results) - len(paired))", "return Point(tuple(results))"),
        ('    if curve.variant["control_of"] is not None:\n        return found\n', ""),
        among="told_apart or left_out or random",
    ),
    *of(
        "results/record.py",
        "test_crafted_results",
        ("if facts.st_size > LARGEST", "if facts.st_size > LARGEST**9"),
        ("self.config, self.weights]", "self.config]"),
        among="one_bad_file or told_apart",
    ),
    *of(
        "results/record.py",
        "test_results test_crafted_results",
        ("allow_nan=False, ensure_ascii=False).encode()", "ensure_ascii=False).encode()"),
        ("ensure_ascii=False).encode()", "ensure_ascii=True).encode()"),
        ("    if level:\n", "    if False:\n"),
        ("and abs(value) < LONGEST_INTEGER", ""),
        ("and not isinstance(value, bool)", ""),
        ("len(numbers) != n:", "len(numbers) < n:"),
        ('if sum(scored) != held_out["n_scored"]', 'if sum(scored) < held_out["n_scored"]'),
        among="contradicts or crafted_result_is and levels",
    ),
    *of(
        "results/enough_bits.py",
        "test_crafted_results",
        ("not size.keys() >= CHOSEN_BY", "False"),
        (' or "validation_loss" not in anchor', ""),
        ("if any(start == end for start, end in ends.values())", "if False"),
        among="of_bits or crafted_result_is",
    ),
    *of(
        "results/snapshot.py",
        "test_results",
        ("if any(tensor.dtype != torch.float32", "if any(tensor.dtype == torch.int8"),
        ("kind.check(config, tensors, model.lm)", "pass"),
        among="snapshot",
    ),
    *of(
        "interventions/soft_prompt.py",
        "test_results",
        ("(len(rows) and config != cls.config_of(tensors))", "False"),
        ('config["shape"] == list(rows.shape) and', ""),
        among="snapshot",
    ),
    *of(
        "interventions/steering.py",
        "test_rival_interventions",
        ("self.vectors * self.scales[:, None]", "self.vectors"),
        ("round_rows(self.vectors.detach(), n_bits)", "self.vectors.detach()"),
        ("return len(self.layers)", "return 1"),
        ('not set(config["layers"]) <= set(', "not set("),
        ("passed_on + vector.to", "passed_on - vector.to"),
        (".square().mean(-1).sqrt().median()", ".square().mean().sqrt()"),
    ),
    *of(
        "interventions/subspace.py",
        "test_rival_interventions",
        ("functional_call(_Changes(self._inner[0]), moved, (lm,))", "self._inner[0].changes(lm)"),
    ),
    *of(
        "interventions/lora.py",
        "test_rival_interventions",
        ("round_rows(b.detach().T, n_bits).T", "round_rows(b.detach(), n_bits)"),
        ("return 2 * self.rank * len(self.layers)", "return self.rank * len(self.layers)"),
        ('if config["layers"] != layers or', "if"),
    ),
    *of(
        "engine/changes.py",
        "test_rival_interventions test_interventions",
        ("own = passed_on[rows]", "own = passed_on[: rows.stop - rows.start]"),
        ("pieces += [passed_on[at : rows.start],", "pieces += [passed_on[at : rows.start] * 1.01,"),
        ("            handle.remove()", "            pass"),
    ),
    *of(
        "training/state.py",
        "test_rival_interventions",
        ("depth = start / (n_starts - 1)", "depth = start / n_starts"),
        ("return range(first, first + n)", "return range(n)"),
        ("if n > n_layers:", "if n > n_layers + 1:"),
        among="places or place_of",
    ),
    *of(
        "report/findings.py",
        "test_findings",
        ('fillstyle="full" if found.seen else "none"', 'fillstyle="full"'),
        ("if distance.value is None:", "if distance.value is not None:"),
        ("ZERO ** (1 - n_tokens)", "max(n_tokens, ZERO)"),
        ("ax.plot([low, high], [y, y], color=color, linewidth=1.5)\n    ax.plot(found", "ax.plot(found"),
        ("if not curve.control}", "}"),
        ("for curve in without_random_targets([s.curve for s in shown])", "for curve in [s.curve for s in shown]"),
        ("return which if which.startswith(curve.experiment)", "return which if which"),
    ),
    *of(
        "report/charts.py",
        "test_page_in_browser",
        ("order = np.argsort(-gains", "order = np.argsort(gains"),
        ("(zero.sums - best.sums)", "(best.sums - zero.sums)"),
        among="documents or difference",
    ),
    *of(
        "report/charts.py",
        "test_crafted_results",
        ("json.dumps(values, allow_nan=False).replace", "json.dumps(values, allow_nan=False).strip"),
        among="json",
    ),
    *of(
        "results/curve.py",
        "test_page_in_browser",
        ("draws[:, ::2] - draws[:, 1::2]", "draws[:, 1::2] - draws[:, ::2]"),
        ("[p.loss - other.loss for p, other in pairs]", "[other.loss - p.loss for p, other in pairs]"),
        among="difference",
    ),
    *of(
        "report/kept.py",
        "test_kept",
        ('if kept["digest"] != digest(content)', "if False"),
        ('if content["code"] == code_version()', "if True"),
    ),
    *of(
        "report/tables.py",
        "test_tables",
        ("if wide[i] > room and", "if wide[i] > 2 * room and"),
        ("room -= wide[i]", "room += wide[i]"),
        ('header[i] == "flags" or not any(row[i] for row in body)', 'header[i] == "flags"'),
        ("if any(row[1:]):", "if True:"),
    ),
    *of(
        "engine/behind.py",
        "test_anchors",
        ("for e in alone]) / np.log(2))", "for e in different.values()]) / np.log(2))"),
        ("for e in alone]) / np", "for e in alone]) * np"),
        ("np.full(len(before), IGNORE), text]", "np.full(len(before), IGNORE), text + 1]"),
        ("before = e.tokens[: e.insert_at]", "before = e.tokens[:1]"),
    ),
    *of(
        "report/markdown.py",
        "test_crafted_results",
        ('.replace("<", "&lt;")', ""),
        ('.replace("|", "\\\\|")', ""),
        ('.replace("](", "]\\\\(")', ""),
        ('" ".join(shown_only(text).split())', "shown_only(text)"),
        among="hostile",
    ),
    *of(
        "report/markdown.py",
        "test_markdown",
        ('"---" if i in texts', '"---" if i not in texts'),
        ("for row in (head, *body)", "for row in (*body, head)"),
        ("low, high = score", "high, low = score"),
    ),
    *of(
        "report/pictures.py",
        "test_crafted_results",
        ("except (KeyError, ValueError):  # a part", "except KeyError:  # a part"),
        ("escape(part)", "part"),
        ('name = escape(picture.name.removeprefix(f"{path.stem}.").removesuffix(".png"))', "name = picture.name"),
        among="tag",
    ),
    *of(
        "report/export.py",
        "test_crafted_results",
        ("if len(kinds) > 1 and not", "if len(kinds) > 9 and not"),
        ("abs(value) >= LONGEST_INTEGER", "False"),
        ("rename(columns=_in_csv).map(_in_csv)", "map(_in_csv)"),
        ('FORMULA = tuple("=+-@\\t")', 'FORMULA = tuple("=+-@")'),
        among="formula or kinds",
    ),
    *of(
        "models/loading.py",
        "test_untrusted_models",
        ('    with patch.object(torch, "load", refuse):\n        yield', "    yield"),
        among="pickle",
    ),
    *of(
        "options.py",
        "test_privacy",
        (r'r"(?<![\w.~%-])', 'r"'),
        among="credentials or password or shortened",
    ),
    *of(
        "engine/baselines.py",
        "test_baselines",
        ('"5-gram": 4', '"5-gram": 5'),
        ("self.losses.sum() / self.counts.sum()", "np.mean(self.losses / self.counts)"),
        ("_scored(_distinct(training))", "_scored(training)"),
        ("-np.log(p)", "-np.log2(p)"),
        ("np.log(seen - 1 + ALPHAS", "np.log(seen + ALPHAS"),
        ("max(n - 1, 0)", "max(n, 0)"),
        ("(counts + alpha) / (n + alpha * len(counts))", "(counts + alpha) / (n + alpha)"),
        ("ALPHAS[by_alpha.argmax()]", "ALPHAS[by_alpha.argmin()]"),
        ("self.scored.n_before[self.rows] >= length", "self.scored.n_before[self.rows] > length"),
        ("self.scored.at[self.rows] - distance]", "self.scored.at[self.rows] - 1]"),
        ("p[rows] = _witten_bell(*both, p[rows], base)", "p[rows] = _witten_bell(*both, unigram[rows], base)"),
        ("(n_label + n_different * shorter)", "(n_label + shorter)"),
        ("n = n_all + n_different", "n = n_all + 1"),
        ('side="right")', 'side="left")'),
        ("(len(rest) - 1) // n_left", "len(rest) // n_left"),
    ),
    *of(
        "models/names.py",
        "test_gguf",
        (".name.removesuffix(GGUF)", ".name"),
        (' if (path / "config.json").exists() else', " if False else"),
        ("_only_gguf(path) or path", "path"),
        ("if len(files) > 1:", "if len(files) > 2:"),
        ("if at and not local_path(model)", "if at"),
        (" or path.suffix == GGUF)", ")"),
        among="known or several or names",
    ),
    *of(
        "models/loading.py",
        "test_model",
        ("    if lacking:", "    if len(lacking) > 4:"),
        ("    except Exception as error:  # damaged", "    except OSError as error:  # damaged"),
        among="sentence or lacks",
    ),
    *of(
        "models/gguf.py",
        "test_gguf",
        ("str(file.resolve())", "file.name"),
        ("NO_MODEL = str(Path(__file__).parent)", 'NO_MODEL = "."'),
        ('if name.startswith("rope_")', 'if name.startswith("rope-")'),
        ("* (factor != 1.0)", "* (factor > 9)"),
        ('if "GGMLQuantizationType" not in str(error)', "if False"),
    )[: None if find_spec("gguf") else 0],  # without the package that reads the files, their tests are skipped
    *of(
        "models/controls.py",
        "test_controls",
        ("weight.dim() > 1 and", "weight.dim() > 0 and"),
        (" and id(weight) not in kept", ""),
        ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
        ("        torch.manual_seed(seed)", "        torch.manual_seed(0)"),
        ("weight.flatten()[order].view_as(weight)", "weight[order[order < len(weight)]]"),
        ("lm = copied(model.lm)", "lm = model.lm"),
        (".eval().requires_grad_(False)", ".eval()"),
        ("    for weight in lm.parameters():", "    for weight in (*lm.parameters(), *lm.buffers()):"),
        ("weight.data = weight.data.to(model.dtype)", "pass"),
    ),
    *of(
        "models/loading.py",
        "test_untrusted_models",
        ("if Path(file).name != file)", "if Path(file).is_absolute())"),
        among="index",
    ),
    *of(
        "results/curve.py",
        "test_page",
        ("return [mean - half, mean + half] if scores", "return [mean, mean] if scores"),
        ("for s in scores), default=0.0) / 2", "for s in scores), default=0.0)"),
    ),
    *of(
        "interventions/lora.py",
        "test_anchors",
        ("return passed_on + change", "return passed_on - change"),
        ("layer.weight.shape if isinstance", "layer.weight.shape if not isinstance"),
    ),
    *of(
        "engine/behind.py",
        "test_anchors",
        ("text, e.tokens[at:]]", "e.tokens[at:], text]"),
        ("e.labels[:at], np.full(len(text), IGNORE), e.labels[at:]", "e.labels, np.full(len(text), IGNORE)"),
        ("n_tokens * float(np.log2(", "n_tokens * float(np.log("),
        ("tokens[1:] for tokens", "tokens for tokens"),
    ),
    *of(
        "training/checkpoint.py",
        "test_checkpoint",
        ("until_now[-KEPT:]", "until_now[-1:]"),
        ("if path.name <= _name(state.start, step)", ""),
        ('[[], []]] if kept["failure"] else', '[[], []]] if not kept["failure"] else'),
        ('if not kept["failure"] and steps', "if steps"),
        ("if any(x.dtype != torch.float32", "if any(x.dtype == torch.int8"),
        ("len(rows) != run.n_tokens or", ""),
        ("except ODD_CONTENT as error:", "except KeyError as error:"),
        ("if of_weights != weights", 'if of_weights == ""'),
        ("sorted(by_step, reverse=True)", "sorted(by_step)"),
        ('metadata["checksum"] != checksum', 'metadata["checksum"] == checksum'),
        ("time.monotonic() - self._last >= self._seconds", "True"),
        among="not command",
    ),
    *of(
        "training/loop.py",
        "test_checkpoint",
        ("done * size, None)", "size, None)"),
        ("done + 1 if done else 0", "done"),
        ("sum(s.seconds for s in states)", "0.0"),
        among="again_and_again or whatever",
    ),
    *of(
        "files.py",
        "test_files test_results",
        ("time.time() - left.lstat().st_mtime > _LEFT_OVER", "True"),
        ("glob.escape(path.name)", "path.name"),
        ("uuid.uuid4().hex[:8]", "os.getpid()"),
        ("digest.update(np.ascontiguousarray(array).tobytes())", "pass"),
        ("now.st_size, now.st_mtime_ns)", "now.st_size, 0)"),
        ("str(file.resolve()), now.st_size", "str(file.resolve()), 0"),
        ('words = "".join(f"{file.name}:{FINGERPRINTS.of(file)}:"', 'words = "".join(f"{file.name}:"'),
        ("now.st_size >= _LARGE", "now.st_size < _LARGE"),
        among="name or left or flipped or fingerprint or file or machines",
    ),
    *of(
        "training/run.py",
        "test_files",
        ('"anchor_files": model_files(name) or ""', '"anchor_files": ""'),
        among="models",
    ),
    *of(
        "models/names.py",
        "test_files",
        ("fingerprint(whole) if whole else base]", "base]"),
        among="change_to_pocket",
    ),
    *of(
        "engine/memory.py",
        "test_memory",
        ("return min(token_budget, self.positions", "return max(token_budget, self.positions"),
        ("self.positions = now // 2", "self.positions = now // 4"),
        ("if now // 2 < FEWEST", "if now < FEWEST"),
        ("        undo()", "        pass"),
        ("if not _is_out_of_memory(error)", "if False"),
    ),
    *of(
        "engine/forward.py",
        "test_shared_starts",
        ("saved < WORTH_SHARING or batch.condition.shape[1]", "saved < WORTH_SHARING"),
        ("n_start if alike and (predictor >= n_start - 1)", "n_start if alike and (predictor >= 0)"),
        ("predictor = predictor - (n_start - 1)", "predictor = predictor - n_start"),
        (
            "return torch.cat([last[row_of], behind], 1)",
            "return torch.cat([last[:1].expand(len(row_of), -1, -1), behind], 1)",
        ),
        ("(intervention, slice(i, i + 1)) for i", "(intervention, slice(i, i)) for i"),
    ),
    *of(
        "models/fitness.py",
        "test_shared_starts",
        ("not model.has_cache or model.window or", "not model.has_cache or"),
        ('"dynamic" in turning', "False"),
        ("return all(_error(a, b) <= _tolerated(model, b)", "return any(_error(a, b) <= _tolerated(model, b)"),
    ),
    *of(
        "hard/behaviour.py",
        "test_soft_to_hard",
        ("if interface == TEXT else attempt.rows", "if interface != TEXT else attempt.rows"),
        ("temperatures=(1.0, 1.0)", "temperatures=(1.0, 0.01)"),
        ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    ),
    *of(
        "engine/forward.py",
        "test_memory",
        ("token_budget = MEMORY.allowed(token_budget)", "pass"),
    ),
    *of(
        "training/loop.py",
        "test_memory",
        ("intervention.zero_grad(set_to_none=True)", "pass"),
        among="memory",
    ),
    *of(
        "training/tensorboard.py",
        "test_tensorboard",
        ("status=SessionLog.START), step=place.done + 1", "status=SessionLog.START), step=place.done"),
    ),
    *of(
        "training/log.py",
        "test_tensorboard",
        ("self._writers.pop(logger, None)", "self._writers.get(logger, None)"),
        ("        if place.done is None:\n            shutil", "        if False:\n            shutil"),
        ('"loss/train": loss', '"loss/train": gradient_norm'),
    ),
    *of(
        "training/log.py",
        "test_loggers",
        ("found is None or found.origin is None", "found is None"),
        ('if loggers == "none" else', 'if loggers == "all" else'),
    ),
    *of(
        "console.py",
        "test_progress",
        ("in_time(step * left)", "in_time(step * n_steps)"),
        ("step * (left + ahead.times * n_steps)", "step * (left + ahead.times)"),
        ("step = seconds / taken", "step = seconds / n_steps"),
        ("seconds >= 1.5 * size", "seconds >= size"),
    ),
    *of(
        "shares.py",
        "test_progress",
        ("sum(map(cost, others)) / sum(map(cost, group))", "len(others) / len(group)"),
    ),
    *of(
        "measure.py",
        "test_progress",
        ("- {run.path for run in group}", "- set()"),
        ("self.sweep.models))[1:]", "self.sweep.models))"),
    ),
    *of(
        "export.py",
        "test_push",
        ("private=not settings.public", "private=settings.public"),
        ("if not private and not settings.public", "if False"),
        ("settings, made.repo_id).encode()", "settings, settings.push).encode()"),
        ("    if not get_token():", "    if False:"),
    ),
    *of(
        "engine/separator.py",
        "test_separator",
        ("losses[own] - losses[best] > MATTERS", "losses[best] - losses[own] > MATTERS"),
        ("MATTERS = 0.05", "MATTERS = 0.01"),
        ("best = min(losses", "best = max(losses"),
        ("examples_behind(i), token_budget", "examples_behind(model.separator), token_budget"),
    ),
    *of(
        "stopwatch.py",
        "test_stopwatch",
        ("0.0) + now - self._since", "0.0) + now"),
        ("self._since = now", "pass"),
        ("100 * s / max(total", "s / max(total"),
    ),
    *of(
        "training/loop.py",
        "test_train",
        ("best = min(starts", "best = max(starts"),
        ("(bool(s.failure), s.validation_loss)", "s.validation_loss"),
        ("best.n_data_tokens += other.n_data_tokens", "best.n_data_tokens += 0"),
        ("not in (None, starts[0].run.recipe.choice)", "is not None"),
        among="starts",
    ),
    *of(
        "training/recipe.py",
        "test_train",
        ("CHOSEN_AFTER = 0.25", "CHOSEN_AFTER = 0.5"),
        ("n_tokens // 4, until / 2", "n_tokens // 4, until / 4"),
        ("until = self.steps / 2", "until = self.steps"),
        ("curve[: k + 1 - self.patience]", "curve[: k - self.patience]"),
        ("curve[k + 1 - self.patience : k + 1]", "curve[k : k + 1]"),
        ("flat = before - recent <=", "flat = recent - before <="),
        ("tolerance(curve[0]", "tolerance(0 * curve[0]"),
        ('curve[0]["loss"] - min(before, recent)', 'curve[0]["loss"] - before'),
        ("math.ceil(flat * (1 + FALL))", "math.ceil(flat)"),
        ("FALL = 0.25", "FALL = 0.5"),
        ("(end - step) / (end - flat)", "(end - step) / end"),
        ('"lr": 1e-3,', '"lr": 1e-2,'),
        ('"linear": 1 - done', '"linear": done'),
    ),
    *of(
        "training/loop.py",
        "test_train",
        ("step in s.looks or step == s.last_step", "step in s.looks"),
        ("if step < s.last_step and not s.failure", "if not s.failure"),
        among="together",
    ),
    *of(
        "interventions/soft_prompt.py",
        "test_prompts",
        ("nn.functional.mish(hidden + ", "nn.functional.gelu(hidden + "),
        ("self.out[shown]) + self.rows[shown]) * self.scale", "self.out[shown])) * self.scale"),
        ("/ max(1, n_in) ** 0.5", "/ max(1, n_in)"),
        among="published",
    ),
    *of(
        "training/state.py",
        "test_prequential",
        ("self.nats_before + loss.detach()", "loss.detach()"),
        ("sum(e.n_scored for e in batch)", "len(batch)"),
    ),
    *of(
        "training/state.py",
        "test_readback",
        ("if not config.steps and before != config.before", "if config.steps and before != config.before"),
        ("_stands_as_asked(config, trained[1])", "pass"),
        among="stands or shorter_one",
    ),
    *of(
        "training/loop.py",
        "test_prequential",
        ("steps * states[0].run.recipe.batch_size", "states[0].run.recipe.batch_size"),
    ),
    *of(
        "results/summary.py",
        "test_prequential",
        ('r.prequential["nats_before"] - r.prequential["nats_after"]', 'r.prequential["nats_before"]'),
        ("spent / np.log(2)", "spent"),
    ),
    *of(
        "results/enough_bits.py",
        "test_enough_bits",
        ("len(zero.documents) / np.log(2)", "len(zero.documents)"),
        ("zero.loss - loss for _, loss in chosen", "loss for _, loss in chosen"),
    ),
    *of(
        "interventions/words.py",
        "test_words",
        ("self.tokens.T / lengths", "self.tokens.T"),
        (").argmax(-1)", ").argmin(-1)"),
        ("(free - free.detach())", "free"),
        ("len(self.rows) * math.log", "math.log"),
        ("SoftPrompt(self.tokens[self.nearest()].cpu())", "SoftPrompt(self.rows)"),
    ),
    *of(
        "models/language_model.py",
        "test_words",
        ("if i not in special", "if i >= 0"),
    ),
    *of(
        "results/record.py",
        "test_results",
        ("least <= min(instance)", "least >= min(instance)"),
        ("max(instance) < LONGEST_INTEGER", "max(instance) > 0"),
        ('items.keys() <= {"type", "minimum"}', "True"),
    ),
    *of(
        "interventions/noisy.py",
        "test_noisy",
        ("variance + self.w.square() - 1", "variance + self.w.square()"),
        ("- 2 * self.log_sigma).sum()", "- self.log_sigma).sum()"),
        ("(directions * widths).T", "directions.T"),
        ("@ directions / widths", "@ directions"),
        ("self.nats / self._tokens", "self.nats"),
        ("manual_seed(seed)", "manual_seed(0)"),
    ),
    *of(
        "training/state.py",
        "test_noisy",
        ("(self.run.seed + 1) - 1)", "(self.run.seed + 1) + len(self.curve))"),
    ),
    *of(
        "interventions/subspace.py",
        "test_subspace",
        ("/ dimensions**0.5", "/ dimensions"),
        ("moved[name] = start + step", "moved[name] = step"),
        ("manual_seed(seed)", "manual_seed(0)"),
        ("return 1\n", "return self.n_tokens\n"),
    ),
    *of(
        "results/exhaustion.py",
        "test_exhaustion",
        ("pair[1].held_out.loss - pair[0].held_out.loss", "pair[0].held_out.loss - pair[1].held_out.loss"),
        ("full.seed == half.seed and documents", "documents"),
        ("return min(results, key=lambda r: r.validation_loss)", "return min(results, key=lambda r: r.held_out.loss)"),
        ("means[longest] - best.held_out.loss", "best.held_out.loss - means[longest]"),
        ("if gain > self.tolerance", "if gain < self.tolerance"),
        ("self.best_start > self.tolerance", "self.best_start < -self.tolerance"),
        ("_steps(r) >= r.config", "_steps(r) > r.config"),
        ("steps=max((_steps(r)", "steps=min((_steps(r)"),
        ("longest = max(several", "longest = min(several"),
    ),
    *of(
        "stats.py",
        "test_exhaustion",
        ("return max(TOLERATED_NATS", "return min(TOLERATED_NATS"),
        ("TOLERATED_SHARE * gain)", "TOLERATED_SHARE)"),
    ),
    *of(
        "training/run.py",
        "test_exhaustion",
        ("self.train.steps // 2", "self.train.steps"),
    ),
    *of(
        "models/device.py",
        "test_dtype",
        ('return "bfloat16" if native', 'return "bfloat16" if not native'),
        among="auto",
    ),
    *of(
        "training/anchors.py",
        "test_anchors",
        ("_, best = min(finite)", "_, best = max(finite)"),
        ("evaluate(other, [no_prompt]", "evaluate(bench.model, [no_prompt]"),
        ("evaluate(model, [loras[best]]", "evaluate(model, [loras[0]]"),
        ('if loss < float("inf")]', "]"),
        ("min(texts, key=lambda", "max(texts, key=lambda"),
        ("validation = bench.for_choices", "validation = bench"),
        ("[0][0][1:]  # without", "[0][0]  # without"),
        ("if len(tokens) + longest > context", "if len(tokens) > context"),
        ("and all(isinstance(text, str) and text for", "and all(isinstance(text, str) for"),
    ),
    *of(
        "tasks/chess_moves.py",
        "test_chess_moves test_scores",
        ("int(self.plies[-1]) + 1", "int(self.plies[-1])"),
        ("ratio(true.sums, np.array([e.n_plies for", "ratio(true.sums, np.array([len(e) for"),
        ("rate(legal[:, 0])", "rate(legal[:, -1])"),
        ("plies[encoding.max_tokens])", "plies[encoding.max_tokens - 1])"),
        ("RATINGS([white, black])", "RATINGS([black, white])"),
        ("for c in move[2:4]]", "for c in move[:2]]"),
        ("[*squares, 4.5, 4.5]", "[*squares, 0, 0]"),
        ('if told == "ratings" else opening(text)', 'if told == "opening" else opening(text)'),
        ('searchsorted(ends, starts, side="right")', 'searchsorted(ends, starts, side="left")'),
        ("np.logical_and.at", "np.logical_or.at"),
        ("match[side::2]", "match[1 - side :: 2]"),
        ("if e.n_plies > n_plies]", "if e.n_plies >= n_plies]"),
        ("n + n_new <= prompted", "n + n_new < prompted"),
        ("alive = words[: len(given)] == given", "alive = True"),
        ("if alive and not board.is_game_over():", "if alive:"),
        ('return word != "0000"', "return True"),
        among="chess",
    ),
    *of(
        "tasks/pathfinding.py",
        "test_pathfinding test_scores",
        ('"bumps into walls"), 0, 8)', '"bumps into walls"), 0, 4)'),
        ("np.concatenate([np.full(len(board), IGNORE), path[1:]])", "np.concatenate([[IGNORE], tokens[1:]])"),
        ("QUALITY([extra[i], boards.bumps[i]])", "QUALITY([boards.bumps[i], extra[i]])"),
        ("for e, w in of_asked if w.arrived]", "for e, w in of_asked]"),
        ("values.std()", "values.var()"),
        ("return 2 * self.width * self.height", "return self.width * self.height"),
        ("for e, w in solvable if w.arrived]", "for e, w in solvable]"),
        ("rate([w.arrived and w.n_moves == e.boards", "rate([w.n_moves == e.boards"),
        ("np.array([w.bumps for _, w in solvable])", "np.array([w.n_moves for _, w in solvable])"),
        ("for w in hopeless]", "for w in walks]"),
        ("w.end == DONE and not w.arrived for w", "w.end == DONE for w"),
        ('w.end == "" for w', "w.end != DONE for w"),
        ("RANDOM_TEXTS, longest), p=shares)", "RANDOM_TEXTS, longest))"),
        ("optimal[i] += w.arrived and w.n_moves == b.optimum[0]", "optimal[i] += w.arrived"),
        ("n_texts = np.full(len(solvable), RANDOM_TEXTS)", "n_texts = np.ones(len(solvable))"),
        among="pathfinding",
    ),
    *of(
        "tasks/board_pictures.py",
        "test_pathfinding",
        ('"said so" if w.end == NO_WAY', '"said so" if w.end != NO_WAY'),
        ('0 if what == "extra" else 2', '2 if what == "extra" else 0'),
        among="route or obedience",
    ),
    *of(
        "tasks/autoregressive.py",
        "test_scores",
        ("[x.sum() for x in scores.correct]", "[x.mean() for x in scores.correct]"),
        among="autoregressive",
    ),
    *of(
        "tasks/autoregressive.py",
        "test_language_experiments",
        ("np.array([IGNORE, *tokens[1:]])", "np.array([IGNORE, *tokens[:-1]])"),
        among="accuracy",
    ),
    *of(
        "tasks/skip_tokens.py",
        "test_language_experiments test_scores",
        ("return k + 2", "return k + 1"),
        ("= tokens[1 + k :]", "= tokens[k:-1]"),
        (".argmax()", ".argmin()"),
        ("(x == commonest).sum()", "(x == commonest).any()"),
        among="skip",
    ),
    *of(
        "tasks/repetition.py",
        "test_language_experiments test_scores",
        ("random.integers(self.least_text + 1,", "random.integers(self.least_text,"),
        ("insert_at=n_text", "insert_at=1"),
        ('"exact": rate(n_right == n)', '"exact": rate(n_right >= n - 1)'),
        ("rate(n_right_drawn == n)", "rate(n_right == n)"),
        ("int(right.argmin())", "int(right.sum())"),
        among="repetition",
    ),
    *of(
        "tasks/chat_detuning.py",
        "test_scores",
        ("len(reply) < self.reply_tokens", "len(reply) <= self.reply_tokens"),
        ("_crossed(by_chat.sums - own.sums)", "_crossed(own.sums - by_chat.sums)"),
        ("_crossed(by_bases[0].sums - own.sums)", "_crossed(by_chat.sums - own.sums)"),
        ("gap = chat - base", "gap = base - chat"),
        ("if gap.sum() <= 0", "if gap.sum() < 0"),
        ("ratio(chat - here, gap)", "ratio(base - here, gap)"),
        ("reshape(len(SYSTEMS), len(REQUESTS))", "reshape(len(REQUESTS), len(SYSTEMS))"),
        ("((rows @ x) * columns).sum(1)", "(rows @ x).sum(1)"),
        ("drawn_sums[kept] / drawn_counts[kept]", "drawn_sums[kept] / counts.sum()"),
        ("[min(low, least), max(high, most)]", "[max(low, least), min(high, most)]"),
        ("tokenizer.eos_token_id] * (len(reply) < longest)", "tokenizer.eos_token_id]"),
        among="detuning or crossed",
    ),
    *of(
        "tasks/chat.py",
        "test_language_experiments",
        ("add_generation_prompt=True", "add_generation_prompt=False"),
        among="dialogues",
    ),
    *of(
        "tasks/chat.py",
        "test_language_experiments",
        ("for m in messages):", "for m in messages[-1:]):"),
        ("{system}\\n\\n{user}", "{user}"),
        among="system_message",
    ),
    *of(
        "interventions/given.py",
        "test_readback",
        ("Given(rows[1:], opener, before=False)", "Given(rows, opener, before=False)"),
        ("or len(rows) < 2", ""),
        ("(rows * scale)", "(rows)"),
        ('if kind != "PROMPT_TUNING"', "if not kind"),
        ("rows.shape[1] != width", "False"),
        ('use.get("behind") == "nothing"', 'use.get("behind") != "nothing"'),
        ("vocabulary.device, vocabulary.dtype)", "vocabulary.device)"),
        ("for i in sorted(special)", "for i in range(len(vocabulary))"),
        among="not command and not exported",
    ),
    *of(
        "tasks/placed.py",
        "test_readback",
        ("insert_at=0", "insert_at=1"),
        ("if e.insert_at != 1", "if False"),
        among="before",
    ),
    *of(
        "tasks/protection.py",
        "test_protection",
        ("and not self.declines(reply)", ""),
        ("re.escape(request.reply)", '""'),
        ("re.IGNORECASE | re.DOTALL", "re.IGNORECASE"),
        ("request.pattern or self.pattern", "self.pattern or request.pattern"),
        ("np.searchsorted(at, behind_request)", "np.searchsorted(at, behind_request) - 1"),
        ('"reply": len(tokens)}', '"reply": len(tokens) - 1}'),
        ("if len(reply) <= self.reply_tokens and end", "if end"),
        ("wanted = reply[1 :", "wanted = reply[0 :"),
        ("made[: self.n_requests[0] or None]", "made"),
        ("(r.group != known[0].group) == other", "(r.group != known[0].group) != other"),
        ('other = split == "train" and', "other ="),
        ("if split_of(r.request) == split]", "]"),
        ("if len(labels) <= encoding.max_tokens", "if True"),
        ("plain[e.document] for e in bench.held_out", "e for e in bench.held_out"),
        ("np.full(n, k)", "np.full(n, 1)"),
        ("successes.all() or not successes.any()", "successes.all()"),
        ("np.full(len(tokens), IGNORE), wanted", "tokens, wanted"),
    ),
    *of(
        "data/requests.py",
        "test_protection",
        ("found.setdefault(request.request, request)", "found[request.request] = request"),
        ("enumerate(lines, 1)", "enumerate(lines)"),
        ('encoding="utf-8-sig"', 'encoding="utf-8"'),
        ("if not isinstance(value, str)", "if False"),
        among="read or line or empty",
    ),
    *of(
        "pocket/declines.py",
        "test_protection",
        ('facts[what]["after"] - facts[what]["before"]', 'facts[what]["before"] - facts[what]["after"]'),
        ('["after"] < MUST_DECLINE', '["after"] > MUST_DECLINE'),
        among="gate",
    ),
    *of("pocket/says.py", "test_attribution", ("more[token] = boost", "more[token] = -boost"), among="nats_more"),
    *of(
        "tasks/imitation.py",
        "test_imitation",
        ("own.sums - steered.sums", "steered.sums - own.sums"),
        ("part(x) for x in apart]", "part(x) for x in before]"),
        ("1 : 1 + EARLY]", "1 : 2 + EARLY]"),
        ("range(e.insert_at + n, len(e) + n)", "range(e.insert_at, len(e))"),
        ("slice(0, 1))]):", "slice(0, 0))]):"),
    ),
    *of(
        "hard/legal.py",
        "test_hard",
        ("and i not in special", "or i in special"),
        ("found == prompt + own", "found[: len(prompt)] == prompt"),
        ("mask[self.read_back([form])[0]] = False", "mask[self.read_back([form])[0]] = True"),
    ),
    *of(
        "hard/attempt.py",
        "test_hard",
        ("FOR_A_GRADIENT * len(attempt.examples)", "FOR_A_GRADIENT"),
        ("attempt.spent += size * len", "attempt.spent += len"),
        ("(loss < self.loss or self._keep_last)", "True"),
        ("for kind in (Slope, Losses) for p", "for kind in (Losses, Slope) for p"),
    ),
    *of(
        "hard/search.py",
        "test_hard",
        ("(gradient * rows).sum(-1, keepdim=True) - gradient", "-gradient"),
        ("legal.only(-gradient @", "legal.only(gradient @"),
        ("gains / spread - torch.log", "torch.log"),
        ("better[losses.argsort()]", "better"),
        ("refused |= {tuple(row) for row in tried.tolist()}", "pass"),
        ("torch.stack(made[1:])", "torch.stack(made)"),
        ("(logits / temperature).softmax(-1)", "(logits * temperature).softmax(-1)"),
    ),
    *of(
        "hard/comparison.py",
        "test_hard",
        ("passes * len(examples), seed=k", "passes, seed=k"),
        ("(tokens, [], attempt.start.tolist())", "(attempt.start.tolist(), [], tokens)"),
    ),
    *of(
        "hard/retrodiction.py",
        "test_retrodiction",
        ("wanted[document].exp()", "found.exp()"),
        ("np.argmin(by_text)", "np.argmax(by_text)"),
        ("insert_at=1 + len(first)", "insert_at=1"),
        ("chosen_on, bench.token_budget)", "measured_on, bench.token_budget)"),
    ),
    *of(
        "pocket/blocked.py",
        "test_blocking",
        ("torch.cat([old_b, b], 1)", "torch.cat([b, old_b], 1)"),
        ("for x in (plain, logits(now, behind))", "for x in (plain, logits(frozen, behind))"),
        among="changes or blocked_prompt",
    ),
    *of(
        "tasks/base.py",
        "test_metatoken",
        ("of_others.sums - true.sums", "true.sums - of_others.sums"),
        ("np.roll(order, 1)", "order"),
        among="strangers or effect",
    ),
    *of(
        "tasks/sentences.py",
        "test_metatoken",
        ("max(1, len(SENTENCE_END.findall(text)))", "(1 + len(SENTENCE_END.findall(text)))"),
        ("self.conditions([bins[document]])", "self.conditions([bin_of(document)])"),
        among="sentences or condition",
    ),
    *of(
        "pocket/metatokens.py",
        "test_metatoken",
        ("rows.is_meta & chosen[:, None]", "rows.is_meta"),
        ("np.where(gone, -1, labels)", "labels"),
        ("unmarked if told else", "~unmarked if told else"),
        ('"held_out" if held_out else "train"', '"held_out" if held_out else "validation"'),
        ("ratio(others.sums - own.sums", "ratio(own.sums - others.sums"),
        ("    if low <= 0:", "    if high <= 0:"),
        among="row or pair_differs or split or worth or gate",
    ),
    *of(
        "models/loading.py",
        "test_blocking",
        ("in reversed(changes)", "in changes[:1]"),
        among="change_may",
    ),
    *of(
        "sweep.py",
        "test_options",
        ("control and seed not in with_controls", "control and seed in with_controls"),
        ("sweep.seeds[: sweep.control_seeds]", "sweep.seeds[-(sweep.control_seeds or 9) :]"),
        among="first_seeds",
    ),
    *of(
        "results/enough_bits.py",
        "test_enough_bits",
        ("of_any_seed.get(r.n_tokens))", "None)"),
        among="held_against",
    ),
    *of(
        "tasks/hidden.py",
        "test_hidden",
        (">= nearness[token]).mean()", "<= nearness[token]).mean()"),
        ("cosines.max(1), t)", "cosines.min(1), t)"),
        ("cosines.argmax(0)", "cosines.argmin(0)"),
        ("now.sums - before", "before - now.sums"),
        among="betrays_it or by_chance or seen_through",
    ),
    *of(
        "tasks/hidden.py",
        "test_hidden",
        ("if len(chosen) == n:", "if len(chosen) == n + 1:"),
        among="same_few",
    ),
    *of(
        "pocket/hidden.py",
        "test_hidden",
        ("predicts[i, len(head) : len(row) - 1]", "predicts[i, len(head) + 1 : len(row)]"),
        ("pairs.sum(1, keepdims=True) + kinds)", "pairs.sum(1, keepdims=True) + 1)"),
        ("np.concatenate([[0], row.document[:-1]])", "row.document"),
        ("head if opens else None", "None if opens else head"),
        ("above < HIDDEN_BY[base]", "above > HIDDEN_BY[base]"),
        ("above > THERE_TO[base]", "above < THERE_TO[base]"),
        among="one_before or by_hand or opens or targets or gate_lets or gate_refuses",
    ),
    *of(
        "results/half_life.py",
        "test_decay",
        (
            "rival = rows[:, start : start + len(never[n])].min(1)",
            "rival = rows[:, start : start + len(never[n])].max(1)",
        ),
        ("half_gone(np.asarray(steps), rival[:, None] - here)", "half_gone(np.asarray(steps), here - rival[:, None])"),
        ("heights = np.log(np.maximum(shares, LEAST_LEFT))", "heights = np.maximum(shares, LEAST_LEFT)"),
        ("below = shares <= 0.5", "below = shares <= 0.25"),
        ("np.where(below.any(1), at, np.inf)", "np.where(below.any(1), at, steps[-1])"),
        ("ratios = np.minimum(self.draws[known], self.last) /", "ratios = self.last /"),
        among="half_life or half_lives or lasts or luck",
    ),
    *of(
        "pocket/overlap.py",
        "test_overlap",
        ("(a + b) % DIGITS], -1)", "(a - b) % DIGITS], -1)"),
        ("forth[:, :, ::-1], sign", "forth, sign"),
        ("other = 1 - order if", "other = order if"),
        ("of_a[checks(of_a) > 1]", "of_a[checks(of_a) > 0]"),
        ("known = np.delete(known, LEFT_OUT)", "known = np.delete(known, 0)"),
        ("((True, has.all(1)), (False", "((True, has.any(1)), (False"),
        ("labels[4::4] = row[4::4]", "labels[3::4] = row[3::4]"),
        among="documents_obey or no_document",
    ),
    *of(
        "pocket/fading.py",
        "test_decay test_overlap",
        ("min(1.0, step / pace.warmup, fall)", "min(1.0, pace.warmup / step, fall)"),
        ("fall = 2 * (1 - (step - 1) / n_steps)", "fall = 1 - (step - 1) / n_steps"),
        ("logits.flatten(0, 1), batch[:, 1:]", "logits.flatten(0, 1), batch[:, :-1]"),
        ("weight_decay=pace.weight_decay", "weight_decay=0.01"),
        ("of_pocket.SHARES[kind] / total for", "1 / len(kinds) for"),
        among="trained_on or weight_decay or rises or proportions",
    ),
    *of(
        "pocket/mazes.py",
        "test_decay",
        ("starts >= text.index(PATH) + len(PATH)", "starts >= text.index(PATH)"),
        ('"validation": 0.02', '"validation": 0.03'),
        among="mazes_are_scored",
    ),
]


@contextmanager
def _copies(n: int) -> Iterator[queue.SimpleQueue[Path]]:
    """Folders, each with all that the tests need."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for i in range(n):
            folder = Path(temporary, str(i))
            for name in COPIED:
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", folder)
            folders.put(folder)
        yield folders


class _FirstFailure:
    """A plugin of pytest that remembers the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid.removeprefix("tests/unit/")


def _pytest(folder: Path, tests: Sequence[str], answer: Connection) -> None:
    """In a process of its own: run tests in a copy, and send pytest's exit code and the first test that failed."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode = True  # faults change files faster than the clock that compiled files are checked by
    for name in [name for name in sys.modules if name.split(".")[0] in COPIED]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    first = _FirstFailure()
    # Without what only words a failure nicely.
    options = ["-x", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", f"--basetemp={folder / 'temporary'}"]
    code = int(pytest.main([*options, *tests], plugins=[first]))
    assert Path(sys.modules["soft_prompts"].__file__).is_relative_to(folder)
    answer.send((code, first.name))


def _noticed_by(folder: Path, tests: Sequence[str]) -> str:
    """The first test that fails in a copy; "" if all pass.

    Raises:
        SoftPromptsError: The tests could not run at all, so that nothing was noticed by a value.
    """
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_pytest, args=(folder, tests, there))
    process.start()
    there.close()
    try:
        if not here.poll(LIMIT):
            process.kill()
            return ENDLESS
        code, failed = here.recv()
    except EOFError:
        code, failed = None, ""
    finally:
        process.join()
    if code == pytest.ExitCode.OK or (code == pytest.ExitCode.TESTS_FAILED and failed):
        return failed
    last = (folder / LOG).read_text().strip().splitlines()[-1:]
    raise SoftPromptsError(f"pytest could not run {' '.join(tests)} ({''.join(last)}); see to that first.")


def _try(fault: Fault, folder: Path) -> str:
    """Put a fault into a copy, run its tests, and take it out again."""
    path = folder / "soft_prompts" / fault.file
    right = path.read_text()
    path.write_text(fault.applied(right))
    try:
        return _noticed_by(folder, fault.tests)
    except SoftPromptsError as error:
        raise SoftPromptsError(f"with {fault}: {error}") from error
    finally:
        path.write_text(right)


def run(faults: Sequence[Fault], n_processes: int) -> int:
    """Try all faults and say, one after another, who noticed them; at the end, those that no test noticed.

    Args:
        faults: The faults.
        n_processes: How many are tried at once, each in a copy of its own.

    Returns:
        How many no test noticed.

    Raises:
        SoftPromptsError: A fault does not fit its file, or the tests fail without any fault.
    """
    for fault in faults:
        fault.applied((ROOT / "soft_prompts" / fault.file).read_text())
    PROCESSES.set_forkserver_preload(IMPORTED)
    with _copies(n_processes) as folders, progress_bar("faults", len(faults)) as advance:

        def attempt(fault: Fault) -> str:
            folder = folders.get()
            try:
                test = _try(fault, folder)
            finally:
                folders.put(folder)
                advance()
            say(f"{fault}\n    {'noticed by ' + test if test else 'SURVIVED'}")
            return test

        for tests in {fault.tests: None for fault in faults}:
            folder = folders.get()
            if red := _noticed_by(folder, tests):
                raise SoftPromptsError(f"without any fault, {' '.join(tests)} do not pass ({red}); repair that first.")
            folders.put(folder)
        with ThreadPoolExecutor(n_processes) as pool:
            noticed = list(pool.map(attempt, faults))
    survivors = [fault for fault, test in zip(faults, noticed, strict=True) if not test]
    for fault in survivors:
        say(f"SURVIVED: {fault}")
    say(f"{len(faults)} faults, {len(faults) - len(survivors)} noticed, {len(survivors)} survived")
    return len(survivors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose line in the table holds this")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="how many are tried at once (default: 1)")
    options = parser.parse_args()
    with ends_in_a_sentence():
        chosen = [fault for fault in FAULTS if options.only in str(fault)]
        if not chosen:
            raise SoftPromptsError(f"no fault holds --only {options.only!r}; leave it out to try all {len(FAULTS)}.")
        sys.exit(1 if run(chosen, options.processes) else 0)


if __name__ == "__main__":
    main()
