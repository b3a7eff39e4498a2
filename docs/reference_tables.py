"""The reference tables of the docs, made from the code when the site is built.

A line `<!-- table: NAME -->` in a page stands for the table of that name. MkDocs calls `on_page_markdown`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pydantic_core import PydanticUndefined

from evalscope_evalflow.cli.command_line import COMMANDS
from evalscope_evalflow.cli.flags import FLAGS
from evalscope_evalflow.cli.json_documents import ENVELOPE, FIELDS
from evalscope_evalflow.config.flag_hints import COMMAND_ONLY, FLAG_PLACES
from evalscope_evalflow.config.section import DeployConfig, FlowConfig, ModelConfig, Section
from evalscope_evalflow.config.setting_effects import MEANINGS, TABLE, Effect, effect_of
from evalscope_evalflow.config.watch_settings import WatchConfig, WatchGate
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.engines.options import text_effects
from evalscope_evalflow.errors import ExitCode

ENGINES = ("vllm", "lmdeploy", "sglang", "llamacpp")
MARK = re.compile(r"<!-- table: ([a-z-]+) -->")

EXIT_CODE_MEANINGS = {
    ExitCode.COMPLETE: "every score is there and covers every sample",
    ExitCode.FAILED: "a model failed, or something of an engine could not be released",
    ExitCode.BAD_CONFIG: "the configuration is wrong; nothing was started",
    ExitCode.INCOMPLETE: "finished, but a score is missing or does not cover every sample",
    ExitCode.BLOCKED: "`evalflow gate`, or the gate of `evalflow watch`: a score fell by more than is allowed",
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


def watch_keys() -> str:
    """The keys of `watch`."""
    return _keys(WatchConfig)


def watch_gate_keys() -> str:
    """The keys of `watch.gate`."""
    return _keys(WatchGate)


def commands() -> str:
    """The commands of `evalflow`."""
    return _table(("command", "what it does"), [(f"`evalflow {name}`", text) for name, text in COMMANDS.items()])


def exit_codes() -> str:
    """The exit codes, and what they mean."""
    return _table(("code", "name", "meaning"), [(str(int(c)), c.name, EXIT_CODE_MEANINGS[c]) for c in ExitCode])


def effects_task() -> str:
    """What the fields of a stock task change."""
    return _effects("")


def effects_parts() -> str:
    """What the keys of its mappings change."""
    return _effects("generation_config", "dataset_args.NAME", "judge", "judge.models[]", "judge.contract", "sandbox")


def effects_section() -> str:
    """What the section's keys change."""
    return _effects(
        "evalflow",
        "evalflow.reuse",
        "evalflow.models[]",
        "evalflow.judge",
        "evalflow.deploy",
        "evalflow.watch",
        "evalflow.watch.gate",
    )


def effects_flags() -> str:
    """What the flags change: the same as the settings that they stand for."""
    rows = []
    for flag in FLAGS:
        places = FLAG_PLACES.get(flag.name, (f"evalflow.{flag.name}",))
        effect = Effect.NEITHER if flag.name in COMMAND_ONLY else effect_of(places[0])
        stands_for = "" if flag.name in COMMAND_ONLY else ", ".join(f"`{place}`" for place in places)
        rows.append((f"`--{flag.name}`", stands_for, effect.value))
    return _table(("flag", "stands for", "changes"), rows)


def effects_engines() -> str:
    """What each engine's own options and variables do not change."""
    rows = []
    for name in ENGINES:
        engine = load_engine(name)
        rows.append((f"`{name}`", *map(_names, (engine.neutral_options, engine.parallel_options)),
                     _names(engine.neutral_variables)))  # fmt: skip
    rows.append(("any", "", "", _names(text_effects.VARIABLES)))
    return _table(("engine", "options: neither", "options: recorded", "variables: neither"), rows)


def effects() -> str:
    """What the words of the other tables mean."""
    return _table(("changes", "meaning"), [(f"{effect.value}", text) for effect, text in MEANINGS.items()])


def json_fields(fields: dict[str, str]) -> str:
    """The fields of a document that `--json` prints."""
    return _table(("field", "meaning"), [(f"`{path}`", text) for path, text in fields.items()])


TABLES: dict[str, Callable[[], str]] = {
    "flags": flags,
    "section-keys": section_keys,
    "model-keys": model_keys,
    "deploy-keys": deploy_keys,
    "watch-keys": watch_keys,
    "watch-gate-keys": watch_gate_keys,
    "commands": commands,
    "exit-codes": exit_codes,
    "effects": effects,
    "effects-task": effects_task,
    "effects-parts": effects_parts,
    "effects-section": effects_section,
    "effects-flags": effects_flags,
    "effects-engines": effects_engines,
    "json-envelope": lambda: json_fields(ENVELOPE),
    **{f"json-{command}": partial(json_fields, fields) for command, fields in FIELDS.items()},
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


def _effects(*places: str) -> str:
    rows = []
    for place in places:
        for name, line in TABLE[place].items():
            note = line.note or ("" if line.default in (None, {}) else f"default: `{json.dumps(line.default)}`")
            rows.append((f"`{place}.{name}`".replace("`.", "`"), note, line.effect.value))
    return _table(("setting", "", "changes"), rows)


def _names(patterns: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in patterns)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
