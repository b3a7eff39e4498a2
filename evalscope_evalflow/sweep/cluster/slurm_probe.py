"""A job of a second that looks from a node: folders, the interpreter, and versions of what jobs need there."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from evalscope_evalflow.sweep.cluster.slurm_settings import SlurmSettings, container_arguments

PACKAGES = ("evalscope-evalflow", "evalscope", "submitit")
EXTRA_S = 60.0  # for starting an interpreter from a slow file system, on top of waiting for a node
_MARK = "evalflow-probe:"
_NO_ROOM = ("Unable to allocate resources", "Job allocation", "revoked", "timed out")
# Runs on the node, with its interpreter, and imports nothing that may be missing there.
_LOOK = f"""
import json, os, platform, sys
from importlib import metadata
def inode(path):
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
wanted = json.loads(sys.argv[1])
print("{_MARK}" + json.dumps({{
    "node": os.environ.get("SLURMD_NODENAME", platform.node()),
    "python": platform.python_version(),
    "packages": {{name: version(name) for name in wanted["packages"]}},
    "folders": {{path: inode(path) for path in wanted["folders"]}},
}}))
"""


def probe(settings: SlurmSettings, excluded: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What one node lacks; nothing if none has room for the probe in time: then the first job says it.

    Args:
        settings: how jobs are submitted.
        excluded: names of nodes that jobs may not run on.
        folders: that nodes have to see under the same path.
    """
    if not settings.probe_s:
        return []
    command = ["srun", "--quiet", "--job-name=evalflow-probe", "--nodes=1", "--ntasks=1", "--time=1"]
    command += [f"--immediate={max(1, int(settings.probe_s))}"]
    command += [f"--{name}={value}" for name, value in settings.selection(excluded).items()]
    if settings.container_image:
        command += [item for item in container_arguments(settings, folders) if item != "--export=ALL"]
    wanted = json.dumps({"packages": PACKAGES, "folders": [str(path) for path in folders]})
    python = shlex.join([*settings.container_prefix, settings.python, "-c", _LOOK, wanted])
    # As in a job: the user's own environment of that node, then the lines that set it up.
    lines = "\n".join([*settings.setup, python])
    try:
        done = subprocess.run(
            [*command, "--export=NONE", "/bin/bash", "-lc", lines],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=settings.probe_s + EXTRA_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return []
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return list(_lacks(json.loads(line.removeprefix(_MARK)), folders))
    if any(words in done.stderr for words in _NO_ROOM):
        return []
    said = [line for line in (done.stderr or done.stdout).splitlines() if settings.python in line]
    words = "; ".join(said) or done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    todo = (
        "Nodes need an interpreter with EvalFlow at that path. Set executor.python to another one; executor.setup has "
        "lines of shell that run before it."
    )
    return [f"a probe job could not run {settings.python} on a node: {words}\n{todo}"]


def _lacks(found: Mapping[str, Any], folders: Sequence[Path]) -> list[str]:
    """What is missing there, or other than here."""
    node, problems = found["node"], []
    for path in folders:
        inode = found["folders"].get(str(path))
        if inode is None:
            problems.append(f"node {node} does not see {path}\nPut it on a file system that all nodes share.")
        elif inode != path.stat().st_ino:
            problems.append(
                f"on node {node}, {path} is another one than here\nPut it on a file system that all nodes share."
            )
    here, there = platform.python_version_tuple()[:2], found["python"].split(".")[:2]
    if list(here) != there:
        problems.append(
            f"node {node} has Python {'.'.join(there)}, and this is {'.'.join(here)}: what is pickled may not load\n"
            "Set executor.python to the same environment."
        )
    for name, version in found["packages"].items():
        if version != _version(name):
            have = f"{name} {version}" if version else f"no {name}"
            problems.append(
                f"node {node} has {have}, and {_version(name)} is here\nInstall the same there, or set executor.python."
            )
    return problems


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
