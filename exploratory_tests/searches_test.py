"""Do other optimisers, averages, starts or bounds find lower losses than the default recipe, after the same documents?

Prompts of pocket and its variants, in the short forms of the experiments. Every search trains on the same documents
in the same order. Those that step differently have several learning rates, of which the best on the validation
documents is shown: one for all lengths and seeds. So has the default, so that the choice favours none.

Expected: nothing beats the default by more than 0.05 nats. Averages and schedule-free steps come near it without
knowing when they will end. What bounds a prompt's size loses where a prompt must force something unlikely.

    python -m exploratory_tests.searches_test --behaviours keys repetition
    python -m exploratory_tests.searches_test table results/searches

schedule-free needs the package of this name: pip install --no-deps -r requirements-features.txt
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from exploratory_tests.rivals_test import BEHAVIOURS
from soft_prompts.answers import do_or_print
from soft_prompts.cli import command
from soft_prompts.console import progress_bar, say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.options import recorded, settle
from soft_prompts.records import begin, load_records, record_seeds
from soft_prompts.report.markdown import markdown_table, with_interval
from soft_prompts.stats import estimated, two_level_draws
from soft_prompts.stopwatch import CLOCK, in_words

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from soft_prompts.engine.prompted import Bench
    from soft_prompts.interventions.base import Intervention
    from soft_prompts.training.run import Run

EXPERIMENT = "searches"
RESULT = "searches-seed-{seed}.json"
"""Name of a result's file."""
RATES, USUAL = (0.1, 0.3, 1.0), 0.3
"""Learning rates that are tried, in units of an embedding's size, and the default's."""


def _adamw(parameters: Sequence[nn.Parameter], lr: float, **options: Any) -> Optimizer:
    import torch

    return torch.optim.AdamW(parameters, lr, weight_decay=1e-4, **options)


def _muon(parameters: Sequence[nn.Parameter], lr: float) -> Optimizer:
    import torch

    return torch.optim.Muon(parameters, lr, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw")


def _schedule_free(parameters: Sequence[nn.Parameter], lr: float) -> Optimizer:
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError:
        raise SoftPromptsError(
            "the search 'schedule-free' needs its package: pip install --no-deps -r requirements-features.txt"
        ) from None
    made = AdamWScheduleFree(parameters, lr, weight_decay=1e-4)
    made.train()
    return made


@dataclass(frozen=True)
class Search:
    """A way to find a prompt: what it changes of the default recipe."""

    optimizer: Callable[[Sequence[nn.Parameter], float], Optimizer] = _adamw
    rates: tuple[float, ...] = (USUAL,)
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate, behind a warm-up over 2 % of the steps."""
    averaged: float = 0.0
    """The prompt is the mean of what it was after each of the last so many of the steps, as a share; 0: the last."""
    starts_at: Literal["vocabulary", "centroids"] = "vocabulary"
    """Where training starts: sampled embeddings, or the centres of as many clusters of all embeddings (k-means)."""
    largest: float = float("inf")
    """After each step, longer rows are cut back to so many times the root mean square length of the embeddings."""
    width: int = 0
    """Train rows + MLP(rows), with an MLP of this width that is folded away at the end (Razdaibiedina et al. 2023,
    arXiv 2305.03937); 0: the rows."""


SEARCHES = {
    "default": Search(rates=RATES),
    "momentum 0.5": Search(partial(_adamw, betas=(0.5, 0.999)), RATES),
    "Muon": Search(_muon, RATES),
    "schedule-free": Search(_schedule_free, RATES, "constant"),
    "mean of the last half, constant rate": Search(rates=RATES, schedule="constant", averaged=0.5),
    "start at centroids": Search(starts_at="centroids"),
    "rows at most as long as embeddings": Search(largest=1.0),
    "rows at most twice as long": Search(largest=2.0),
    "rows and a network of them": Search(rates=RATES, width=64),
}


@dataclass(frozen=True)
class Settings:
    """Options of the command line."""

    behaviours: tuple[str, ...] = ("keys", "repetition", "skip")
    """Of those in exploratory_tests/rivals_test.py, the ones without conditions."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each has other starts and another order of documents."""
    n_tokens: tuple[int, ...] = (4, 16)
    """Prompt lengths."""
    searches: tuple[str, ...] = field(default_factory=lambda: tuple(SEARCHES))
    """What is compared, the first with all others."""
    out: Path = Path(".")
    """Folder under which results/ is made."""
    force: bool = False
    """Do again what has a result."""

    def __post_init__(self) -> None:
        settle(self)

    def check(self) -> None:
        """Raises SoftPromptsError if an option cannot work."""
        for what, asked, known in (("behaviour", self.behaviours, BEHAVIOURS), ("search", self.searches, SEARCHES)):
            if unknown := [name for name in asked if name not in known]:
                raise SoftPromptsError(f"there is no {what} {unknown[0]!r}; known: {', '.join(known)}.")
        if not self.searches or min(self.n_tokens, default=0) < 1 or min(self.seeds, default=-1) < 0:
            raise SoftPromptsError("--searches, --n-tokens (from 1) and --seeds (from 0) need one value at least.")


DEFAULT = Settings()


def config_of(settings: Settings, behaviour: str) -> dict[str, Any]:
    """All that the results of a behaviour depend on but for the seed, as plain JSON."""
    sweep = BEHAVIOURS[behaviour]
    rates = {name: list(SEARCHES[name].rates) for name in settings.searches}
    return {
        "experiment": EXPERIMENT,
        "model": sweep.models[0],
        "behaviour": behaviour,
        "task": sweep.task.recorded(),
        "train": recorded(sweep.train),
        "n_tokens": list(settings.n_tokens),
        "searches": rates,
    }


def run(settings: Settings) -> None:
    """Measure what has no result yet, and show what was found.

    Raises:
        SoftPromptsError: An option cannot work, or the behaviour has conditions.
    """
    settings.check()
    begin(settings.out, "cpu")
    for behaviour in settings.behaviours:
        of_seed = partial(measured, settings, behaviour)
        record_seeds(settings.out, config_of(settings, behaviour), RESULT, settings.seeds, of_seed, settings.force)
    print(table(settings.out / "results" / EXPERIMENT))
    say(f"time: {in_words(CLOCK.read())}")


def measured(settings: Settings, behaviour: str, seed: int) -> dict[str, Any]:
    """Train a prompt of each length by each search, and measure it.

    Returns:
        Plain JSON: "found", an entry for each, and "counts", the scored tokens of each held-out document.

    Raises:
        SoftPromptsError: The behaviour has conditions, or what it needs cannot be loaded.
    """
    from soft_prompts.engine.evaluate import evaluate
    from soft_prompts.prepare import Workbench
    from soft_prompts.results.provenance import provenance
    from soft_prompts.sweep import plan

    sweep = BEHAVIOURS[behaviour]
    sweep = replace(sweep, seeds=(seed,), n_tokens=settings.n_tokens, recipes=({},), out=settings.out)
    runs = plan(sweep, sweep.models[0])
    bench, _ = Workbench(sweep, runs).ready_for(runs[0])
    if len(bench.held_out[0].condition):
        raise SoftPromptsError(f"{behaviour} has conditions, and searches are compared on plain prompts; leave it out.")
    searchers = [
        Searcher(name, rate, run, bench) for name in settings.searches for rate in SEARCHES[name].rates for run in runs
    ]
    with CLOCK.stage("training"):
        _train(searchers, runs[0], bench, f"{behaviour}, seed {seed}: {len(searchers)} prompts")
    found = [s.finished() for s in searchers]
    with CLOCK.stage("validation"):
        validation = evaluate(bench.model, found, bench.validation, bench.token_budget)
    with CLOCK.stage("held-out evaluation"):
        held_out = evaluate(bench.model, found, bench.held_out, bench.token_budget)
    entries = [
        {**s.asked, "validation": float(v.loss), "losses": [round(float(x), 3) for x in h.sums]}
        for s, v, h in zip(searchers, validation, held_out, strict=True)
    ]
    origin = provenance(bench.model, {}, len(searchers))
    return {"found": entries, "counts": [e.n_scored for e in bench.held_out], "provenance": origin}


class Searcher:
    """One prompt that is searched for."""

    def __init__(self, name: str, rate: float, run: Run, bench: Bench):
        import torch

        from soft_prompts.interventions.soft_prompt import SoftPrompt
        from soft_prompts.training.state import make_intervention

        self.search, self.rate, self.recipe = SEARCHES[name], rate, run.recipe
        self.asked = {"search": name, "rate": rate, "n_tokens": run.n_tokens}
        model = bench.model
        self.prompt = make_intervention(model, run, 0)
        if self.search.starts_at == "centroids":
            rows = centroids(model.vocabulary.float().cpu().numpy(), run.n_tokens, run.seed)
            self.prompt = SoftPrompt(torch.from_numpy(rows), model.scale).to(model.device)
        if self.search.width:
            _reparameterise(self.prompt, self.search.width, run.seed)
        self.parameters = list(self.prompt.parameters())
        self.optimizer = self.search.optimizer(self.parameters, rate)
        self.mean, self.n_averaged = None, 0
        self.longest = self.search.largest * model.vocabulary.shape[1] ** 0.5  # in units of one coordinate's size

    def step(self, step: int) -> None:
        """Take step ``step`` (from 1) with the gradients that are there."""
        import torch

        recipe = self.recipe
        rise = min(1.0, step / max(1.0, recipe.warmup * recipe.steps))
        share = recipe.lr_share(step - 1) if self.search.schedule == "cosine" else rise
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        self.optimizer.param_groups[0]["lr"] = self.rate * share
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            if self.longest < float("inf"):
                lengths = self.prompt.rows.norm(dim=1, keepdim=True)
                self.prompt.rows *= (self.longest / lengths).clamp(max=1.0)
            if step > (1 - self.search.averaged) * recipe.steps:
                self.n_averaged += 1
                rows = self.prompt.rows.detach()
                self.mean = rows.clone() if self.mean is None else self.mean + (rows - self.mean) / self.n_averaged

    def finished(self) -> Intervention:
        """The prompt that was found."""
        import torch
        from torch.nn.utils import parametrize

        if self.search.width:
            parametrize.remove_parametrizations(self.prompt, "rows")
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # schedule-free steps are taken elsewhere than where the result is
        if self.mean is not None:
            with torch.no_grad():
                self.prompt.rows.copy_(self.mean)
        return self.prompt


def _train(searchers: Sequence[Searcher], run: Run, bench: Bench, title: str) -> None:
    """Train all in the same passes, on the same documents."""
    from soft_prompts.training.loop import accumulate_gradients

    stream = run.target.examples("train", bench.encoding, run.seed)
    prompts = [s.prompt for s in searchers]
    with progress_bar(title, run.recipe.steps) as advance:
        for step in range(1, run.recipe.steps + 1):
            batch = list(islice(stream, run.recipe.batch_size))
            accumulate_gradients(bench.model, run.target, prompts, [batch] * len(prompts), bench.token_budget)
            for searcher in searchers:
                searcher.step(step)
            advance()


def centroids(vocabulary: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The centres of ``n`` clusters of the embeddings [V, D], float32 [n, D]."""
    from scipy.cluster.vq import kmeans2

    centres, _ = kmeans2(vocabulary.astype(np.float64), n, minit="++", rng=np.random.default_rng(seed))
    return centres.astype(np.float32)


def _reparameterise(prompt: nn.Module, width: int, seed: int) -> None:
    """Train rows + MLP(rows) in the rows' place. The MLP begins at zero, so the prompt begins where it would."""
    import torch
    from torch.nn.utils import parametrize

    n_dims = prompt.rows.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(n_dims, width), torch.nn.GELU(), torch.nn.Linear(width, n_dims), torch.nn.LayerNorm(n_dims)
        )
    torch.nn.init.zeros_(network[-1].weight)

    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, rows: Tensor) -> Tensor:
            return rows + self.network(rows)

    parametrize.register_parametrization(prompt, "rows", Residual())


def table(folder: Path) -> str:
    """Markdown: for each behaviour, what each search gains over the default by held-out loss, by prompt length."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in load_records(folder, RESULT.format(seed="*"), EXPERIMENT, ["found", "counts"]):
        groups.setdefault(json.dumps(record["config"]), []).append(record)
    of_behaviours = sorted(groups.values(), key=lambda of: list(BEHAVIOURS).index(of[0]["config"]["behaviour"]))
    return "\n\n".join(map(_of_behaviour, of_behaviours))


def _of_behaviour(records: Sequence[dict[str, Any]]) -> str:
    """The default's losses in a row, at the best of its rates, and below by how much those of its usual rate and the
    others are higher, with paired intervals."""
    config = records[0]["config"]
    lengths, counts = config["n_tokens"], np.array(records[0]["counts"])
    asked = config["searches"]
    chosen = {
        name: min(rates, key=lambda rate: np.mean([of["validation"] for of in _entries(records, name, rate)]))
        for name, rates in asked.items()
    }
    first, *others = chosen.items()
    lowest = {n: _losses(records, *first, n) for n in lengths}
    body = [[first[0], f"{first[1]:g}", *(f"{lowest[n].mean(0).sum() / counts.sum():.3f}" for n in lengths)]]
    if first[1] != USUAL and USUAL in asked[first[0]]:
        others = [(first[0], USUAL), *others]
    for name, rate in others:
        above = [_above(_losses(records, name, rate, n), lowest[n], counts) for n in lengths]
        only = " only" if len(asked[name]) == 1 or name == first[0] else ""
        body.append([name, f"{rate:g}{only}", *(with_interval(x, "+.3f") for x in above)])
    said = f"{config['behaviour']}, {config['train']['steps']} steps, {len(records)} seeds:"
    return f"{said}\n\n{markdown_table(['search', 'rate', *(f'P={n}' for n in lengths)], body)}"


def _entries(records: Sequence[dict[str, Any]], name: str, rate: float) -> list[dict[str, Any]]:
    return [of for record in records for of in record["found"] if (of["search"], of["rate"]) == (name, rate)]


def _losses(records: Sequence[dict[str, Any]], name: str, rate: float, n_tokens: int) -> np.ndarray:
    """Nats by held-out document, [n_seeds, documents]."""
    return np.array([of["losses"] for of in _entries(records, name, rate) if of["n_tokens"] == n_tokens])


def _above(one: np.ndarray, other: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """How much higher a loss is than another, paired by document and seed."""
    difference = one - other
    return estimated(difference.mean(0).sum() / counts.sum(), two_level_draws([difference], counts)[:, 0])


if __name__ == "__main__":
    do_or_print(lambda: command(run, DEFAULT, __doc__, {}), table)
