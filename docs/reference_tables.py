"""The reference tables of the docs, made from the code when the site is built.

A line `<!-- table: NAME -->` in a page stands for the table of that name. MkDocs calls `on_page_markdown`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic_core import PydanticUndefined

from evalscope_evalflow.cli.command_line import COMMANDS
from evalscope_evalflow.cli.flags import FLAGS
from evalscope_evalflow.config.section import DeployConfig, FlowConfig, ModelConfig, Section
from evalscope_evalflow.errors import ExitCode

MARK = re.compile(r"<!-- table: ([a-z-]+) -->")

EXIT_CODE_MEANINGS = {
    ExitCode.COMPLETE: "every score is there and covers every sample",
    ExitCode.FAILED: "a model failed, or something of an engine could not be released",
    ExitCode.BAD_CONFIG: "the configuration is wrong; nothing was started",
    ExitCode.INCOMPLETE: "finished, but a score is missing or does not cover every sample",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C, a signal or `evalflow stop`; saved answers are kept",
}


def flags() -> str:
    """Every flag of `evalflow`."""
    rows = []
    for flag in FLAGS:
        default = "" if flag.default is None else flag.default
        default = " ".join(default) if isinstance(default, list) else str(default)
        several = " (several)" if flag.several else ""
        rows.append((f"`--{flag.name}`{several}", default, flag.help))
    return _table(("flag", "default", "meaning"), rows)


def section_keys() -> str:
    """The keys of the `evalflow` section."""
    return _keys(FlowConfig)


def model_keys() -> str:
    """The keys of an entry of `models`."""
    return _keys(ModelConfig)


def deploy_keys() -> str:
    """The keys of `deploy`."""
    return _keys(DeployConfig)


def commands() -> str:
    """The commands of `evalflow`."""
    return _table(("command", "what it does"), [(f"`evalflow {name}`", text) for name, text in COMMANDS.items()])


def exit_codes() -> str:
    """The exit codes, and what they mean."""
    return _table(("code", "name", "meaning"), [(str(int(c)), c.name, EXIT_CODE_MEANINGS[c]) for c in ExitCode])


TABLES: dict[str, Callable[[], str]] = {
    "flags": flags,
    "section-keys": section_keys,
    "model-keys": model_keys,
    "deploy-keys": deploy_keys,
    "commands": commands,
    "exit-codes": exit_codes,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its tables in it.

    Raises:
        KeyError: a page names a table that does not exist.
    """
    return MARK.sub(lambda found: TABLES[found[1]](), markdown)


def _keys(schema: type[Section]) -> str:
    rows = []
    for name, field in schema.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Section):
            shown = "see below"
        else:
            shown = "required" if default is PydanticUndefined else f"`{json.dumps(default)}`"
        rows.append((f"`{name}`", shown, field.description or ""))
    return _table(("key", "default", "meaning"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
