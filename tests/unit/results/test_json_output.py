"""The envelope that every command's `--json` prints, and that nothing else is printed with it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from evalscope_evalflow.errors import ConfigError, EngineError, Problem
from evalscope_evalflow.results import json_output


class Mark(Enum):
    A = "a"


@dataclass
class Inner:
    path: Path
    mark: Mark


def test_the_envelope_names_schema_and_version_and_exit_code():
    assert json_output.document("check", {"models": []}, 3) == {
        "schema": "evalflow.check/1",
        "exit_code": 3,
        "error": None,
        "models": [],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float64(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(3), 3),
        (np.array([1, 2]), [1, 2]),
        ((1, "a"), [1, "a"]),
        ({Mark.A: {"x": True}}, {"a": {"x": True}}),
        (Inner(Path("/a/b"), Mark.A), {"path": "/a/b", "mark": "a"}),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00+00:00"),
    ],
    ids=repr,
)
def test_values_become_what_json_has(value, expected):
    assert json_output.document("x", {"value": value})["value"] == expected


def test_what_has_no_form_in_json_is_a_mistake_of_ours():
    with pytest.raises(TypeError, match="object has no form"):
        json_output.document("x", {"value": object()})


def test_texts_of_models_are_printed_as_ascii(capsys):
    json_output.print_document("x", {"text": "größer \ud83d <script>"})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert json.loads(shown)["text"] == "größer \ud83d <script>"


def test_with_a_document_alone_everything_else_goes_to_standard_error(capsys):
    with json_output.alone("ps"):
        print("a word")
        json_output.print_document("ps", {"runs": []})
        print("another")
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"] == "evalflow.ps/1"
    assert err == "a word\nanother\n"
    print("and as before")
    assert capsys.readouterr().out == "and as before\n"


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (ConfigError(Problem("here", "wrong", "Mend it.")), 2, "ConfigError"),
        (EngineError("it died"), 1, "EngineError"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError"),
    ],
)
def test_what_ends_a_command_is_a_document_too(capsys, error, code, kind):
    with pytest.raises(type(error)), json_output.alone("run"):
        raise error
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["exit_code"], found["error"]["kind"]) == ("evalflow.run/1", code, kind)
    wrong = [{"where": "here", "what": "wrong", "todo": "Mend it."}] if code == 2 else []
    assert found["error"]["problems"] == wrong


def test_there_is_one_document_also_where_a_command_fails_after_it(capsys):
    def fail_late():
        json_output.print_document("run", {"models": []})
        raise EngineError("late")

    with pytest.raises(EngineError), json_output.alone("run"):
        fail_late()
    assert json.loads(capsys.readouterr().out)["error"] is None


def test_what_children_and_libraries_write_to_the_descriptor_is_not_in_it():
    code = """
import os, subprocess, sys
from evalscope_evalflow.results import json_output
with json_output.alone("x"):
    os.write(1, b"from a library\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    json_output.print_document("x", {})
print("after")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    document, _, after = done.stdout.rpartition("}\n")
    assert json.loads(document + "}")["schema"] == "evalflow.x/1"
    assert after == "after\n"
    assert done.stderr == "from a library\nfrom a child\n"
