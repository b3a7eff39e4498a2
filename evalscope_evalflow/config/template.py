"""`evalflow init`: a task file to begin with, written from the schema itself."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from evalscope_evalflow.config import DeployConfig, FlowConfig, Section
from evalscope_evalflow.errors import ConfigError, Problem

_HEAD = """\
# A task for EvalFlow. Check it: evalflow check FILE. Run it: evalflow run FILE,
# or evalscope eval --eval-backend evalflow --eval-config FILE, or run_task("FILE") in Python.
eval_backend: evalflow
datasets: [general_mcq]             # EvalScope's benchmarks
dataset_args:
  # Reads data/mine_val.jsonl, a question a line: {"question": "…", "A": "Paris", "B": "Rome", "answer": "A"}
  general_mcq: {local_path: data, subset_list: [mine]}
  # Open questions are general_qa's. Give it a judge: Rouge compares words, and a right sentence is 0.0 to it where
  # the answer that it is compared with is one word.
work_dir: outputs/first             # results go here; no timestamp is added, so that a rerun goes on
generation_config: {max_tokens: 512, temperature: 0.0}
# limit: 10                         # samples of each subset
# judge:
#   models: [{model_id: gpt-4o-mini, api_url: https://judge.example/v1, api_key: "${JUDGE_API_KEY}"}]

evalflow:
  backend: Native                   # the stock backend to wrap
  models:                           # each has a folder of its own in work_dir
    - {name: my-model, path: /models/my-model}
    # - {name: an-api, api_url: https://api.example/v1, api_key: "${API_KEY}", deploy: {engine: remote}}
"""


def write_template(path: str | Path) -> None:
    """Write the file.

    Raises:
        ConfigError: it is there already, or cannot be written.
    """
    target = Path(path)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError as error:
        raise ConfigError(Problem(str(target), "is there already", "Give another name.")) from error
    except OSError as error:
        raise ConfigError(Problem(str(target), f"cannot be written: {error.strerror}")) from error


def template() -> str:
    """The file's text."""
    flow = _options(FlowConfig, "  ", skip=("backend", "models", "deploy"))
    return f"{_HEAD}{flow}  deploy:\n    engine: auto\n{_options(DeployConfig, '    ', skip=('engine',))}"


def _options(schema: type[Section], indent: str, skip: tuple[str, ...]) -> str:
    lines = []
    for name, field in schema.model_fields.items():
        if name in skip:
            continue
        default = json.dumps(field.get_default(call_default_factory=True))
        lines += [f"{indent}# {line}" for line in textwrap.wrap(field.description or "", 110 - len(indent))]
        lines.append(f"{indent}# {name}: {default}")
    return "\n".join(lines) + "\n"
