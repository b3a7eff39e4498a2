"""Wrong input of any type is refused with its place, by exit code 2 in the command; it never ends in a traceback."""

import contextlib
import copy
import io
import logging
import os

import any_input
import pytest
import yaml
from any_input import VALUES, examples
from hypothesis import example, given

from evalscope_evalflow.cli import command_line
from evalscope_evalflow.config import DeployConfig, FlowConfig, ModelConfig, catalog, plugins
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, ExitCode
from evalscope_evalflow.plugin.evalflow_backend import to_task
from evalscope_evalflow.run import preflight as preflight_module

FIELDS = sorted(catalog.task_fields(catalog.evalscope_folder(None)))


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_asked(tmp_path_factory):
    """No network, and a folder of its own; the checks of APIs have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight_module, "check_api", lambda *_: None)
        # What takes long, and looks at no input: interpreters, and the metadata of installed packages.
        patch.setattr(Environment, "why_no_module", lambda *_: "")
        patch.setattr(Environment, "dist_info", lambda *_: None)
        patch.setattr(plugins, "_check_version", lambda *_, **__: None)
        patch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield


def check(make):
    """Whether it is taken, or refused as it should be."""
    try:
        return make()
    except ConfigError as error:
        refused = error
    assert refused.problems
    assert all(problem.where and problem.what for problem in refused.problems)
    return None


@examples(3500)
@given(any_input.SECTIONS)
def test_a_section(data):
    check(lambda: FlowConfig.parse(data, "evalflow"))


@examples(1000)
@given(any_input.KEYS, VALUES)
def test_a_part_of_a_section_that_is_made_in_python(key, value):
    for part in (FlowConfig, DeployConfig, ModelConfig):
        known = list(part.model_fields)
        check(lambda part=part, known=known: part(**{known[len(repr(value)) % len(known)]: value, str(key): value}))


@examples(1500)
@given(any_input.tasks(FIELDS))
def test_a_task_in_python(data):
    task = check(lambda: Task.parse(data))
    if task is not None:
        check(lambda: preflight_module.preflight(task))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("file") / "task.yaml"


def exit_code(words):
    """The exit code of a command, and what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = command_line.main(words)
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue()


@examples(500)
@given(any_input.tasks(FIELDS))
def test_a_task_in_a_file(file, data):
    file.write_bytes(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "backslashreplace"))
    code, said = exit_code(["check", str(file)])
    assert code in (ExitCode.COMPLETE, ExitCode.BAD_CONFIG), said
    assert "Traceback" not in said


@examples(700)
@given(
    any_input.st.binary(max_size=60) | any_input.st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
@example(b"a: 1\nb: [\n")
def test_a_file_of_anything(file, content):
    file.write_bytes(content)
    code, said = exit_code(["check", str(file)])
    assert code == ExitCode.BAD_CONFIG
    assert str(file) in said or ":" in said


@examples(300)
@given(any_input.FLAGS)
def test_flags(flags):
    code, said = exit_code(any_input.argv(flags))
    assert code in (ExitCode.COMPLETE, ExitCode.BAD_CONFIG), said


@pytest.fixture(scope="module")
def task_config():
    """EvalScope's, with what it says of each that it takes left out."""
    import evalscope.run  # noqa: F401 - attaches us
    from evalscope import TaskConfig

    logging.getLogger("evalscope").setLevel(logging.ERROR)
    return TaskConfig


@example({**any_input.GOOD[1], "dataset_args": {"general_mcq": {"few_shot_num": b"\x80"}}})
@examples(500)
@given(any_input.tasks(FIELDS).filter(lambda data: all(isinstance(name, str) for name in data)))
def test_a_task_config(task_config, data):
    check(lambda: to_task(task_config(**data)))


@pytest.mark.parametrize("base", range(len(any_input.GOOD)))
@pytest.mark.parametrize("text", ["~0", "~nobody-here/x", "x" * 5000, "/" + "x" * 5000, "a/b\0c", "\x80", "/\ud83d/x"])
def test_a_path_that_no_file_system_can_hold_at_any_place(base, text):
    """Every place in turn: hypothesis puts few of these into few places."""
    for place in any_input.places(FIELDS):
        data = copy.deepcopy(any_input.GOOD[base])
        any_input.put(data, place, text)
        task = check(lambda data=data: Task.parse(data))
        if task is not None:
            check(lambda task=task: preflight_module.preflight(task))


@pytest.mark.parametrize("text", any_input.SPECIAL, ids=os.path.basename)
def test_what_is_no_ordinary_file_at_any_place(text):
    """A check that opens a pipe, or a device, may wait for ever."""
    for place in any_input.places(FIELDS):
        if place == ("evalflow",) and "pipe" in text:
            continue  # the section's file may be one, as shells make them
        data = copy.deepcopy(any_input.GOOD[-1])
        any_input.put(data, place, text)
        task = check(lambda data=data: Task.parse(data))
        if task is not None:
            check(lambda task=task: preflight_module.preflight(task))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge": {"models": [None]}}, "judge.models.0: is no mapping (nothing)"),
        ({"judge": {"contract": True}}, "judge.contract: is no mapping (true or false)"),
        ({"judge": {"models": 3}}, "judge.models: is no list (a number)"),
        ({"dataset_args": {0: {}}}, "dataset_args.0: is no name of a benchmark"),
        ({"dataset_args": {"general_mcq": {"local_path": ["x"]}}}, "dataset_args.general_mcq.local_path: is no text"),
        ({"dataset_args": {"general_mcq": {"subset_list": "t"}}}, "dataset_args.general_mcq.subset_list: is no list"),
        ({"work_dir": 3}, "work_dir: is no text (a number)"),
        ({1: 2}, "1: is a key that is no text (int)"),
        ({"evalflow": ""}, "the name of the file: cannot be read"),
    ],
)
def test_a_shape_that_is_none_is_told_with_its_place(change, said):
    with pytest.raises(ConfigError) as caught:
        Task.parse({**any_input.GOOD[0], **change})
    assert said in str(caught.value)


def test_paths_in_python_may_be_path_objects(tmp_path):
    settings = {"general_mcq": {"local_path": tmp_path}}
    task = Task.parse({**any_input.GOOD[0], "work_dir": tmp_path, "dataset_args": settings})
    assert task.work_dir == tmp_path
