"""What is read of Slurm's tables, and the parameters that jobs are submitted with."""

from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Stage
from evalscope_evalflow.sweep.cluster.slurm_queue import expanded, read_jobs, read_nodes, usable
from evalscope_evalflow.sweep.cluster.slurm_settings import SlurmSettings, interpreter, minutes, parameters

JOBS = """\
7|RUNNING|n1|2026-01-01T10:00:00|2026-01-01T10:05:00|None
8_0|PENDING||2026-01-01T10:00:00|N/A|Resources
8_1|COMPLETING|n2|2026-01-01T10:00:00|2026-01-01T10:01:00|None
9|NODE_FAIL|n2|2026-01-01T10:00:00|2026-01-01T10:01:00|None
10|FAILED|n2|2026-01-01T10:00:00|2026-01-01T10:01:00|NonZeroExitCode
11|PENDING||2026-01-01T10:00:00|2026-01-02T10:01:00|ReqNodeNotAvail, UnavailableNodes:a|b
12|OUT_OF_MEMORY|n1|2026-01-01T10:00:00|2026-01-01T10:01:00|OutOfMemory
"""
NODES = """\
n1|main*|gpu:a100:4(S:0-1),gpu:h100:2|a100,ib|1:00:00|infinite
n1|debug|gpu:a100:4(S:0-1),gpu:h100:2|a100,ib|n/a|30:00
n2|main*|(null)|(null)|1:00:00|infinite
n3|main*|gpu:8|ib|1:00:00|infinite
n3|main*|gpu:8|ib|1:00:00|infinite
"""


def test_every_state_of_a_job_is_one_of_three_stages():
    found = read_jobs(JOBS)
    assert {job: status.stage for job, status in found.items()} == {
        "7": Stage.RUNNING,
        "8_0": Stage.QUEUED,
        "8_1": Stage.RUNNING,
        "9": Stage.GONE,
        "10": Stage.GONE,
        "11": Stage.QUEUED,
        "12": Stage.GONE,
    }
    assert (found["7"].nodes, found["8_0"].nodes) == ("n1", "")
    assert found["8_0"].reason == "Resources"
    assert found["7"].since - found["8_0"].since == 5 * 60
    assert [found[job].reason for job in ("9", "10", "12")] == ["NODE_FAIL", "FAILED", "OUT_OF_MEMORY (OutOfMemory)"]
    assert found["11"].reason.endswith("UnavailableNodes:a|b")
    assert read_jobs("77\n") == {}
    assert read_jobs("77|NEW_STATE") == {"77": JobStatus(Stage.GONE, reason="NEW_STATE")}


def test_nodes_are_read_with_their_gpus_by_type_and_once_for_each_partition():
    nodes = read_nodes(NODES)
    assert [(node.name, node.partition, node.default) for node in nodes] == [
        ("n1", "main", True),
        ("n1", "debug", False),
        ("n2", "main", True),
        ("n3", "main", True),
    ]
    assert [node.count("") for node in nodes] == [6, 6, 0, 8]
    assert [node.count("h100") for node in nodes] == [2, 2, 0, 0]
    assert [node.limit_min for node in nodes] == [60, 30, 60, 60]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({}, ["n1", "n2", "n3"]),
        ({"partition": "debug"}, ["n1"]),
        ({"constraint": "ib"}, ["n1", "n3"]),
        ({"constraint": "ib&a100"}, ["n1"]),
        ({"constraint": "[rack1|rack2]"}, ["n1", "n2", "n3"]),
        ({"names": ("n2", "n3")}, ["n2", "n3"]),
    ],
)
def test_the_nodes_that_a_job_may_run_on(choice, names):
    found = usable(read_nodes(NODES), **{"partition": "", "constraint": "", "names": (), **choice})
    assert [node.name for node in found] == names


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ("n1", ["n1"]),
        ("gpu[08-10,12],login", ["gpu08", "gpu09", "gpu10", "gpu12", "login"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("", []),
    ],
)
def test_lists_of_hosts_are_expanded(hosts, names):
    assert list(expanded(hosts)) == names


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90", 90),
        ("90:30", 91),
        ("1:30:00", 90),
        ("2-12", 3600),
        ("1-00:00:01", 1441),
        ("0:01", 1),
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
    ],
)
def test_time_limits_are_read_as_slurm_writes_them(text, found):
    assert minutes(text) == found


@pytest.mark.parametrize("text", ["2h", "-5", "1:2:3:4", "soon"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is no time"):
        minutes(text)


def script(settings, devices=2, limit_min=60):
    found = parameters(
        settings, name="qwen", devices=devices, folders=[Path("/w/slurm")], excluded=["n9"], limit_min=limit_min
    )
    return _make_sbatch_string(command=f"{interpreter(settings)} -m work", folder="/w/slurm", **found)


def test_the_script_of_a_job():
    settings = SlurmSettings(
        python="/env/bin/python",
        partition="main",
        account="lab",
        qos="low",
        constraint="a100",
        gpu_type="a100",
        setup=("module load cuda",),
        additional={"mem": "64G", "exclusive": True},
    )
    assert script(settings) == (
        """\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --constraint=a100
#SBATCH --error=/w/slurm/%j_0_log.err
#SBATCH --exclude=n9
#SBATCH --exclusive
#SBATCH --export=NONE
#SBATCH --gpus-per-node=a100:2
#SBATCH --job-name=qwen
#SBATCH --mem=64G
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/w/slurm/%j_0_log.out
#SBATCH --partition=main
#SBATCH --qos=low
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=60

# setup
[ "$(stat -c %u:%a /w/slurm)" = "$(id -u):700" ] || { echo """
        """'/w/slurm is not of mode 0700 and this user'"'"'s own: its files are not loaded' >&2; exit 78; }
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
exec /env/bin/python -m work
"""
    )


def test_a_job_without_devices_asks_for_no_gpu_and_a_short_one_is_warned_late_enough():
    text = script(SlurmSettings(python="python"), devices=0, limit_min=1)
    assert "gpus" not in text
    assert "#SBATCH --signal=B:USR2@30\n" in text


def test_containers():
    prefixed = script(SlurmSettings(python="python3", container_prefix=("apptainer", "exec", "--nv", "a b.sif")))
    assert "exec apptainer exec --nv 'a b.sif' python3 -m work" in prefixed
    pyxis = script(SlurmSettings(python="python3", container_image="nvcr.io/x:1", container_mounts=("/data:/data",)))
    assert "--container-image=nvcr.io/x:1 --container-mounts=/data:/data,/w/slurm:/w/slurm python3 -m work" in pyxis
    assert "srun --unbuffered" in pyxis
    assert "--export=ALL" in pyxis
