"""Any task with its prompt before the token that opens every text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from soft_prompts.data.documents import Encoding, Split
from soft_prompts.data.example import Example
from soft_prompts.errors import SoftPromptsError
from soft_prompts.tasks.base import Task

if TYPE_CHECKING:
    from torch import Tensor

    from soft_prompts.models.language_model import Head


@dataclass(frozen=True)
class BeforeEverything(Task):
    """The same documents and labels, with the prompt at place 0: where PEFT puts it."""

    task: Task = field(default_factory=Task)
    """The task whose prompt is moved."""

    def examples(self, split: Split, encoding: Encoding, seed: int) -> Iterator[Example]:
        for e in self.task.examples(split, encoding, seed):
            if e.insert_at != 1:
                raise SoftPromptsError(
                    f"--train.before moves a prompt that stands at the front, but that of {type(self.task).__name__} "
                    f"stands later in the text; leave it out."
                )
            yield replace(e, insert_at=0)

    def loss(self, head: Head, hidden: Tensor, labels: Tensor) -> Tensor:
        return self.task.loss(head, hidden, labels)
