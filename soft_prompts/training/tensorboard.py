"""The TensorBoard log of one run; the same names in every experiment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from soft_prompts.training.run import Run


class _Nowhere:
    """A writer that writes nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values, **more: None


class TensorBoardLog:
    """Writes what is known of a run while it trains and when it is done."""

    def __init__(self, run: Run, folder: Path | None, start: int = 0, done: int | None = None):
        """Start a log at the run's place below ``folder``; further starts of its prompt have folders within it.

        Args:
            run: What it is the log of.
            folder: That of all logs. None: another process writes it, and this one nothing.
            start: Which of the run's starts.
            done: Go on with the log that is there: what it holds of later steps than this does not count.
        """
        if folder is None:
            self.writer = _Nowhere()
            return
        folder = folder / run.path / (f"start-{start}" if start else "")
        if done is not None:
            self.writer = SummaryWriter(str(folder), purge_step=done + 1)
            return
        shutil.rmtree(folder, ignore_errors=True)  # points of an earlier or broken-off run would mix with ours
        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("config", f"```json\n{json.dumps(run.config, indent=2)}\n```")

    def training(
        self, step: int, loss: float, gradient_norm: float, lr: float, prompt_norm: float, tokens_per_second: float
    ) -> None:
        """A point of the training curves.

        Args:
            step: Optimiser step.
            loss: Nats per token on this step's documents.
            gradient_norm: Before clipping.
            lr: Learning rate, in units of the vocabulary's root mean square.
            prompt_norm: Root mean square of the prompt, in the same units.
            tokens_per_second: Data tokens trained on, prompts not counted.
        """
        self.writer.add_scalar("loss/train", loss, step)
        self.writer.add_scalar("training/learning_rate", lr, step)
        self.writer.add_scalar("training/gradient_norm", gradient_norm, step)
        self.writer.add_scalar("training/prompt_norm_over_vocabulary_norm", prompt_norm, step)
        self.writer.add_scalar("speed/data_tokens_per_second", tokens_per_second, step)

    def validation(self, step: int, loss: float) -> None:
        """Nats per scored token of the validation documents, while the prompt is trained."""
        self.writer.add_scalar("loss/validation", loss, step)

    def held_out(self, step: int, loss: float) -> None:
        """Held-out nats per scored token, when it is trained."""
        self.writer.add_scalar("loss/held_out", loss, step)

    def samples(self, step: int, samples: list[dict[str, str]]) -> None:
        """Readable samples, a part a line."""
        parts = [{part: text for part, text in sample.items() if part != "kind"} for sample in samples]
        text = "\n\n".join("\n".join(f"    {part}: {value}" for part, value in sample.items()) for sample in parts)
        self.writer.add_text("samples", text, step)

    def scores(self, step: int, scores: dict) -> None:
        """The scores that are single numbers."""
        for name, score in scores.items():
            if score.get("value") is not None:
                self.writer.add_scalar(f"scores/{name}", score["value"], step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Name -> picture, uint8 [height, width, 3]."""
        for name, picture in pictures.items():
            self.writer.add_image(f"pictures/{name}", picture, step, dataformats="HWC")

    def final(self, run: Run, loss: float, scores: dict) -> None:
        """The run's options with its final numbers, to compare runs in TensorBoard's HParams tab."""
        options = {"model": run.model_name, "n_tokens": run.n_tokens, "seed": run.seed, **run.config["train"]}
        options |= {name: value for name, value in run.config["task"].items() if name != "data"}
        plain = {k: v if isinstance(v, (bool, str, float, int)) else str(v) for k, v in options.items()}
        metrics = {"final/held_out_loss": loss}
        metrics |= {f"final/{name}": s["value"] for name, s in scores.items() if s.get("value") is not None}
        # SummaryWriter.add_hparams would open a second log for it.
        for summary in hparams(plain, metrics):
            self.writer.file_writer.add_summary(summary)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, run.train.steps)

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()
