"""Files of a model are only data: whatever lies in its folder, none of its code runs unless that is asked for."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

import soft_prompts
from soft_prompts.errors import SoftPromptsError
from soft_prompts.models.loading import load

PACKAGE = Path(soft_prompts.__file__).parent


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """A copy of a tiny model."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "model"))


@pytest.fixture
def marker(tmp_path) -> Path:
    """A file that only code from a model's folder would make."""
    return tmp_path / "marker"


def evil_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"lm_head.weight": Evil(marker)}))
    pickle.loads(path.read_bytes())  # it does what it is said to do
    marker.unlink()


def harmless_pickle(path: Path, folder: Path) -> None:
    """The model's own weights."""
    torch.save(load_file(folder / "model.safetensors"), path)


@pytest.mark.parametrize("kind", ["evil", "harmless"])
@pytest.mark.parametrize("way", ["bin", "sharded bin", "index to bin"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(folder, marker, kind: str, way: str) -> None:
    weights = {
        "bin": folder / "pytorch_model.bin",
        "sharded bin": folder / "pytorch_model-00001-of-00001.bin",
        "index to bin": folder / "weights.bin",
    }[way]
    if kind == "evil":
        evil_pickle(weights, marker)
    else:
        harmless_pickle(weights, folder)
    names = dict.fromkeys(load_file(folder / "model.safetensors"), weights.name)
    (folder / "model.safetensors").unlink()
    index = "pytorch_model.bin.index.json" if way == "sharded bin" else "model.safetensors.index.json"
    if way != "bin":
        (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    with pytest.raises(SoftPromptsError, match=f"a pickle .{weights.name}.*convert it to safetensors: python -c"):
        load(str(folder))
    assert not marker.exists()


def test_the_pickle_of_an_adapter_is_not_read(folder, marker) -> None:
    evil_pickle(folder / "adapter_model.bin", marker)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(folder)}))
    with pytest.raises(SoftPromptsError, match="adapter_model"):
        load(str(folder))
    assert not marker.exists()


def test_weights_are_read_where_only_safetensors_and_torch_load_is_back(folder) -> None:
    before = torch.load
    harmless_pickle(folder / "pytorch_model.bin", folder)
    assert load(str(folder)).name == "model"  # beside safetensors a pickle is not looked at
    assert torch.load is before


@pytest.mark.parametrize(
    "file", ["../other/model.safetensors", "/tmp/model.safetensors", "a/model.safetensors", "../a.bin"]
)
def test_an_index_of_weights_that_leads_out_of_the_folder_is_refused(folder, marker, file: str) -> None:
    evil_pickle(folder.parent / "a.bin", marker)
    names = load_file(folder / "model.safetensors")
    other = folder.parent / "other"
    other.mkdir()
    (folder / "model.safetensors").rename(other / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SoftPromptsError, match=f"names '{file}' in model.safetensors.index.json; weights must lie in"):
        load(str(folder))
    assert not marker.exists()


def test_weights_in_several_files_of_the_folder_are_read(folder) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = [dict(list(weights.items())[i::2]) for i in range(2)]
    for i, half in enumerate(halves):
        save_file(half, folder / f"part-{i}.safetensors", metadata={"format": "pt"})
    index = {name: f"part-{i}.safetensors" for i, half in enumerate(halves) for name in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    loaded = load(str(folder)).lm.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())


def test_nothing_in_the_package_reads_a_pickle() -> None:
    """No call of a function that unpickles, by any of its names, and no import of what only does that."""
    unsafe = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(path, name.name) for name in node.names if name.name.partition(".")[0] in unsafe]
            if isinstance(node, ast.ImportFrom):
                names = [name.name for name in node.names]
                found += [(path, node.module)] * ((node.module or "").partition(".")[0] in unsafe)
                found += [(path, "load")] * (node.module == "torch" and "load" in names)
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.jit.load"):
                found.append((path, ast.unparse(node)))
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found.append((path, node.arg))
    assert found == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 100_000, "", "[]", "null", '"text"', "\x00", "{", '{"model_type": 5}', "1" * 5000],
    ids=["deep list", "deep dict", "empty", "list", "null", "text", "zero", "cut", "number", "long number"],
)
def test_odd_json_in_a_models_folder_is_one_sentence_or_does_no_harm(folder, name: str, content: str) -> None:
    (folder / name).write_text(content)
    try:
        load(str(folder))
    except SoftPromptsError as error:
        assert len(str(error)) < 1000
        assert "model" in str(error)
    else:
        assert name != "config.json"


def code_that_marks(path: Path, marker: Path) -> None:
    path.write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        f"from transformers import LlamaConfig as OwnConfig, LlamaForCausalLM as OwnModel\n"
        f"from transformers import PreTrainedTokenizerFast as OwnTokenizer\n"
    )


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["llama", "unknown"])
def test_code_in_a_models_folder_runs_only_if_asked_for(folder, marker, part: str, kind: str) -> None:
    code_that_marks(folder / "own.py", marker)
    values = json.loads((folder / part).read_text())
    of_config = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    values["auto_map"] = of_config if part == "config.json" else {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    if kind == "unknown":
        values |= {"model_type": "own"} if part == "config.json" else {"tokenizer_class": "OwnTokenizer"}
    (folder / part).write_text(json.dumps(values))
    try:
        load(str(folder))
    except SoftPromptsError as error:
        assert len(str(error)) < 1000
    assert not marker.exists()


def test_code_in_a_models_folder_runs_if_asked_for(folder, marker, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    # The class that the code gives out is noted as its own. Afterwards it is as before, or it could not be saved.
    monkeypatch.setattr(LlamaConfig, "_auto_class", None)
    code_that_marks(folder / "own.py", marker)
    values = json.loads((folder / "config.json").read_text())
    values |= {"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(SoftPromptsError):
        load(str(folder))
    assert not marker.exists()
    load(str(folder), trust_remote_code=True)
    assert marker.exists()
