"""The files for clusters, dry-run: what they would start is what torchrun and labkit understand."""

import os
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from labkit.cli.options import key_values
from labkit.runs.config import describe_fields

FOLDER = Path(__file__).parents[2] / "lessons/cluster-example"
JOB = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text())
SCRIPTS = ("slurm.sbatch", "two-machines.sh")


def understood(command: list[str]) -> tuple[Namespace, dict[str, str]]:
    """Return what torchrun reads of a command, and the run's settings behind it."""
    from torch.distributed.run import get_args_parser

    assert command[0] == "torchrun"
    read = get_args_parser().parse_args(command[1:])
    assert read.module and read.training_script == "labkit"
    name, *words = read.training_script_args
    assert name == "train"
    settings = key_values(words)
    assert set(settings) <= {"config", *describe_fields()}
    return read, settings


@pytest.fixture
def dry(tmp_path: Path):
    """Return a function that runs a script where torchrun only says what it was given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {
        "torchrun": 'printf "%s\\n" torchrun "$@" "LABKIT_RUNS=${LABKIT_RUNS:-}"',
        "srun": 'test "$1" = --kill-on-bad-exit=1 && shift && exec "$@"',
        "scontrol": 'test "$*" = "show hostnames gpu[07-08]" && printf "gpu07\\ngpu08\\n"',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)

    def run(script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin"
        return subprocess.run(["bash", str(FOLDER / script), *words], capture_output=True,
                              text=True, env={"PATH": path, **variables})  # fmt: skip

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_right_for_bash_and_stop_at_an_error(script):
    assert subprocess.run(["bash", "-n", str(FOLDER / script)]).returncode == 0
    assert "\nset -euo pipefail\n" in (FOLDER / script).read_text()


def test_slurm_starts_one_launcher_a_machine(dry):
    said = dry("slurm.sbatch", "lora", "--learning-rate", "1e-4", SLURM_JOB_NODELIST="gpu[07-08]",
               SLURM_JOB_NUM_NODES="2", SLURM_GPUS_ON_NODE="4", SLURM_JOB_ID="31",
               SLURM_SUBMIT_DIR="/home/ann")  # fmt: skip
    *command, runs = said.stdout.splitlines()
    read, settings = understood(command)
    assert (read.nnodes, read.nproc_per_node, read.rdzv_id) == ("2", "4", "31")
    assert (read.rdzv_backend, read.rdzv_endpoint) == ("c10d", "gpu07:29500")
    assert read.max_restarts == 0
    assert settings == {"config": "lora", "sharding": "fsdp2", "learning_rate": "1e-4"}
    assert runs == "LABKIT_RUNS=/home/ann/runs"
    # Outside a job there is nothing to start, and it says so.
    assert dry("slurm.sbatch").returncode != 0
    lines = (FOLDER / "slurm.sbatch").read_text().splitlines()
    asked = dict(line.removeprefix("#SBATCH --").split("=") for line in lines
                 if line.startswith("#SBATCH"))  # fmt: skip
    assert asked["ntasks-per-node"] == "1" and asked["nodes"] == "2"


def test_two_machines_meet_at_one(dry):
    ranks = [dry("two-machines.sh", rank, "10.0.0.7:29500", NPROC="2") for rank in "01"]
    reads = [understood(each.stdout.splitlines()[:-1]) for each in ranks]
    assert [read.node_rank for read, _ in reads] == [0, 1]
    for read, settings in reads:
        assert (read.nnodes, read.nproc_per_node) == ("2", "2")
        assert (read.master_addr, read.master_port) == ("10.0.0.7", 29500)
        assert settings == {"config": "full", "sharding": "fsdp2"}
    assert "HOST:PORT of machine 0" in dry("two-machines.sh", "0").stderr


def test_kubernetes_starts_a_launcher_that_the_operator_tells_who_it_is(monkeypatch):
    specs = JOB["spec"]["pytorchReplicaSpecs"]
    machines = sum(each["replicas"] for each in specs.values())
    assert JOB["apiVersion"] == "kubeflow.org/v1" and specs["Master"]["replicas"] == 1
    for variable, value in {
        "NNODES": machines, "NPROC_PER_NODE": JOB["spec"]["nprocPerNode"], "NODE_RANK": 1,
        "MASTER_ADDR": "labkit-x-master-0", "MASTER_PORT": 23456,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"PET_{variable}", str(value))
    for each in specs.values():
        pod = each["template"]["spec"]
        (container,) = pod["containers"]
        read, settings = understood([*container["command"], *container["args"]])
        assert container["name"] == "pytorch" and each["restartPolicy"] == "Never"
        assert (read.nnodes, read.node_rank) == (str(machines), 1)
        assert read.master_addr == "labkit-x-master-0" and read.max_restarts == 0
        assert read.nproc_per_node == str(container["resources"]["limits"]["nvidia.com/gpu"])
        assert settings["sharding"] == "fsdp2"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}
