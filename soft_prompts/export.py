"""Take a trained prompt elsewhere: `python -m soft_prompts.export SNAPSHOT FOLDER`.

    --to peft    an adapter for PEFT's prompt tuning: [embed(separator); prompt], which PEFT puts before a text
    --to embeds  the embeddings of a whole input, prompt and --text, for servers that take them instead of tokens
    --to text    the tokens of the vocabulary that are nearest to each row: to read, not to use

A prompt with conditions is exported under one of them: --condition 1500 1500. With --push NAME the adapter and its card
are uploaded to the hub, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from soft_prompts.console import ends_in_a_sentence, interrupts_end_in_a_sentence, say
from soft_prompts.errors import SoftPromptsError
from soft_prompts.files import write_atomically

NEAREST = 5
"""Tokens shown for each row."""


@dataclass(frozen=True)
class Settings:
    snapshot: Annotated[Path, tyro.conf.Positional]
    """A file below snapshots/."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder that is written."""
    to: Literal["peft", "embeds", "text"] = "peft"
    """What is written."""
    model: str = ""
    """Name, folder or GGUF file of the model that the prompt was trained on. Empty: the name in the snapshot."""
    condition: tuple[float, ...] = ()
    """What a conditional prompt depends on, such as both players' ratings."""
    text: str = ""
    """For --to embeds: what stands behind the prompt."""
    push: str = ""
    """Also upload the adapter to the hub, under this name: NAME or ORGANISATION/NAME. Who you are is known from
    `hf auth login` or the environment variable HF_TOKEN."""
    public: bool = False
    """With --push: let everybody read it. A repository that is made is private otherwise."""


def main(settings: Settings) -> None:
    """Export a prompt.

    Raises:
        SoftPromptsError: It cannot be read or has no such form, the folder cannot be written, or the hub refuses it.
    """
    if settings.push:
        _check_push(settings)
    from soft_prompts.results.snapshot import facts_of
    from soft_prompts.serving import load

    prompted = load(settings.snapshot, settings.model, "float32", "cpu")
    rows = prompted.rows(settings.condition)
    if not len(rows):
        raise SoftPromptsError(f"{settings.snapshot} holds a prompt of no tokens, or none: there is nothing to export.")
    if prompted.use.behind == "within" and settings.to != "text":
        raise SoftPromptsError(
            f"{settings.snapshot} holds a prompt that stands within a text, where only its task knows; it has no such "
            f"form. --to text writes the nearest tokens."
        )
    write = {"peft": _peft, "embeds": _embeds, "text": _text}[settings.to]
    files = write(prompted, rows, settings)
    if settings.to == "peft":
        files["README.md"] = _card(facts_of(settings.snapshot), settings, "this folder").encode()
    for name, content in files.items():
        write_atomically(settings.out / name, content)
    say(f"{settings.to}: {', '.join(str(settings.out / name) for name in files)}")
    if settings.push:
        _push(files, settings)


def _check_push(settings: Settings) -> None:
    """Refuse what cannot be uploaded, before anything is loaded.

    Raises:
        SoftPromptsError: What is wrong, with the value.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from soft_prompts.models.names import SHIPPED, local_path

    if settings.to != "peft":
        raise SoftPromptsError(f"--push uploads an adapter for PEFT: leave out --to {settings.to}.")
    try:
        validate_repo_id(settings.push)
    except HFValidationError as error:
        raise SoftPromptsError(
            f"--push {settings.push!r} is no name on a hub ({_in_short(error)}); give NAME or ORGANISATION/NAME."
        ) from error
    if settings.model and settings.model not in SHIPPED and local_path(settings.model):
        raise SoftPromptsError(
            f"--push would name {settings.model!r}, which only this machine has, as the adapter's base model: give "
            f"--model the name that it has on the hub."
        )
    if not get_token():
        raise SoftPromptsError(
            "--push needs to know who you are: give `hf auth login`, or set HF_TOKEN to a token that may write."
        )


def _push(files: dict[str, bytes], settings: Settings) -> None:
    """Upload an adapter in one commit. Its card names it as the hub does.

    Raises:
        SoftPromptsError: The hub does not take it, or everybody could read it against the wish.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    from soft_prompts.results.snapshot import facts_of

    api = HfApi()
    try:
        made = api.create_repo(settings.push, private=not settings.public, exist_ok=True)
        private = api.model_info(made.repo_id).private  # one that was there before stays as it is
        if not private and not settings.public:
            raise SoftPromptsError(
                f"{made.repo_id} is there already and everybody can read it: nothing was uploaded. Add --public, or "
                f"give --push another name."
            )
        card = {"README.md": _card(facts_of(settings.snapshot), settings, made.repo_id).encode()}
        operations = [CommitOperationAdd(name, content) for name, content in {**files, **card}.items()]
        api.create_commit(made.repo_id, operations, commit_message=f"Export of {settings.snapshot.name}")
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # the last is what large files are sent with
        raise SoftPromptsError(
            f"{settings.push} could not be uploaded ({_in_short(error)}); the adapter is kept in {settings.out}."
        ) from error
    say(f"uploaded ({'private' if private else 'public'}): {made}")


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _peft(prompted: Any, rows: Any, settings: Settings) -> dict[str, bytes]:
    """Adapter of PEFT 0.21. PEFT puts its embeddings first, and the prompt was trained behind the separator: so the
    separator's embedding is its first row."""
    import safetensors.torch
    import torch

    from soft_prompts.models.names import LOCAL

    model = prompted.model
    if prompted.use.behind == "text":
        raise SoftPromptsError(
            f"{settings.snapshot} holds a prompt that stands behind a text. PEFT's stand before it, so there is no "
            f"such adapter; --to embeds writes a whole input."
        )
    with torch.no_grad():
        first = model.embed(torch.tensor([prompted.use.separator])).float()
    embeddings = rows.float() if prompted.use.behind == "nothing" else torch.cat([first, rows.float()])
    config = model.lm.config.get_text_config()
    adapter = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings.model or model.name,
        "revision": None if model.revision in ("main", LOCAL) else model.revision,
        "num_virtual_tokens": len(embeddings),
        "token_dim": embeddings.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        "prompt_tuning_init": "RANDOM",
        "inference_mode": True,
    }
    tensors = {"prompt_embeddings": embeddings.contiguous()}
    return {
        "adapter_config.json": (json.dumps(adapter, indent=2) + "\n").encode(),
        "adapter_model.safetensors": safetensors.torch.save(tensors, {"format": "pt"}),
    }


def _embeds(prompted: Any, rows: Any, settings: Settings) -> dict[str, bytes]:
    """Separator, prompt and text (or separator, text and prompt, if it was trained so) as one matrix [L, D]."""
    import safetensors.torch
    import torch

    model = prompted.model
    ids = model.tokenizer(settings.text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        first, text = (model.embed(torch.tensor(x, dtype=torch.long)).float() for x in ([prompted.use.separator], ids))
    orders = {"nothing": [rows, first, text], "separator": [first, rows, text], "text": [first, text, rows]}
    parts = orders[prompted.use.behind]
    return {"embeds.safetensors": safetensors.torch.save({"prompt_embeds": torch.cat(parts).contiguous()})}


def _text(prompted: Any, rows: Any, settings: Settings) -> dict[str, bytes]:
    """The nearest tokens of each row by cosine, with it."""
    import torch

    vocabulary = torch.nn.functional.normalize(prompted.model.vocabulary.float(), dim=1)
    cosines, ids = (torch.nn.functional.normalize(rows, dim=1) @ vocabulary.T).topk(NEAREST, 1)
    decode = prompted.model.tokenizer.decode
    lines = [
        ", ".join(f"{decode([i])!r} {c:.2f}" for i, c in zip(of_row, by_row, strict=True))
        for of_row, by_row in zip(ids.tolist(), cosines.tolist(), strict=True)
    ]
    return {"nearest.txt": ("\n".join(lines) + "\n").encode()}


def _card(facts: dict[str, Any], settings: Settings, name: str) -> str:
    """A model card: what was trained, on what, how good it is, and how it is loaded, by the name that it has there."""
    run, identity = facts["run"], facts["model"]
    base = settings.model or identity["name"]
    task = run.get("task", {})
    condition = f", in the condition {', '.join(f'{x:g}' for x in settings.condition)}" if settings.condition else ""
    return f"""---
base_model: {base}
library_name: peft
tags: [prompt-tuning]
---

# {run.get("experiment")}: a soft prompt of {run.get("n_tokens")} tokens for {identity["name"]}

Trained on {task.get("name")} with seed {run.get("seed")}, {run.get("train", {}).get("steps")} steps{condition}.
{_measured(run, settings)}
The first row of the adapter is the embedding of the token that opens every text (id {facts["use"]["separator"]}), so
texts are tokenised without special tokens:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")
tokens = AutoTokenizer.from_pretrained("{base}")("a text", add_special_tokens=False, return_tensors="pt")
print(model(**tokens).logits.shape)  # behind the adapter's rows and the text
```
"""


def _measured(run: dict[str, Any], settings: Settings) -> str:
    """The held-out loss, and what the curve says that it belongs to, if the results lie where the snapshot's own do."""
    from soft_prompts.report.collection import Filter, collect
    from soft_prompts.results.record import Result

    parts = settings.snapshot.resolve().parts
    if "snapshots" not in parts:
        return ""
    at = len(parts) - 1 - parts[::-1].index("snapshots")
    result = Path(*parts[:at], "results", *parts[at + 1 :]).with_suffix(".json")
    if not result.exists():
        return ""
    held_out = Result.load(result).held_out
    low, high = held_out.interval
    lines = [
        f"Held-out loss: {held_out.loss:.3f} [{low:.3f}, {high:.3f}] nats per scored token (95 %, over documents)."
    ]
    # A contribution and some distances need the control beside it, which lies in another folder of the model's.
    for shown in collect([result.parent.parent], Filter()).shown:
        if shown.summary and shown.curve.config == {k: v for k, v in run.items() if k not in ("n_tokens", "seed")}:
            lines.append(f"Of prompts of all lengths: {shown.summary}.")
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    interrupts_end_in_a_sentence()
    with ends_in_a_sentence():
        main(tyro.cli(Settings, prog="python -m soft_prompts.export", description=__doc__))
