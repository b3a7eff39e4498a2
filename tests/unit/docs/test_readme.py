"""The README says what is."""

import re
import shlex
from pathlib import Path

import yaml

from evalscope_evalflow.cli.command_line import COMMANDS
from evalscope_evalflow.cli.flags import FLAGS, add_flags, normalise
from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.engines import known_engines

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def flag_table():
    """The table of flags, as the README has it between its marks."""
    lines = ["| flag | default | what |", "|---|---|---|"]
    for flag in FLAGS:
        default = "" if flag.default is None else flag.default
        default = " ".join(default) if isinstance(default, list) else str(default)
        several = " (several)" if flag.several else ""
        lines.append(f"| `--{flag.name}`{several} | {default} | {flag.help} |".replace("\\", ""))
    return "\n".join(lines)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_flags_are_those_of_the_command():
    found = re.search(r"<!-- flags -->\n(.*?)\n<!-- /flags -->", README, re.DOTALL)
    assert found is not None
    assert found[1] == flag_table(), f"the table should be:\n{flag_table()}"


def test_every_command_is_there_and_every_command_shown_exists():
    shown = set(re.findall(r"\bevalflow ([a-z]+)\b", "\n".join(blocks("bash"))))
    assert shown == set(COMMANDS)


def test_the_bare_flags_shown_parse():
    import argparse

    line = next(block for block in blocks("bash") if "--work_dir" in block).replace("\\\n", " ")
    command = next(text for text in line.splitlines() if "--work_dir" in text)
    parser = argparse.ArgumentParser()
    add_flags(parser)
    args = parser.parse_args(normalise(shlex.split(command)[1:]))
    assert args.eval_model_name == ["base", "tuned"]


def test_the_yaml_is_a_task():
    text, *sections = blocks("yaml")
    task = Task.parse(yaml.safe_load(text))
    assert [model.name for model in task.models] == ["base", "tuned", "gpt-4o-mini"]
    assert isinstance(task.flow, FlowConfig)
    for section in sections:
        assert FlowConfig.parse(yaml.safe_load(section)["evalflow"])


def test_every_engine_is_in_the_table():
    table = re.findall(r"^\| `(\w+)` \| ", README, re.MULTILINE)
    assert {"vllm", "lmdeploy", "sglang", "llamacpp", "remote"} <= set(table)
    assert set(table) <= set(known_engines()) | {flag.name for flag in FLAGS}


def test_ci_runs_the_readmes_test_command():
    command = next(block for block in blocks("bash") if "pytest" in block).strip()
    assert command in (ROOT / ".ci" / "run").read_text()


def test_the_examples_are_tasks(monkeypatch):
    monkeypatch.chdir(ROOT)
    files = sorted((ROOT / "examples").glob("*.yaml"))
    names = ["llamacpp", "lmdeploy", "remote", "sglang", "sweep", "vllm", "vlmevalkit"]
    assert [file.stem for file in files] == names
    assert Task.load(files.pop()).flow.backend == "VLMEvalKit"
    del files[names.index("sweep")]
    for file in files:
        task = Task.load(file)
        assert task.flow.deploy.engine == file.stem
        assert task.flow.backend == "Native"
        for settings in task.stock["dataset_args"].values():
            assert list(Path(settings["local_path"]).glob("*.jsonl"))


def test_the_sweeps_example_has_a_model_for_every_checkpoint(make_checkpoint, tmp_path):
    for step in (2000, 10000, 1000):
        make_checkpoint(f"ckpts/step-{step}")
    text = (ROOT / "examples" / "sweep.yaml").read_text()
    (tmp_path / "sweep.yaml").write_text(text.replace("/ckpts", str(tmp_path / "ckpts")))
    task = Task.load(tmp_path / "sweep.yaml")
    assert [model.name for model in task.models] == ["step-1000", "step-2000", "step-10000"]
