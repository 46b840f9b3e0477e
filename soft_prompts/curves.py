"""What is recorded while prompts train: TensorBoard curves of every run, and the time it took."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from soft_prompts.run import Run


class Curves:
    """The TensorBoard log of one run; the same names in every experiment."""

    def __init__(self, run: Run, folder: Path):
        folder = folder / run.path
        shutil.rmtree(folder, ignore_errors=True)  # points of an earlier, redone or broken-off run would mix with ours
        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("config", f"```json\n{json.dumps(run.config, indent=2)}\n```")

    def training(
        self, step: int, loss: float, gradient_norm: float, lr: float, prompt_norm: float, tokens_per_second: float
    ) -> None:
        """``prompt_norm``: root mean square of the prompt over that of the vocabulary's embeddings; ``lr`` in its units."""
        self.writer.add_scalar("loss/train", loss, step)
        self.writer.add_scalar("training/learning_rate", lr, step)
        self.writer.add_scalar("training/gradient_norm", gradient_norm, step)
        self.writer.add_scalar("training/prompt_norm_over_vocabulary_norm", prompt_norm, step)
        self.writer.add_scalar("speed/data_tokens_per_second", tokens_per_second, step)

    def held_out(self, step: int, loss: float) -> None:
        self.writer.add_scalar("loss/held_out", loss, step)

    def samples(self, step: int, samples: list[dict[str, str]]) -> None:
        text = "\n\n".join("\n".join(f"    {part}: {value}" for part, value in sample.items()) for sample in samples)
        self.writer.add_text("samples", text, step)

    def scores(self, step: int, scores: dict) -> None:
        for name, score in scores.items():
            if score.get("value") is not None:
                self.writer.add_scalar(f"scores/{name}", score["value"], step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
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
        self.writer.close()


class Clock:
    """Wall-clock seconds of training, held-out evaluation left out."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self._since = device, 0.0, time.perf_counter()

    def read(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.seconds + time.perf_counter() - self._since

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.seconds = self.read()
        yield
        self._since = time.perf_counter()
