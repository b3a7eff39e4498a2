"""The reference pages have everything: each flag, key, exit code and public name."""

from __future__ import annotations

import re
import sys

import pytest
from doc_blocks import PAGES, ROOT

import evalscope_evalflow
from evalscope_evalflow.cli.command_line import COMMANDS
from evalscope_evalflow.cli.flags import FLAGS
from evalscope_evalflow.cli.json_documents import ENVELOPE, FIELDS
from evalscope_evalflow.config.section import DeployConfig, FlowConfig, ModelConfig
from evalscope_evalflow.config.setting_effects import TABLE, Effect
from evalscope_evalflow.config.watch_settings import WatchConfig, WatchGate
from evalscope_evalflow.engines import known_engines
from evalscope_evalflow.errors import ExitCode

sys.path.insert(0, str(ROOT / "docs"))
import reference_tables

EXPECTED = {
    "flags": [f"--{flag.name}" for flag in FLAGS],
    "section-keys": list(FlowConfig.model_fields),
    "model-keys": list(ModelConfig.model_fields),
    "deploy-keys": list(DeployConfig.model_fields),
    "watch-keys": list(WatchConfig.model_fields),
    "watch-gate-keys": list(WatchGate.model_fields),
    "commands": [f"evalflow {name}" for name in COMMANDS],
    "exit-codes": [str(int(code)) for code in ExitCode],
}
EXPECTED |= {
    "effects": [effect.value for effect in Effect],
    "effects-task": list(TABLE[""]),
    "effects-parts": [
        f"{place}.{name}" for place in TABLE if place and not place.startswith("evalflow") for name in TABLE[place]
    ],
    "effects-section": [f"{place}.{name}" for place in TABLE if place.startswith("evalflow") for name in TABLE[place]],
    "effects-flags": [f"--{flag.name}" for flag in FLAGS],
    "effects-engines": ["vllm", "lmdeploy", "sglang", "llamacpp", "any"],
    "json-envelope": list(ENVELOPE),
    **{f"json-{command}": list(fields) for command, fields in FIELDS.items()},
}


@pytest.mark.parametrize("name", reference_tables.TABLES)
def test_a_table_has_a_row_for_each(name: str) -> None:
    head, line, *rows = reference_tables.TABLES[name]().splitlines()
    assert [row.split("|")[1].split(" (")[0].strip(" `") for row in rows] == EXPECTED[name]
    columns = head.count("|")
    assert all(len(re.findall(r"(?<!\\)\|", row)) == columns for row in (line, *rows))


def test_every_meaning_is_given() -> None:
    for name, table in reference_tables.TABLES.items():
        for row in table().splitlines()[2:]:
            assert re.split(r"(?<!\\)\|", row)[-2].strip(), f"{name}: {row}"


def test_every_table_is_on_a_page_and_every_mark_has_a_table() -> None:
    shown = {name for page in PAGES for name in reference_tables.MARK.findall(page.read_text())}
    assert shown == set(reference_tables.TABLES)


def test_every_mark_on_a_page_is_replaced() -> None:
    page = (ROOT / "docs" / "reference" / "section-keys.md").read_text()
    made = reference_tables.on_page_markdown(page)
    assert "<!--" not in made
    assert "| `keep_alive_s` |" in made


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    documented = {line.rpartition(".")[2] for line in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    public = {name for name in evalscope_evalflow.__all__ if not name.startswith("__")}
    assert public <= documented


def test_every_engine_is_in_the_table() -> None:
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "how-to" / "your-own-model.md").read_text(), re.MULTILINE)
    assert {"vllm", "lmdeploy", "sglang", "llamacpp", "remote"} == set(table)
    assert set(table) <= set(known_engines())
