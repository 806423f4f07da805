"""Deploy the same server on a rented GPU: an example for Modal, in one file.

Weights are downloaded once, into a volume that outlives containers; a container with a GPU then
mounts the volume and runs `labkit serve` on it. Nobody asks, nothing runs: after ten idle minutes
the container ends, and the next request starts another, which takes as long as loading does.

    pip install modal && modal setup             # an account, once
    modal secret create labkit LABKIT_API_KEY=… HF_TOKEN=…
    modal run labkit/serve/modal_app.py          # the download; HF_TOKEN is for gated models
    modal deploy labkit/serve/modal_app.py       # the server; prints its address

    from openai import OpenAI
    OpenAI(base_url="https://….modal.run/v1", api_key="…")

The address is on the open internet and a GPU costs by the second, so the key is not optional.
A fine-tuned model goes into the same volume: `modal volume put labkit-models RUN_FOLDER /tuned`,
and its folder into `SERVED`.

This file needs an account and is not run by the course's tests; they check that it compiles and
names what Modal's documentation has. Source: modal.com/docs, pages modal.App, modal.Image,
modal.Volume and modal.web_server, read in November 2026.
"""

import os
import subprocess
from pathlib import Path

import modal

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = "/models"
SERVED = [f"{FOLDER}/base"]
GPU = "L4"
PORT = 8123
MINUTES = 60

volume = modal.Volume.from_name("labkit-models", create_if_missing=True)
secret = modal.Secret.from_name("labkit", required_keys=["LABKIT_API_KEY"])
lock = Path(__file__).parents[2] / "requirements.lock"
image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install_from_requirements(str(lock))
    .env({"HF_HUB_OFFLINE": "1"})
    .add_local_python_source("labkit")
)
app = modal.App("labkit-serve", image=image, volumes={FOLDER: volume}, secrets=[secret])


@app.function(timeout=60 * MINUTES)
def download() -> None:
    """Put the model into the volume; a second call finds it there."""
    os.environ["HF_HUB_OFFLINE"] = "0"  # before the import below reads it
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    snapshot_download(MODEL, local_dir=SERVED[0], allow_patterns=wanted)
    volume.commit()


@app.function(gpu=GPU, scaledown_window=10 * MINUTES, timeout=24 * 60 * MINUTES, max_containers=1)
@modal.concurrent(max_inputs=64)
@modal.web_server(PORT, startup_timeout=10 * MINUTES)
def serve() -> None:
    """Start the server; Modal passes requests on once the port answers."""
    command = ["python", "-m", "labkit", "serve", *SERVED, "--host", "0.0.0.0"]
    subprocess.Popen([*command, "--port", str(PORT), "--idle-minutes", "0"])


@app.local_entrypoint()
def main() -> None:
    """Download, so that `modal run` on this file prepares the deployment."""
    download.remote()
