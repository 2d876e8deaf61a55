"""`orch models list`, `fetch` and `check`, on files that a test puts there."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from conftest import Orch
from orchestrator.cli import main
from worker.checkpoint import file_digest
from worker.models import MODELS
from worker.models.weights import new_model

BIT = MODELS["bit_r50_in21k"]
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No weights but those of the test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORCH_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def bit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A BiT ResNet-50 as the hub holds it."""
    path = tmp_path_factory.mktemp("bit") / "model.safetensors"
    torch.manual_seed(0)
    state = new_model(BIT, 5).state_dict()
    save_file({name.removeprefix("network."): value for name, value in state.items()}, path)
    yield path
    path.unlink()


@pytest.fixture
def weights(home: Path, bit: Path) -> Path:
    """A `--weights` folder with that one model."""
    (home / "weights").mkdir()
    (home / "weights" / "bit_r50_in21k.safetensors").symlink_to(bit)
    return home / "weights"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def rows(*words: object, exit_code: int = 0) -> dict[str, Any]:
    done = invoke(*words, "--format", "json")
    assert done.exit_code == exit_code, done.output
    return {row["id"]: row for row in json.loads(done.stdout)}


# list


def test_list_says_whose_weights_are_here(weights: Path) -> None:
    found = rows("--weights", weights, "models", "list")
    assert found.keys() >= {m.id for m in MODELS.values() if m.published}
    row = found["bit_r50_in21k"]
    assert (row["parameters"], row["embedding_parameters"]) == (23_520_842, 224_320)
    assert (row["hub"], row["file"]) == ("timm/resnetv2_50x1_bit.goog_in21k", "model.safetensors")
    assert (row["image_size"], row["here"]) == (224, True)
    assert row["path"] == str(weights / "bit_r50_in21k.safetensors")
    assert found["clip_vit_b16"]["here"] is False
    assert found["clip_vit_b16"]["file"] == "open_clip_model.safetensors"
    tiny = found["tiny_vit"]
    assert (tiny["here"], tiny["hub"], tiny["image_size"]) == (None, None, 32)
    shown = invoke("--weights", weights, "models", "list").stdout
    here = {line.split()[0]: line.split()[-1] for line in shown.splitlines()}
    assert (here["bit_r50_in21k"], here["clip_vit_b16"]) == ("yes", "no")


# fetch


Asked = list[tuple[str, str]]


@pytest.fixture
def hub(home: Path, bit: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A hub that has BiT ResNet-50 alone, and tells what it was asked for."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    asked: Asked = []

    class Absent(RemoteEntryNotFoundError):
        def __init__(self) -> None:
            Exception.__init__(self, "404")

    def download(repo: str, file: str, local_dir: Path | None = None) -> str:
        asked.append((repo, file))
        assert BIT.published is not None
        if repo != BIT.published.hub or file != "model.safetensors":
            raise Absent
        root = home / "hub" / f"models--{repo.replace('/', '--')}"
        path = local_dir / file if local_dir else root / "snapshots" / REVISION / file
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bit, path)
        if local_dir is None:
            (root / "refs").mkdir()
            (root / "refs" / "main").write_text(REVISION)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def test_fetch_fills_the_librarys_cache_once(hub: Asked, home: Path) -> None:
    done = invoke("models", "fetch", "bit_r50_in21k")
    assert done.exit_code == 0, done.output
    assert "bit_r50_in21k: now at" in done.stdout
    assert str(home / "hub") in done.stdout
    assert hub == [("timm/resnetv2_50x1_bit.goog_in21k", "model.safetensors")]
    assert "already at" in invoke("models", "fetch", "bit_r50_in21k").stdout
    assert len(hub) == 1
    assert rows("models", "list")["bit_r50_in21k"]["here"] is True


def test_fetch_fills_a_weights_folder_with_whole_files(hub: Asked, home: Path, bit: Path) -> None:
    folder = home / "new" / "weights"
    done = invoke("--weights", folder, "models", "fetch", "bit_r50_in21k")
    assert done.exit_code == 0, done.output
    path = folder / "bit_r50_in21k.safetensors"
    assert file_digest(path) == file_digest(bit)
    assert list(folder.iterdir()) == [path], "nothing half-written is left"
    assert not (home / "hub").exists()
    again = invoke("--weights", folder, "models", "fetch", "bit_r50_in21k")
    assert f"already at {path}" in again.stdout
    assert len(hub) == 1
    # What the cache has already is copied from there.
    invoke("models", "fetch", "bit_r50_in21k")
    other = home / "other"
    assert invoke("--weights", other, "models", "fetch", "bit_r50_in21k").exit_code == 0
    assert file_digest(other / path.name) == file_digest(bit)
    assert len(hub) == 2


def test_fetch_tries_the_older_file_and_says_what_the_hub_lacks(hub: Asked) -> None:
    done = invoke("models", "fetch", "clip_vit_b16")
    assert done.exit_code == 2
    assert hub == [
        ("timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors"),
        ("timm/vit_base_patch16_clip_224.openai", "open_clip_pytorch_model.bin"),
    ]
    assert "timm/vit_base_patch16_clip_224.openai holds none of" in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tiny_vit", "pretrained by orch"),
        ("bit_r50_sgd", "put bit_r50_sgd.safetensors into the folder of --weights"),
        ("clip_vit", 'unknown model "clip_vit"'),
    ],
)
def test_fetch_refuses_what_nobody_publishes(hub: Asked, name: str, says: str) -> None:
    done = invoke("models", "fetch", name)
    assert done.exit_code == 2
    assert says in done.stderr
    assert hub == []


@pytest.mark.parametrize("words", [[], ["--weights", "w"]])
def test_fetch_without_a_network_is_one_sentence(
    orch: Orch, home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """The real client, told that it is offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    done = orch(*words, "models", "fetch", "bit_r50_in21k", check=2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("orch: bit_r50_in21k: timm/resnetv2_50x1_bit.goog_in21k cannot")
    assert "offline mode is enabled" in done.stderr
    assert not list((home / "w").glob("*"))


@pytest.fixture
def endpoint(bit: Path) -> Iterator[str]:
    """A server that speaks as much of the hub's protocol as a download needs."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            if self.path != "/timm/resnetv2_50x1_bit.goog_in21k/resolve/main/pytorch_model.bin":
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", REVISION)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{file_digest(bit)}"')
            self.send_header("Content-Length", str(bit.stat().st_size))
            self.end_headers()
            if body:
                self.wfile.write(bit.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_real_client_fetches_and_check_finds(
    orch: Orch, home: Path, endpoint: str, bit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub against a server of its protocol: into its cache, and into a folder."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    orch("models", "fetch", "bit_r50_in21k")
    (link,) = (home / "hf" / "hub").glob("models--timm--*/snapshots/*/pytorch_model.bin")
    assert link.resolve().name == file_digest(bit), "what a later reader holds the file to"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    quick = orch("models", "check", "--quick", "--json", "bit_r50_in21k").stdout
    assert json.loads(quick)[0]["path"] == str(link)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HOME", str(home / "other"))
    orch("--weights", "w", "models", "fetch", "bit_r50_in21k")
    assert [path.name for path in (home / "w").iterdir()] == ["bit_r50_in21k.bin"]
    assert file_digest(home / "w" / "bit_r50_in21k.bin") == file_digest(bit)


def test_a_weights_folder_that_is_a_file_is_refused(hub: Asked, home: Path) -> None:
    (home / "w").touch()
    done = invoke("--weights", home / "w", "models", "fetch", "bit_r50_in21k")
    assert done.exit_code == 2


# check


def test_check_loads_for_real(weights: Path, bit: Path) -> None:
    row = rows("--weights", weights, "models", "check", "bit_r50_in21k")["bit_r50_in21k"]
    assert (row["state"], row["sha256"]) == ("ok", file_digest(bit))
    assert row["bytes"] == bit.stat().st_size
    assert row["problem"] is None
    shown = invoke("--weights", weights, "models", "check", "bit_r50_in21k").stdout
    assert f" {file_digest(bit)[:12]} " in shown
    assert " ok " in shown


def test_check_of_everything_reports_what_is_missing(weights: Path) -> None:
    """Nobody asked for the missing ones, so that is no failure."""
    found = rows("--weights", weights, "models", "check", "--quick")
    assert found["bit_r50_in21k"]["state"] == "found"
    assert found["tiny_vit"]["state"] == "builds"
    missing = found["clip_vit_l14"]
    assert missing["state"] == "missing"
    assert "orch models fetch clip_vit_l14" in missing["problem"]
    assert rows("models", "check", "--quick", "clip_vit_l14", exit_code=2)


def damage_by(what: str) -> Callable[[Path], None]:
    def truncate(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:1_000_000])

    def swap(path: Path) -> None:
        state = new_model(MODELS["tiny_bit"], 3).state_dict()
        save_file({name.removeprefix("network."): value for name, value in state.items()}, path)

    return {"cannot be read": truncate, "does not fit": swap}[what]


@pytest.mark.parametrize("what", ["cannot be read", "does not fit"])
def test_check_names_what_is_damaged(weights: Path, bit: Path, what: str) -> None:
    """Also where all models are looked at: a bad file is never what was meant."""
    path = weights / "bit_r50_in21k.safetensors"
    path.unlink()
    shutil.copyfile(bit, path)
    damage_by(what)(path)
    row = rows("--weights", weights, "models", "check", exit_code=2)["bit_r50_in21k"]
    assert row["state"] == "damaged"
    assert what in row["problem"]
    done = invoke("--weights", weights, "models", "check", "bit_r50_in21k")
    assert done.exit_code == 2
    assert str(path) in done.stdout
    assert "1 model of 1 cannot be used: bit_r50_in21k" in done.stderr


SWEEP = """
name: small
models: [{models}]
datasets: [{dataset}]
methods: [sgd]
weights: {weights}
"""


def sweep(home: Path, models: str, weights: str, dataset: str = "waterbirds") -> Path:
    path = home / "sweep.yaml"
    path.write_text(SWEEP.format(models=models, weights=weights, dataset=dataset))
    return path


def test_check_of_a_sweep_looks_at_what_it_needs(weights: Path, home: Path) -> None:
    both = sweep(home, "bit_r50_in21k, clip_vit_b16", "pretrained")
    found = rows("--weights", weights, "models", "check", both, exit_code=2)
    assert {name: row["state"] for name, row in found.items()} == {
        "bit_r50_in21k": "ok",
        "clip_vit_b16": "missing",
    }
    one = sweep(home, "bit_r50_in21k", "pretrained")
    assert rows("--weights", weights, "models", "check", one)["bit_r50_in21k"]["state"] == "ok"


def test_random_and_tiny_models_only_have_to_build(home: Path) -> None:
    random = sweep(home, "bit_r50_in21k", "random")
    assert rows("models", "check", random)["bit_r50_in21k"]["state"] == "builds"
    tiny = sweep(home, "tiny_vit, tiny_bit", "pretrained", "mini_waterbirds")
    states = {row["state"] for row in rows("models", "check", tiny).values()}
    assert states == {"builds"}
