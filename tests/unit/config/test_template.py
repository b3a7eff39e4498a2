import re

import pytest
import yaml

from evalscope_evalflow.config import DeployConfig, FlowConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.config.template import template, write_template
from evalscope_evalflow.errors import ConfigError

OPTION = re.compile(r"^(\s+)# (\w+): (.+)$", re.MULTILINE)


def test_the_template_is_a_task_that_parses():
    task = Task.parse(yaml.safe_load(template()))
    assert task.datasets == ["general_mcq"]  # scored by letters: a right answer is right
    assert task.flow.backend == "Native"


@pytest.mark.parametrize("schema", [FlowConfig, DeployConfig])
def test_every_option_is_in_the_template_with_its_meaning(schema):
    flat = " ".join(template().replace("#", " ").split())
    for name, field in schema.model_fields.items():
        if name in ("dry_run", "mode"):  # `evalflow check` is the way; there is one mode so far
            continue
        assert re.search(rf"^\s*(# )?{name}:", template(), re.MULTILINE), name
        if name not in ("backend", "models", "deploy", "engine"):  # shown by an example
            assert f"{field.description} {name}:" in flat


def options():
    return [match.group(0) for match in OPTION.finditer(template()) if match[2] in DeployConfig.model_fields]


def test_the_options_of_deploy_are_all_there():
    assert len(options()) == len(DeployConfig.model_fields) - 1  # `engine` is not commented out


@pytest.mark.parametrize("line", options())
def test_a_line_with_its_comment_sign_removed_changes_nothing(line):
    edited = template().replace(line, line.replace("# ", "", 1))
    assert edited != template()
    flow = Task.parse(yaml.safe_load(edited)).flow
    assert flow == Task.parse(yaml.safe_load(template())).flow


def test_all_options_of_the_section_work_uncommented():
    names = {"worker_env", "reuse"}
    edited = OPTION.sub(lambda m: f"{m[1]}{m[2]}: {m[3]}" if m[2] in names else m[0], template())
    flow = Task.parse(yaml.safe_load(edited)).flow
    assert names <= flow.model_fields_set
    assert (flow.mode, flow.reuse) == ("all", True)


def test_a_file_that_is_there_is_kept(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        write_template(path)
    assert path.read_text() == "mine"


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        write_template(tmp_path / "none" / "mine.yaml")
