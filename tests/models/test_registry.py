"""Where a name leads: order of look-up, read-only folders, runs, the Hub with its refusals."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labkit.errors import LabkitError
from labkit.models import embedded, load, registry
from labkit.models.specs import MODELS

# Numbers of parameters as the models' pages and reports publish them.
PUBLISHED = {
    "smollm2-135m-instruct": 134_515_008,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "gemma-2b": 2_506_172_416,
    "mamba-1.4b": 1_372_178_432,
    "mamba-2.8b": 2_768_345_600,
    "t5-large": 737_668_096,
    "phi-1.5": 1_418_270_720,
    "bloom-3b": 3_002_557_440,
}


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LABKIT_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_build_the_published_model(name: str) -> None:
    import torch

    config = load.config_of(name)
    with torch.device("meta"):
        model = load.auto_class(config).from_config(config)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
    # A key that the configuration class does not know would be kept and ignored.
    known = set(type(config)().to_dict()) | set(config.attribute_map)
    known |= {"head_dim", "decoder_start_token_id"}
    assert set(registry.spec(name).config) <= known


def test_every_name_has_a_published_number() -> None:
    assert set(MODELS) == set(PUBLISHED)
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.licence


def test_explicit_path_comes_first(tiny_llama: Path, tmp_path: Path) -> None:
    assert registry.resolve(str(tiny_llama)) == tiny_llama
    shutil.copytree(tiny_llama, tmp_path / "tiny-gemma")
    assert registry.resolve("tiny-gemma") == Path("tiny-gemma")


def test_shared_folder_comes_before_the_cache(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache = embedded.cache_dir() / "models" / "tiny-llama"
    shutil.copytree(tiny_llama, in_cache)
    assert registry.resolve("tiny-llama") == in_cache
    shared = tmp_path / "public" / "tiny-llama"
    shutil.copytree(tiny_llama, shared)
    monkeypatch.setenv("LABKIT_MODELS", str(shared.parent))
    assert registry.resolve("tiny-llama") == shared
    assert registry.name_of(shared) == registry.name_of(in_cache) == "tiny-llama"


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "config.json"])
def test_another_tokenizer_or_template_is_another_model(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    in_cache = embedded.cache_dir() / "models" / "tiny-llama"
    changed = {}
    for folder in (tmp_path / "mine", in_cache):
        shutil.copytree(tiny_llama, folder)
        before = registry.fingerprint_of(folder)
        assert before == registry.fingerprint_of(folder)
        with (folder / name).open("a") as file:
            file.write("\n")
        changed[folder] = registry.fingerprint_of(folder) != before
    # A model of the registry comes with its own, and is told by weights and configuration.
    assert changed == {tmp_path / "mine": True, in_cache: name == "config.json"}


@pytest.mark.parametrize("folder", ["llama-3-8b", "Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"])
def test_shared_folder_may_use_the_hubs_names(
    folder: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "public" / folder
    shutil.copytree(tiny_llama, shared)
    monkeypatch.setenv("LABKIT_MODELS", str(tmp_path / "public"))
    assert registry.resolve("llama-3-8b") == shared
    assert registry.name_of(shared) == "llama-3-8b"


def test_read_only_folder_is_used_and_left_as_it_was(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "public" / "smollm2-135m-instruct"
    shutil.copytree(tiny_llama, shared)
    for path in [*shared.iterdir(), shared, shared.parent]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {p: p.stat().st_mtime_ns for p in shared.parent.rglob("*")}
    monkeypatch.setenv("LABKIT_MODELS", str(shared.parent))
    folder = registry.resolve("smollm2-135m-instruct")
    load.load_model(folder)
    load.load_tokenizer(folder)
    assert {p: p.stat().st_mtime_ns for p in shared.parent.rglob("*")} == before
    assert not embedded.cache_dir().exists()
    for path in [shared.parent, shared]:
        path.chmod(0o755)


@pytest.mark.parametrize("inner", ["", "model", "adapter"])
def test_run_folder(inner: str, tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "runs" / "one" / inner)
    assert registry.resolve("runs/one") == Path("runs/one") / inner


def test_run_folder_that_is_gone_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(LabkitError, match="'runs/gone' is neither a folder with a model"):
        registry.resolve("runs/gone")


def test_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabkitError, match="holds no model"):
        registry.resolve("empty")


def test_configuration_without_weights_is_no_model(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    shutil.copy(tiny_llama / "config.json", tmp_path / "half")
    with pytest.raises(LabkitError, match="holds no model"):
        registry.resolve("half")


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(LabkitError, match="did you mean 'llama-3-8b'"):
        registry.resolve("lama-3-8b")
    with pytest.raises(LabkitError, match="did you mean 'phi-1.5'"):
        registry.spec("phi-15")
    with pytest.raises(LabkitError, match="empty"):
        registry.resolve("")


def test_tiny_models_are_built_on_demand() -> None:
    with pytest.raises(LabkitError, match="labkit fetch tiny-t5"):
        registry.resolve("tiny-t5", fetch=False)
    folder = registry.resolve("tiny-t5")
    assert folder == embedded.cache_dir() / "models" / "tiny-t5"
    assert registry.resolve("tiny-t5", fetch=False) == folder


def test_embedded_model_is_not_fetched_when_told_so() -> None:
    with pytest.raises(LabkitError, match="labkit fetch smollm2-135m-instruct"):
        registry.resolve("smollm2-135m-instruct", fetch=False)


def test_import_is_cheap() -> None:
    code = (
        "import sys, labkit.models.registry, labkit.models.embedded, labkit.machine.hardware;"
        "print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- a Hub on loopback, speaking as much of the protocol as a download needs ----------------

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    folder: Path
    requests: list[str]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.requests.append(f"{self.command} {path}")
        files = sorted(p for p in self.folder.iterdir() if p.is_file())
        if path.startswith("/api/models/owner/missing"):
            return self.answer(401, headers={"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/models/") and "/revision/" in path:
            return self.answer(200, {"id": "owner/tiny", "sha": COMMIT, "siblings": []})
        if path.startswith("/api/models/") and "/tree/" in path:
            others = [{"type": "file", "path": "original/other.json", "size": 1, "oid": "b" * 40}]
            listing = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "a" * 40}
                for p in files
            ]
            return self.answer(200, listing + others)
        if path.startswith("/owner/gated/resolve/"):
            return self.answer(403, headers={"X-Error-Code": "GatedRepo"})
        if path.startswith("/owner/tiny/resolve/"):
            file = self.folder / path.rsplit("/", 1)[-1]
            headers = {"ETag": f'"{file.name}"', "X-Repo-Commit": COMMIT}
            return self.answer(200, file.read_bytes(), headers)
        self.answer(404)

    do_HEAD = do_GET

    def answer(self, status: int, body: object = b"", headers: dict | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which the Hub is a server on loopback."""
    Hub.folder, Hub.requests = tiny_llama, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "LABKIT_CACHE": str(tmp_path / "cache"),
        }
        server.shutdown()


def resolve_elsewhere(name: str, env: dict[str, str]) -> str:
    """Resolve in a new process, since the Hub's client reads its environment at import."""
    code = (
        "import sys; from labkit.models import registry; from labkit.errors import LabkitError\n"
        "try: print(registry.resolve(sys.argv[1]))\n"
        "except LabkitError as error: print('refused:', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hub_id_is_downloaded_once_and_then_needs_no_network(
    hub: dict[str, str], tiny_llama: Path
) -> None:
    folder = Path(resolve_elsewhere("owner/tiny", hub))
    names = {p.name for p in tiny_llama.iterdir()}
    assert {p.name for p in folder.iterdir()} == names
    assert (folder / "model.safetensors").read_bytes() == (
        tiny_llama / "model.safetensors"
    ).read_bytes()
    assert not any("original" in request for request in Hub.requests)
    assert registry.name_of(folder) == "owner/tiny"
    Hub.requests.clear()
    assert resolve_elsewhere("owner/tiny", hub) == str(folder)
    assert resolve_elsewhere("owner/tiny", {**hub, "HF_HUB_OFFLINE": "1"}) == str(folder)
    assert Hub.requests == []


def test_gated_model_says_what_to_do(hub: dict[str, str]) -> None:
    said = resolve_elsewhere("owner/gated", hub)
    assert said.startswith("refused: owner/gated is gated: accept its licence")
    assert "hf auth login" in said
    assert "HF_TOKEN" in said


def test_missing_model_says_so(hub: dict[str, str]) -> None:
    said = resolve_elsewhere("owner/missing", hub)
    assert said.startswith("refused: there is no folder owner/missing")


def test_offline_and_unreachable_name_the_shared_folder(hub: dict[str, str]) -> None:
    said = resolve_elsewhere("llama-3-8b", {**hub, "HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE is set" in said
    assert "$LABKIT_MODELS/Meta-Llama-3-8B" in said
    said = resolve_elsewhere("phi-1.5", {**hub, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert said.startswith("refused: cannot download microsoft/phi-1_5 (")
    assert "$LABKIT_MODELS/phi-1_5" in said
