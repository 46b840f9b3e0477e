"""What an address keeps secret reaches nothing that a sweep leaves or says."""

import sys
from pathlib import Path

import pytest

import tests.autoregressive_test
import tests.chess_test
from soft_prompts.cli import main
from soft_prompts.data.sources import fingerprint
from soft_prompts.results.record import Result
from tests.unit.made_up import write_games
from tests.unit.serving import serving, whole

QUICK = ["--train.steps", "1", "--train.batch-size", "2", "--train.max-tokens", "24", "--train.eval-documents", "4"]
QUICK += ["--dtype", "float32", "--n-tokens", "0", "1", "--seeds", "0", "--controls"]
SECRETS = ("open-sesame", "S1GNATURE")


@pytest.mark.parametrize(("script", "option"), [(tests.chess_test, "games"), (tests.autoregressive_test, "text")])
def test_a_sweep_leaves_and_says_an_address_without_its_secrets(
    tmp_path: Path, folders, monkeypatch, capsys, quick, script, option: str
) -> None:
    games = write_games(tmp_path / "games", 100).read_bytes()
    content, name = (games, "a.pgn") if option == "games" else (games.replace(b"\n\n[", b"<|endoftext|>["), "a.txt")
    out = tmp_path / "out"
    with serving(whole(content), name=name) as server:
        address = server.url.replace("//", f"//me:{SECRETS[0]}@") + f"?X-Amz-Signature={SECRETS[1]}"
        model = ["--models", str(folders["neox"]), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["script", *model, f"--{option}", address, *QUICK])
        main(script.DEFAULT, "")
    said = capsys.readouterr()
    files = [path for path in out.rglob("*") if path.is_file()]
    results = [Result.load(path) for path in files if path.suffix == ".json"]
    assert len(results) == 2 and {path.suffix for path in files} >= {".json", ".safetensors"}
    for result in results:
        recorded = result.config["task"][option]
        assert recorded in (server.url, [server.url])
        assert set(result.config["task"]["data"].values()) == {fingerprint(address)}
    for secret in SECRETS:
        assert secret not in said.out + said.err
        assert not [path for path in files if secret in str(path) or secret.encode() in path.read_bytes()]
