"""Soft prompts: where they start, and how they depend on conditions. Inserting them is engine/batch.py's work."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from soft_prompts.interventions.base import Intervention
from soft_prompts.interventions.rounding import RoundedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INITIALISERS = ("vocabulary", "normal", "unit_normal", "text", "zeros")


def initial_rows(init: str, n_tokens: int, vocabulary: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
    """The embeddings that training starts from.

    Args:
        init: One of
            ``vocabulary``: rows of the embedding matrix, sampled with replacement (Lester et al. 2021, arXiv
                2104.08691);
            ``normal``: normal with the vocabulary's own mean and standard deviation in every dimension;
            ``unit_normal``: normal with mean 0 and standard deviation 1, in the model's own units, as torch and so PEFT
                make new embeddings;
            ``text``: the embeddings of a given text's tokens, repeated or cut to P tokens;
            ``zeros``: as published by Nordby 2025 (arXiv 2505.14943).
        n_tokens: P.
        vocabulary: [V, D], only the entries that the tokenizer can produce.
        text: Token ids [n], for ``text``.
        generator: Source of chance, on the CPU.

    Returns:
        float32 [P, D] on the CPU.

    Raises:
        ValueError: The initialiser is unknown, or ``text`` is wanted of a text without tokens.
    """
    vocabulary = vocabulary.detach().float().cpu()
    shape = n_tokens, vocabulary.shape[1]
    if init == "vocabulary":
        return vocabulary[torch.randint(len(vocabulary), (n_tokens,), generator=generator)]
    if init == "normal":
        return torch.randn(shape, generator=generator) * vocabulary.std(0) + vocabulary.mean(0)
    if init == "unit_normal":
        return torch.randn(shape, generator=generator)
    if init == "text":
        if not len(text):
            raise ValueError("the initialiser 'text' needs a text of at least one token")
        return vocabulary[text.cpu()[torch.arange(n_tokens) % len(text)]]
    if init == "zeros":
        return torch.zeros(shape)
    raise ValueError(f"unknown initialiser {init!r}: choose one of {', '.join(INITIALISERS)}")


class _Prompt(Intervention):
    """What both kinds of soft prompts have: rows [P, D] in units of ``scale``."""

    rows: nn.Parameter
    scale: Tensor
    _shown: int | None = None

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0] if self._shown is None else self._shown

    @property
    def n_numbers(self) -> int:
        return self.rows.numel()

    def show(self, n_tokens: int) -> None:
        self._shown = n_tokens

    def rounded(self, n_bits: int) -> RoundedPrompt:
        return RoundedPrompt(self, n_bits)

    @classmethod
    def check(cls, config: dict[str, Any], tensors: dict[str, Tensor], lm: PreTrainedModel) -> None:
        rows = tensors["rows"]
        fits = config["shape"] == list(rows.shape) and rows.shape[1:] == lm.get_input_embeddings().weight.shape[1:]
        if not fits or (len(rows) and config != cls.config_of(tensors)):
            raise ValueError("its tensors have other shapes than it says")

    @classmethod
    def config_of(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """The configuration that follows from the shapes of a state's tensors.

        Raises:
            ValueError: They do not fit together.
        """
        raise NotImplementedError


class SoftPrompt(_Prompt):
    """P trained embeddings, the same for every example.

    The parameters are kept in units of ``scale``, the root mean square of the vocabulary's embeddings. So a learning
    rate means the same share of an embedding's size in every model: embedding sizes differ between models by more than
    the range of learning rates that work for one.
    """

    def __init__(self, initial: Tensor, scale: float = 1.0):
        """
        Args:
            initial: [P, D], where training starts, in the model's own units.
            scale: The unit of the parameters.
        """
        super().__init__()
        self.rows = nn.Parameter(initial.detach().float() / scale)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, condition: Tensor) -> Tensor:
        return (self.rows[: self.n_tokens] * self.scale).expand(len(condition), -1, -1)

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.rows.shape)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SoftPrompt:
        return cls(torch.zeros(config["shape"]))

    @classmethod
    def config_of(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {"shape": list(tensors["rows"].shape)}


class PromptGenerator(_Prompt):
    """A prompt that depends on the example's conditions: rows + MLP(condition), in units of ``scale`` as in SoftPrompt.

    The MLP's hidden layers are shared by all P tokens, and its last layer writes all P x D numbers in one product, so
    1,024 tokens take no more kernels than one. The last layer starts small: the first prompt is ``initial`` plus a
    little that depends on the condition.
    """

    def __init__(
        self,
        initial: Tensor,
        scale: float,
        sizes: tuple[int, ...],
        generator: torch.Generator,
        condition_scale: float = 0.1,
    ):
        """
        Args:
            initial: [P, D], where training starts, in the model's own units.
            scale: The unit of the parameters.
            sizes: C and the width of each hidden layer; a GELU stands behind each of them.
            generator: Source of chance for the weights.
            condition_scale: How much of a prompt depends on the condition at the start, in units of an embedding.

        Raises:
            ValueError: There is no hidden layer, or one of no units.
        """
        super().__init__()
        if len(sizes) < 2 or min(sizes[1:]) < 1:
            raise ValueError(f"a prompt generator needs hidden layers of at least one unit, got sizes {sizes}")
        self.sizes = tuple(sizes)
        self.rows = nn.Parameter(initial.detach().float() / scale)
        self.register_buffer("scale", torch.tensor(float(scale)))
        # A prompt of no tokens has nothing that could depend on a condition, so it has no layers and no parameters.
        widths = self.sizes if len(initial) else self.sizes[:1]
        self.hidden = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        # He et al. 2015 (arXiv 1502.01852): activations keep their size from layer to layer.
        with torch.no_grad():
            for layer in self.hidden:
                weight = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(weight * (2 / layer.in_features) ** 0.5)
                layer.bias.copy_(torch.rand(layer.bias.shape, generator=generator) * 2 - 1)
        # forward divides by the width: one optimiser step then moves the prompt as far through the MLP as through the
        # rows.
        last = torch.randn((widths[-1], *initial.shape), generator=generator)
        self.out = nn.Parameter(last * condition_scale * widths[-1] ** 0.5)

    @torch.no_grad()
    def begin_with(self, other: PromptGenerator) -> None:
        """Take over a trained generator: its hidden layers, and its tokens in the place of the first ones.

        Raises:
            ValueError: It has more tokens, tokens of another width, or other layers.
        """
        n_tokens, width = other.rows.shape
        if n_tokens > len(self.rows) or width != self.rows.shape[1] or other.sizes != self.sizes:
            raise ValueError(
                f"it has {n_tokens} tokens of {width} numbers and layers of {other.sizes}, where at most "
                f"{len(self.rows)} of {self.rows.shape[1]} and {self.sizes} are wanted"
            )
        unit = other.scale / self.scale
        self.rows[:n_tokens] = other.rows * unit
        self.out[:, :n_tokens] = other.out * unit
        self.hidden.load_state_dict(other.hidden.state_dict())

    def forward(self, condition: Tensor) -> Tensor:
        hidden = condition.to(self.rows.dtype)  # [B, C]
        for layer in self.hidden:
            hidden = nn.functional.gelu(layer(hidden))  # [B, width]
        shown = slice(self.n_tokens)
        dependent = torch.einsum("bh,hpd->bpd", hidden / hidden.shape[1], self.out[:, shown])  # [B, P, D]
        return (self.rows[shown] + dependent) * self.scale

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.rows.shape), "sizes": list(self.sizes)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PromptGenerator:
        return cls(torch.zeros(config["shape"]), 1.0, tuple(config["sizes"]), torch.Generator())

    @classmethod
    def config_of(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        shape = list(tensors["rows"].shape)
        names = [name for name in tensors if name.startswith("hidden.") and name.endswith(".weight")]
        layers = [tensors[name] for name in sorted(names, key=lambda name: int(name.split(".")[1]))]
        sizes = [layers[0].shape[1], *(len(layer) for layer in layers)]
        if list(tensors["out"].shape) != [sizes[-1], *shape]:
            raise ValueError("its layers do not fit together")
        return {"shape": shape, "sizes": sizes}


class TokenwiseGenerator(_Prompt):
    """The published conditional prompt: every token comes from a small network of its own, which starts as torch's
    linear layers do (Nordby, arXiv 2505.14943, and the code published with it).

    Token p is out_p(mish(hidden_p(condition))). All tokens' networks are computed in two products.
    """

    def __init__(
        self, shape: tuple[int, int], n_conditions: int, width: int, generator: torch.Generator, scale: float = 1.0
    ):
        """
        Args:
            shape: P and D.
            n_conditions: C.
            width: Units of each token's hidden layer.
            generator: Source of chance for the weights.
            scale: The unit of the parameters.
        """
        super().__init__()
        self.sizes = (n_conditions, width)
        self.register_buffer("scale", torch.tensor(float(scale)))

        def uniform(n_in: int, *shape: int) -> nn.Parameter:  # as in torch.nn.Linear
            return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) / max(1, n_in) ** 0.5)

        n_tokens, size = shape
        self.hidden = uniform(n_conditions, n_conditions, n_tokens, width)
        self.hidden_bias = uniform(n_conditions, n_tokens, width)
        self.out = uniform(width, n_tokens, width, size)
        self.rows = uniform(width, n_tokens, size)  # what does not depend on the condition

    def forward(self, condition: Tensor) -> Tensor:
        shown = slice(self.n_tokens)
        hidden = torch.einsum("bc,cpw->bpw", condition.to(self.rows.dtype), self.hidden[:, shown])
        hidden = nn.functional.mish(hidden + self.hidden_bias[shown])
        return (torch.einsum("bpw,pwd->bpd", hidden, self.out[shown]) + self.rows[shown]) * self.scale

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.rows.shape), "sizes": list(self.sizes)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TokenwiseGenerator:
        return cls(tuple(config["shape"]), *config["sizes"], torch.Generator())

    @classmethod
    def config_of(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        shape = list(tensors["rows"].shape)
        n_conditions, _, width = tensors["hidden"].shape
        wanted = {"hidden": [n_conditions, shape[0], width], "hidden_bias": [shape[0], width]}
        wanted["out"] = [shape[0], width, shape[1]]
        if any(list(tensors[name].shape) != of_name for name, of_name in wanted.items()):
            raise ValueError("its layers do not fit together")
        return {"shape": shape, "sizes": [n_conditions, width]}
