"""Imitation: a prompt must make the model do what a steering vector makes it do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from soft_prompts.data.example import Example
from soft_prompts.data.sources import fingerprint
from soft_prompts.engine.prompted import Bench, PromptedModel, unprompted
from soft_prompts.errors import ODD_CONTENT, SoftPromptsError
from soft_prompts.pocket import STEERED, STEERED_TEXTS
from soft_prompts.stats import ratio
from soft_prompts.tasks.autoregressive import Autoregressive
from soft_prompts.tasks.base import Anchor, TaskScores, continuations

if TYPE_CHECKING:
    from soft_prompts.interventions.base import Intervention
    from soft_prompts.interventions.steering import Steering
    from soft_prompts.models.language_model import LanguageModel

LISTENED = 24
"""Held-out documents on which activations are compared, at most."""
EARLY = 8
"""Tokens of a document that count as its beginning."""


@dataclass(frozen=True)
class Imitation(Autoregressive):
    """Texts that a steered model wrote. Who predicts them as well as that model does, has its distribution: the loss
    above the steered model's own is the Kullback-Leibler divergence from it, in nats per token."""

    text: tuple[str, ...] = (str(STEERED_TEXTS),)
    """What the steered model wrote, from the separator on, at temperature 1."""
    steering: str = str(STEERED)
    """The vector that it was steered by: a .safetensors of soft_prompts.pocket.steered."""

    headline: ClassVar[tuple[str, ...]] = ("divergence", "activations")
    file_options: ClassVar[tuple[str, ...]] = (*Autoregressive.file_options, "steering")

    def identity(self) -> dict[str, str]:
        if not Path(self.steering).is_file():
            raise SoftPromptsError(f"there is no file {self.steering!r}; give one with --steering.")
        return {**super().identity(), "steering": fingerprint(self.steering)}

    def anchor(self, bench: Bench) -> Anchor:
        """The steered model's own loss: no prompt can do better, but by chance."""
        return Anchor("the steered model", PromptedModel(bench, self._vector(bench.model)).held_out_scores)

    def score(self, prompted: PromptedModel, held_out: Sequence[Example]) -> TaskScores:
        """How near the prompted model comes to the steered one.

        divergence: KL(steered | prompted), nats per token, estimated on the steered model's own texts.
        activations: squared distance of what layers pass on from the steered model's, over that without a prompt,
            summed over layers: 0 is the same, 1 no nearer than no prompt. activations_by_layer, activations_by_place:
            the same for each layer, and for the first tokens of a document and the others.
        """
        bench, vector = prompted.bench, self._vector(prompted.bench.model)
        steered = bench.once("steered", lambda: PromptedModel(bench, vector).held_out_scores)
        own = prompted.held_out_scores
        scores: dict[str, Any] = {"divergence": ratio(own.sums - steered.sums, own.counts)}
        documents = held_out[:LISTENED]

        def of(behind: Intervention) -> list[np.ndarray]:
            return [passed_on(bench.model, behind, e) for e in documents]

        wanted = bench.once("steered activations", lambda: of(vector))
        without = bench.once("plain activations", lambda: of(unprompted(bench).intervention))
        apart, before = (
            [((x - y) ** 2).sum(-1) for x, y in zip(found, wanted, strict=True)]  # [layers, T] each
            for found in (of(prompted.intervention), without)
        )

        def share(part: Any) -> dict[str, Any]:
            return ratio(np.array([part(x) for x in apart]), np.array([part(x) for x in before]))

        scores["activations"] = share(lambda x: x.sum())
        scores["activations_by_layer"] = {
            f"layer {i + 1}": share(lambda x, i=i: x[i].sum()) for i in range(len(wanted[0]))
        }
        scores["activations_by_place"] = {
            f"first {EARLY}": share(lambda x: x[:, 1 : 1 + EARLY].sum()),
            "others": share(lambda x: x[:, 1 + EARLY :].sum()),
        }
        return TaskScores(scores, continuations(prompted, held_out))

    def _vector(self, model: LanguageModel) -> Steering:
        return load_vector(Path(self.steering)).to(model.device)


def save_vector(steering: Steering, path: Path) -> None:
    """Write a steering vector with the layers that it moves.

    Raises:
        SoftPromptsError: The file cannot be written.
    """
    import safetensors.torch

    from soft_prompts.files import write_atomically

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in steering.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors, {"layers": json.dumps(list(steering.layers))}))


def load_vector(path: Path) -> Steering:
    """What ``save_vector`` wrote.

    Raises:
        SoftPromptsError: It is damaged.
    """
    from safetensors import SafetensorError, safe_open

    from soft_prompts.interventions.steering import Steering

    try:
        with safe_open(path, framework="pt") as file:
            layers = json.loads(file.metadata()["layers"])
            return Steering([int(i) for i in layers], file.get_tensor("vectors"), file.get_tensor("scales"))
    except (*ODD_CONTENT, OSError, SafetensorError) as error:
        raise SoftPromptsError(f"{path} holds no steering vector ({type(error).__name__}: {error}).") from error


def passed_on(model: LanguageModel, intervention: Intervention, e: Example) -> np.ndarray:
    """What every layer passes on at the tokens of one document, the prompt's own places left out.

    Returns:
        float32 [layers, T, D].
    """
    import torch

    from soft_prompts.engine.batch import collate, insert
    from soft_prompts.engine.changes import changed
    from soft_prompts.interventions.steering import layers_of

    heard: list[Any] = []

    def listen(layer: Any, given: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        heard.append(hidden[0].float().cpu())

    batch = collate([e]).to(model.device)
    with torch.no_grad(), changed(model.lm, [(intervention, slice(0, 1))]):
        whole = insert(model.embed(batch.tokens), intervention(batch.condition), batch.insert_at)
        handles = [layer.register_forward_hook(listen) for layer in layers_of(model.lm)]  # behind the changes
        try:
            model.body(whole)
        finally:
            for handle in handles:
                handle.remove()
    n = intervention.n_tokens
    places = [*range(e.insert_at), *range(e.insert_at + n, len(e) + n)]
    return torch.stack(heard)[:, places].numpy()
