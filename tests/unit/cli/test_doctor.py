"""What `evalflow doctor` finds, right and wrong."""

import io
import subprocess
import sys
import time
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from rich.console import Console
from serving_fixtures import bystander

from evalscope_evalflow import __version__
from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.cli import doctor
from evalscope_evalflow.cli.doctor import BAD, GOOD, NOTE
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.devices.nvml import Device, DeviceProcess
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.processes import registry

GIB = 1024**3


def found(env=None):
    """Findings by what they are about; several of the same as a list would be a fault of the test."""
    return {finding.what: finding for finding in doctor.examine(env)}


def shown(env=None):
    """(whether all is well, what is printed)."""
    out = io.StringIO()
    well = doctor.show_findings(env, Console(file=out, width=200))
    return well, out.getvalue()


def test_this_installation_is_well():
    well, text = shown()
    assert well
    assert f"✓ EvalFlow: {__version__}, Python" in text
    assert "✓ EvalScope: 1." in text
    assert "✓ Plugin: attaches to EvalScope at every start of this Python" in text
    assert "Engine llamacpp: 20" in text
    assert "✓ Engine remote: nothing to install" in text
    assert "✓ Runs: 0 at work" in text
    assert "✓ Left behind: nothing" in text


def test_as_a_command_it_is_quick_and_imports_nothing_slow():
    code = (
        "import sys; from evalscope_evalflow import cli; code = cli.main(['doctor'])\n"
        "print(code, [n for n in ('evalscope', 'torch', 'transformers', 'pandas', 'openai') if n in sys.modules])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 15  # 1.6 s where nothing else runs
    assert done.stdout.splitlines()[-1] == "0 []"


class TestEvalScope:
    def test_supported_versions_are_those_of_the_package(self):
        (wanted,) = [Requirement(line) for line in requires("evalscope-evalflow") if line.startswith("evalscope<")]
        specifiers = wanted.specifier
        for version in ("1.10.9", "1.11", "1.11.0", "1.14.1", "1.99", "2.0", "2.0.1", "0.9"):
            least, below = doctor.SUPPORTED
            assert (version in specifiers) == (least <= doctor._numbers(version) < below), version

    @pytest.mark.parametrize("version", ["1.10.2", "2.0.0", "0.17"])
    def test_another_version(self, monkeypatch, version):
        monkeypatch.setattr(doctor, "_version", lambda name: version)
        finding = found()["EvalScope"]
        assert finding.state == BAD
        assert finding.found == f"{version} is not supported"
        assert finding.todo == "pip install 'evalscope>=1.11,<2'"

    def test_none(self, monkeypatch):
        monkeypatch.setattr(doctor, "_version", lambda name: "")
        assert found()["EvalScope"].state == BAD
        assert cli.main(["doctor"]) == 1


class TestPlugin:
    def test_switched_off(self, monkeypatch):
        monkeypatch.setenv("EVALFLOW_DISABLE", "1")
        finding = found()["Plugin"]
        assert finding.state == NOTE
        assert "switched off by EVALFLOW_DISABLE" in finding.found

    def test_its_start_up_file_is_missing(self, monkeypatch, tmp_path):
        """As in an environment that has only the source tree on its path."""
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        finding = doctor._plugin()
        assert finding.state == BAD
        assert "is missing in site-packages" in finding.found
        assert "pip install" in finding.todo

    def test_its_start_up_file_was_not_read(self, monkeypatch, tmp_path):
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        finding = doctor._plugin()
        assert (finding.state, "was not read" in finding.found) == (BAD, True)


class TestEngines:
    def test_what_is_not_installed_is_no_fault(self, monkeypatch):
        monkeypatch.setattr(doctor, "_ask", lambda place, modules: dict.fromkeys(modules))
        finding = found()["Engine llamacpp"]
        assert finding.state == NOTE
        assert finding.found == f"not installed in {sys.prefix}"
        assert finding.todo == install_command("llamacpp")
        assert shown()[0]

    def test_another_environment(self):
        """Here, this one under another name."""
        findings = list(doctor.examine(sys.executable))
        places = [f for f in findings if f.what == "Environment"]
        assert [place.state for place in places] == [GOOD]
        assert f"Python {sys.version.split()[0]}" in places[0].found
        both = [f.found.split()[0] for f in findings if f.what == "Engine llamacpp"]
        assert len(both) == 2
        assert both[0] == both[1]

    def test_no_such_environment(self, tmp_path, capsys):
        with pytest.raises(ConfigError, match="there is no such folder"):
            list(doctor.examine(str(tmp_path / "none")))
        assert cli.main(["doctor", "--env", str(tmp_path / "none")]) == 2

    def test_an_environment_that_is_broken(self, make_env):
        prefix = make_env(has_modules=False)
        states = {f.state for f in doctor.examine(str(prefix)) if f.what == "Environment"}
        assert states == {BAD}

    def test_a_package_that_cannot_be_loaded(self, monkeypatch, tmp_path):
        info = tmp_path / "broken-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[evalflow.engines]\nbroken = no_such_module:Engine\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        finding = found()["Engine broken"]
        assert finding.state == BAD
        assert "no_such_module" in finding.found
        assert found()["Engine llamacpp"].state == GOOD  # the others are told all the same


class TestDevices:
    def test_none(self, monkeypatch):
        monkeypatch.setattr(doctor, "devices", list)
        assert found()["Devices"].state == NOTE

    def test_who_uses_them(self, monkeypatch):
        with bystander() as other:
            users = (DeviceProcess(other.pid, 3 * GIB), DeviceProcess(2**22 + 1, None))
            two = [Device(0, "GPU-a", "Big", 80 * GIB, 5 * GIB, users), Device(1, "GPU-b", "Big", 80 * GIB, 0, ())]
            monkeypatch.setattr(doctor, "devices", lambda: two)
            findings = found()
        assert (findings["Device 1"].state, findings["Device 1"].found) == (GOOD, "Big, 0.0 GiB of 80.0 GiB in use")
        used = findings["Device 0"]
        assert used.state == NOTE
        assert used.found.startswith(f"Big, 5.0 GiB of 80.0 GiB in use: PID {other.pid} (python")
        assert used.found.endswith(f"3.0 GiB; PID {2**22 + 1}")


class TestBackends:
    def test_one_that_can_be_used_is_shown_with_its_versions(self):
        finding = found()["Native"]
        assert finding.state == GOOD
        assert finding.found.startswith("can be used (evalscope 1.")

    def test_one_that_cannot_be_used_here_is_a_note_with_what_to_do(self, monkeypatch):
        monkeypatch.setattr("evalscope_evalflow.config.catalog.vlmevalkit_folder", lambda worker_env=None: None)
        finding = found()["VLMEvalKit"]
        assert finding.state == NOTE
        assert "vlmeval]" in finding.todo


class TestRuns:
    def test_what_is_left_behind_is_told_and_stays(self, monkeypatch):
        registry.Registration("run-1", model="m")
        assert found()["Runs"].found == "1 at work (evalflow ps)"
        monkeypatch.setattr(registry.ProcessId, "lives", property(lambda self: False))
        finding = found()["Left behind"]
        assert finding.state == NOTE
        assert "by run run-1 (m)" in finding.found
        assert finding.todo == "evalflow clean"
        assert len(registry.entries()) == 1

    def test_a_registry_that_cannot_be_read(self):
        registry.folder().chmod(0o777)
        assert found()["Runs"].state == BAD


def test_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    findings = found()
    assert findings["Cache of Hugging Face"].found.startswith(f"{tmp_path}/hf (empty), ")
    assert findings["Cache of ModelScope"].found.startswith(f"{tmp_path}, ")
    assert findings["Cache of EvalFlow"].found.endswith(" GiB free")


def test_little_shared_memory(monkeypatch):
    usage = doctor.shutil.disk_usage("/")._replace(total=64 * 1024**2)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert found()["/dev/shm"].found == "holds 0.1 GiB"


@pytest.mark.parametrize(
    ("text", "numbers"), [("1.14.1", (1, 14, 1)), ("2.0rc1", (2,)), ("1.14.1.dev0", (1, 14, 1)), ("x", (0,))]
)
def test_numbers(text, numbers):
    assert doctor._numbers(text) == numbers
