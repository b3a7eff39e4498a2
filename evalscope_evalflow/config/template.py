"""`evalflow init`: a task file to begin with, written from the schema itself."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import DeployConfig, FlowConfig, Section
from evalscope_evalflow.errors import ConfigError, Problem

_PLAIN = re.compile(r"[A-Za-z/~][\w./+-]*")
_OTHER_TYPE = re.compile(r"(?i)true|false|yes|no|on|off|null|y|n|~")  # to YAML
_HEAD = """\
# A task for EvalFlow. Check it: evalflow check FILE. Run it: evalflow run FILE,
# or evalscope eval --eval-backend evalflow --eval-config FILE, or run_task("FILE") in Python.
eval_backend: evalflow
{data}
{work_dir} # results go here; no timestamp is added, so that a rerun goes on
generation_config: {{max_tokens: 512, temperature: 0.0}}
# limit: 10                         # samples of each subset
# judge:
#   models: [{{model_id: gpt-4o-mini, api_url: https://judge.example/v1, api_key: "${{JUDGE_API_KEY}}"}}]

evalflow:
  {backend} # the stock backend to wrap
  models:                           # each has a folder of its own in work_dir
    - {model}
{more_models}"""
_EXAMPLE_DATA = """\
datasets: [general_mcq]             # EvalScope's benchmarks
dataset_args:
  # Reads data/mine_val.jsonl, a question a line: {"question": "…", "A": "Paris", "B": "Rome", "answer": "A"}
  general_mcq: {local_path: data, subset_list: [mine]}
  # Open questions are general_qa's. Give it a judge: Rouge compares words, and a right sentence is 0.0 to it where
  # the answer that it is compared with is one word."""
_EXAMPLE_MODEL = "{name: my-model, path: /models/my-model}"
_EXAMPLE_API = """\
    # - {name: an-api, api_url: https://api.example/v1, api_key: "${API_KEY}", deploy: {engine: remote}}
"""
_ROUGE = """
  # Rouge compares words: a right sentence is 0.0 where the right answer is one other word. A judge knows better."""


@dataclass(frozen=True)
class Filling:
    """What a task file begins with, in place of examples.

    Attributes:
        backend: the stock backend.
        dataset: a dataset's name; empty: the example's.
        settings: its `dataset_args`.
        model: an entry of `models`; None: the example's.
        work_dir: where results go.
    """

    backend: str = "Native"
    dataset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None
    work_dir: str = "outputs/first"

    @property
    def head(self) -> str:
        """The file's beginning."""
        model = _EXAMPLE_MODEL if self.model is None else _flow_style(self.model)
        more = _EXAMPLE_API if self.model is None else ""
        work_dir = f"work_dir: {_flow_style(self.work_dir)}".ljust(35)
        return _HEAD.format(
            data=self._data,
            work_dir=work_dir,
            backend=f"backend: {self.backend}".ljust(33),
            model=model,
            more_models=more,
        )

    @property
    def _data(self) -> str:
        if not self.dataset:
            return _EXAMPLE_DATA
        lines = f"datasets: [{_flow_style(self.dataset)}]"
        if not self.settings:
            return lines
        rouge = _ROUGE if "metric_list" in self.settings else ""
        return f"{lines}\ndataset_args:{rouge}\n  {_flow_style(self.dataset)}: {_flow_style(self.settings)}"


def _flow_style(value: Any) -> str:
    """A value as YAML has it on one line; a plain text has no quotation marks."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow_style(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow_style, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not _OTHER_TYPE.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def write_template(path: str | Path, filling: Filling | None = None) -> None:
    """Write the file.

    Args:
        path: where; nothing may be there.
        filling: what it begins with; default: examples.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """
    target = Path(path)
    try:
        with target.open("x", encoding="utf-8") as file, _gone_if_it_fails(target):
            file.write(template(filling))
            file.flush()
    except FileExistsError as error:
        raise ConfigError(Problem(str(target), "is there already", "Give another name.")) from error
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise ConfigError(Problem(str(target), what, "Make room, or give another name.")) from error


@contextmanager
def _gone_if_it_fails(file: Path) -> Iterator[None]:
    """Half a file would be in the way when it is written again."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            file.unlink()
        raise


def template(filling: Filling | None = None) -> str:
    """The file's text."""
    head = (filling or Filling()).head
    flow = _options(FlowConfig, "  ", skip=("backend", "models", "deploy"))
    return f"{head}{flow}  deploy:\n    engine: auto\n{_options(DeployConfig, '    ', skip=('engine',))}"


def _options(schema: type[Section], indent: str, skip: tuple[str, ...]) -> str:
    lines = []
    for name, option in schema.model_fields.items():
        if name in skip:
            continue
        default = json.dumps(option.get_default(call_default_factory=True))
        lines += [f"{indent}# {line}" for line in textwrap.wrap(option.description or "", 110 - len(indent))]
        lines.append(f"{indent}# {name}: {default}")
    return "\n".join(lines) + "\n"
