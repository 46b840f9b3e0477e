"""--push of the export: what reaches a hub, and why nothing does. The hub is a small server on this machine that speaks
its protocol, since no test needs the network."""

import base64
import http.server
import json
import socket
import threading
from pathlib import Path

import pytest
import torch

from soft_prompts.errors import SoftPromptsError
from soft_prompts.export import Settings, main
from soft_prompts.interventions.soft_prompt import SoftPrompt
from soft_prompts.results.snapshot import Use, save_prompt

TOKEN = "hf_of_the_test"


class Hub(http.server.ThreadingHTTPServer):
    """Takes one user's models: their visibility and their files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.visibility: dict[str, str] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.error: tuple[int, str] | None = None
        """What it answers to a commit instead."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        if self.headers["Authorization"] != f"Bearer {TOKEN}" or name not in self.server.visibility:
            self.answer({"error": "Invalid username or password."}, 401)  # the hub tells no one what there is not
        else:
            private = self.server.visibility[name] == "private"
            self.answer({"id": name, "private": private, "sha": "0" * 40, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or 'me'}/{asked['name']}"
            there = name in self.server.visibility
            self.server.visibility.setdefault(name, asked["visibility"])
            self.answer({"url": f"{self.server.url}/{name}"}, 409 if there else 200)
        elif self.path == "/api/validate-yaml":
            self.answer({"warnings": [], "errors": []})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif self.server.error:
            self.answer({"error": self.server.error[1]}, self.server.error[0])
        else:
            name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            lines = [json.loads(line) for line in body.splitlines()]
            new = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
            self.server.files.setdefault(name, {}).update(new)
            self.server.commits.append(name)
            self.answer({"commitOid": "0" * 40, "commitUrl": f"{self.server.url}/{name}/commit/{'0' * 40}"})

    def answer(self, content: dict, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep requests off the screen."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that this process takes for the one, and somebody who is logged in there."""
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for name in ("HF_OIDC_RESOURCE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it may be set where the tests run
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # which HF_ENDPOINT sets at the start
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def snapshot(pocket, tmp_path) -> Path:
    path = tmp_path / "p.safetensors"
    run = {"experiment": "e", "n_tokens": 3, "seed": 0, "task": {"name": "T"}, "train": {"steps": 5}}
    prompt = SoftPrompt(torch.randn(3, pocket.vocabulary.shape[1]), 0.1)
    save_prompt(prompt, pocket, run, path, Use(pocket.separator, "separator"))
    return path


def test_the_adapter_reaches_the_hub_as_it_lies_in_the_folder_and_is_private(hub, snapshot, tmp_path, capfd) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("nobody's business")
    main(Settings(snapshot, tmp_path / "out", push="prompts"))
    assert hub.visibility == {"me/prompts": "private"} and hub.commits == ["me/prompts"]
    sent = hub.files["me/prompts"]
    assert sorted(sent) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert sent[name] == (tmp_path / "out" / name).read_bytes()
    card, here = sent["README.md"].decode(), (tmp_path / "out" / "README.md").read_text()
    assert card == here.replace('"this folder"', '"me/prompts"') != here
    assert card.startswith("---\nbase_model: pocket\n")
    said = " ".join(capfd.readouterr().err.split())
    assert f"uploaded (private): {hub.url}/me/prompts" in said and TOKEN not in said


def test_it_is_public_only_if_that_is_asked_for(hub, snapshot, tmp_path, capfd) -> None:
    main(Settings(snapshot, tmp_path / "out", push="org/prompts", public=True))
    assert hub.visibility == {"org/prompts": "public"} and hub.commits == ["org/prompts"]
    assert "uploaded (public)" in capfd.readouterr().err
    with pytest.raises(SoftPromptsError, match="org/prompts is there already and everybody can read it: nothing w"):
        main(Settings(snapshot, tmp_path / "out", push="org/prompts"))
    assert hub.commits == ["org/prompts"]
    hub.visibility["org/prompts"] = "private"  # one that is there and private takes another commit, and stays private
    main(Settings(snapshot, tmp_path / "out", push="org/prompts", public=True))
    assert len(hub.commits) == 2 and "uploaded (private)" in capfd.readouterr().err


def test_what_cannot_be_uploaded_is_said_before_anything_is_loaded(hub, folders, tmp_path, monkeypatch) -> None:
    nowhere = tmp_path / "no snapshot"
    with pytest.raises(SoftPromptsError, match=r"--push 'a/b/c' is no name on a hub \(Repo id must be in the form"):
        main(Settings(nowhere, tmp_path / "out", push="a/b/c"))
    with pytest.raises(SoftPromptsError, match="--push uploads an adapter for PEFT: leave out --to text"):
        main(Settings(nowhere, tmp_path / "out", "text", push="a"))
    with pytest.raises(SoftPromptsError, match="which only this machine has, as the adapter's base model"):
        main(Settings(nowhere, tmp_path / "out", model=str(folders["neox"]), push="a"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SoftPromptsError, match="--push needs to know who you are: give `hf auth login`, or set HF_TOK"):
        main(Settings(nowhere, tmp_path / "out", push="a"))
    assert not (tmp_path / "out").exists() and not hub.visibility


def test_a_hub_that_refuses_or_does_not_answer_leaves_the_folder(hub, snapshot, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    hub.error = (403, "You have no write access.")
    with pytest.raises(SoftPromptsError, match=r"prompts could not be uploaded \(.*You have no write access\); the"):
        main(Settings(snapshot, out, push="prompts"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SoftPromptsError, match=r"could not be uploaded \(.*Invalid username or password\)") as refused:
        main(Settings(snapshot, out, push="prompts"))
    assert "hf_wrong" not in str(refused.value)
    with socket.socket() as taken:  # nobody listens at this port
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(SoftPromptsError, match=r"could not be uploaded \(.*refused.*\); the adapter is kept"):
            main(Settings(snapshot, out, push="prompts"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SoftPromptsError, match="could not be uploaded"):
        main(Settings(snapshot, out, push="prompts"))
    assert (out / "adapter_model.safetensors").exists() and hub.commits == []
