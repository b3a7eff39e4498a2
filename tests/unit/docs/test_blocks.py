"""Every block of README.md, CONTRIBUTING.md and docs/ is one that a check below knows, and passes it."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import itertools
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import PAGES, ROOT, Block, all_blocks, commands_in
from kubernetes_doc import entrypoint_of

from evalscope_evalflow.cli import main
from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.config.default_backend import known_backends
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.results.gating.gate_policy import Policy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
# Modules of the reader's own, in examples of plug-ins.
OF_THE_READER = re.compile(r"(my|your|evalflow)_\w+")


class Parsed(BaseException):
    """The command's arguments were understood; it goes no further."""


# --- commands ---


def parse_only(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program up to where its arguments are parsed."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        real(parser, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Parsed):
        run()


def check_evalflow(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse_only(lambda: main(words[1:]), monkeypatch)


def check_evalscope(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from evalscope.cli.cli import run_cmd

    if "--outputs" in words:  # the folder has to exist
        Path(words[words.index("--outputs") + 1]).mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", words)
    parse_only(run_cmd, monkeypatch)


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[1:3] == ["-m", "venv"]:
        return
    script = ROOT / words[1]
    assert script.is_file(), words
    if script.parent.name == "benchmarks":
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.syspath_prepend(str(script.parent))
        parse_only(lambda: runpy.run_path(str(script), run_name="__main__"), monkeypatch)


def check_pip(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    extras = PROJECT["optional-dependencies"]
    known = {f".[{name}]" for name in extras} | {f"evalscope-evalflow[{name}]" for name in extras}
    for word in words[words.index("install") + 1 :] if "install" in words else []:
        assert not word.startswith((".[", "evalscope-evalflow[")) or word in known, word
    assert {"install", "uninstall", "download"} & set(words)


def check_uv(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[1] != "venv":
        check_pip(words, monkeypatch)


def check_pytest(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {line.split(":")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    for before, word in itertools.pairwise(words):
        if before == "-m":
            assert word.removeprefix("not ") in marks
        elif word.startswith("tests/"):
            assert (ROOT / word).exists(), word


def check_ray(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job submit` with what it is to run."""
    assert words[1:3] == ["job", "submit"]
    check_evalflow(words[words.index("--") + 1 :], monkeypatch)


def check_mkdocs(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[1:] in (["serve"], ["build", "--strict"])


def check_nothing(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs whose arguments are paths alone."""


COMMANDS: dict[str, Callable[[list[str], pytest.MonkeyPatch], None]] = {
    "evalflow": check_evalflow,
    "evalscope": check_evalscope,
    "python": check_python,
    "python3": check_python,
    "pip": check_pip,
    "uv": check_uv,
    "pytest": check_pytest,
    "mkdocs": check_mkdocs,
    "ray": check_ray,
    **dict.fromkeys(("ruff", "mypy", "export", "source", "mkdir", "cd"), check_nothing),
}


def check_shell(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = commands_in(block)
    assert commands, "an empty block"
    for words in commands:
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # a variable for this command
            words = words[1:]
        program = words[0].rpartition("/")[2]
        assert program in COMMANDS, f"no check knows the command {program!r}: add one to {Path(__file__).name}"
        with monkeypatch.context() as patch:
            COMMANDS[program](words, patch)


# --- settings ---


def check_yaml(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole task; the section alone; or the part of a task that the mark before the block names."""
    data = yaml.safe_load(block.text)
    for name in re.findall(r"\$\{(\w+)\}", block.text):
        monkeypatch.setenv(name, "a-key")
    backends = [*known_backends(), *_entry_points(block.page, "evalflow.backends")]
    monkeypatch.setattr("evalscope_evalflow.config.section.known_backends", lambda: backends)
    if block.fragment == "gate":
        Policy.model_validate(data)
        return
    if block.fragment == "kubernetes":
        check_evalflow(entrypoint_of(data), monkeypatch)
        return
    if block.fragment == "github":
        check_job(data, monkeypatch)
        return
    if block.fragment in (None, "task"):
        check_task(data, whole=block.fragment is None and set(data) != {"evalflow"})
        return
    for key in reversed(str(block.fragment).split(".")[1:]):
        data = {key: data}
    FlowConfig.parse(data)


def check_job(data: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow of GitHub's: the commands of its steps are checked like those of a shell."""
    (job,) = data["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert steps
    for text in steps:
        check_shell(Block("", 0, "bash", text, None), monkeypatch)


def _entry_points(page: str, group: str) -> list[str]:
    """The plug-ins that a page's own package has; a test of that page installs it."""
    texts = [block.text for block in all_blocks("toml") if block.page == page]
    return [
        name for text in texts for name in tomllib.loads(text).get("project", {}).get("entry-points", {}).get(group, {})
    ]


def check_task(data: Mapping[str, Any], *, whole: bool) -> None:
    section = data.get("evalflow", {})
    FlowConfig.parse(section)
    if whole:
        assert Task.parse(dict(data)).models
    else:
        base = {"datasets": ["general_qa"], "work_dir": "outputs", "evalflow": {}}
        rest = {key: value for key, value in data.items() if key != "evalflow"}
        Task.parse({**base, **rest, "evalflow": {"models": [{"name": "m", "path": "/models/m"}]}})


def check_json(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    json.loads(block.text)


def check_jsonl(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())


def check_toml(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = tomllib.loads(block.text).get("project", {}).get("entry-points", {})
    ours = {"evalflow.engines", "evalflow.executors", "evalflow.backends", "evalflow.exporters", "evalscope.backends"}
    assert set(groups) <= ours


# --- Python ---


def check_python_code(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles; what it imports, and takes from that, exists; its calls of EvalFlow have known arguments."""
    tree = ast.parse(block.text, str(block))
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolve(node, names)
        if isinstance(node, ast.Call):
            _check_call(node, names)


def _imported(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if not OF_THE_READER.fullmatch(alias.name.split(".")[0]):
                    module = importlib.import_module(alias.name)
                    yield alias.asname or alias.name.split(".")[0], module
        elif isinstance(node, ast.ImportFrom) and not OF_THE_READER.fullmatch(str(node.module).split(".")[0]):
            for alias in node.names:
                try:
                    value = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    value = getattr(importlib.import_module(str(node.module)), alias.name)
                yield alias.asname or alias.name, value


def _resolve(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What an expression such as `package.function` is; None where it does not begin with something imported."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names)
        return None if owner is None else getattr(owner, node.attr)
    return None


def _check_call(node: ast.Call, names: Mapping[str, Any]) -> None:
    function = _resolve(node.func, names)
    if function is None or not str(getattr(function, "__module__", "")).startswith(("evalscope", "evalscope_evalflow")):
        return
    keywords = {word.arg: None for word in node.keywords if word.arg}
    if function.__name__ not in ("TaskConfig",):
        inspect.signature(function).bind_partial(*[None] * len(node.args), **keywords)
    if function.__name__ == "deploy":
        given = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg != "model"}
        FlowConfig.parse({"deploy": given})
    if function.__name__ == "run_task" and isinstance(node.args[0], ast.Dict):
        assert Task.parse(ast.literal_eval(node.args[0])).models


def check_text(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output of a program: no command hides in it."""
    for line in block.text.splitlines():
        assert not re.match(r"(\$ |evalflow (run|check|demo|init|ps|stop|clean|doctor) |evalscope eval|pip )", line), (
            line
        )


LANGUAGES: dict[str, Callable[[Block, pytest.MonkeyPatch], None]] = {
    "bash": check_shell,
    "yaml": check_yaml,
    "json": check_json,
    "jsonl": check_jsonl,
    "toml": check_toml,
    "python": check_python_code,
    "text": check_text,
}


@pytest.mark.parametrize("block", all_blocks(), ids=str)
def test_every_block_holds(block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert block.language in LANGUAGES, f"{block} is {block.language or 'of no language'}, which no check knows"
    monkeypatch.chdir(tmp_path)
    LANGUAGES[block.language](block, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_fence_is_missed(page: Path) -> None:
    """As many blocks are found as there are pairs of fences."""
    fences = len(re.findall(r"^\s*```", page.read_text(), re.MULTILINE))
    assert fences == 2 * sum(block.page == str(page.relative_to(ROOT)) for block in all_blocks())
