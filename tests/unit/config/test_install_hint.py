"""A hint to install something of ours names where this copy came from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalscope_evalflow.config import install_hint
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.install_hint import direct_url, install_command, requirement


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts metadata of a copy of this package before the real one's."""

    def install(source):
        info = tmp_path / "site" / "evalscope_evalflow-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evalscope-evalflow\nVersion: 0.1.0\n")
        if source is not None:
            text = source if isinstance(source, str) else json.dumps(source)
            (info / "direct_url.json").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


def hint(extra="vllm"):
    return install_command(extra).split(" install ")[1]


def test_from_an_index_it_is_the_package(installed):
    installed(None)
    assert hint() == "'evalscope-evalflow[vllm]'"
    assert hint("") == "evalscope-evalflow"


def test_from_a_folder_it_is_the_folder(installed, tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert hint() == f"'{folder}[vllm]'"


def test_from_an_editable_folder_it_is_that_and_editable(installed, tmp_path):
    installed({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    assert hint() == f"-e '{tmp_path}[vllm]'"


def test_from_a_folder_that_is_gone_it_is_the_package(installed, tmp_path):
    installed({"url": (tmp_path / "gone").as_uri(), "dir_info": {}})
    assert hint() == "'evalscope-evalflow[vllm]'"


@pytest.mark.parametrize(("revision", "at"), [("main", "main"), (None, "1234abcd")])
def test_from_a_repository_it_is_that_at_its_revision(installed, revision, at):
    info = {"vcs": "git", "commit_id": "1234abcd", **({"requested_revision": revision} if revision else {})}
    installed({"url": "https://git.example/evalflow.git", "vcs_info": info, "subdirectory": "python"})
    expected = f"evalscope-evalflow[vllm] @ git+https://git.example/evalflow.git@{at}#subdirectory=python"
    assert hint() == f"'{expected}'"


def test_from_an_archive_it_is_that(installed, tmp_path):
    wheel = tmp_path / "evalscope_evalflow-0.1.0-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {"hash": "sha256=00"}})
    assert hint() == f"'evalscope-evalflow[vllm] @ {wheel.as_uri()}'"
    assert requirement({"url": "file:///none.whl", "archive_info": {}}) == ["evalscope-evalflow"]
    url = "https://files.example/evalflow.whl"
    assert requirement({"url": url, "archive_info": {}}, "demo") == [f"evalscope-evalflow[demo] @ {url}"]


def test_no_password_is_in_a_hint():
    source = {"url": "https://me:secret@git.example/e.git", "vcs_info": {"vcs": "git", "commit_id": "1"}}
    assert requirement(source) == ["evalscope-evalflow @ git+https://git.example/e.git@1"]
    source["url"] = "ssh://git@git.example/e.git"
    assert requirement(source) == ["evalscope-evalflow @ git+ssh://git@git.example/e.git@1"]


@pytest.mark.parametrize("broken", ["", "[]", "{"])
def test_what_cannot_be_read_is_no_source(installed, broken):
    installed(broken)
    assert direct_url() == {}
    assert hint() == "'evalscope-evalflow[vllm]'"


def test_another_environment_is_installed_in_by_its_own_installer(installed, make_env):
    installed(None)
    env = Environment.find(str(make_env()))
    assert install_command("vlmeval", env) == f"{env.python} -m pip install 'evalscope-evalflow[vlmeval]'"


def test_the_hint_of_this_copy_is_understood_by_pip(tmp_path):
    """For real, without a network: pip resolves the source's name and version, and installs nothing."""
    words = [word for word in requirement(direct_url()) if word != "-e"]
    if words == [install_hint.PACKAGE]:
        words = [str(Path(install_hint.__file__).parents[2])]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--ignore-installed", "--report", str(tmp_path / "report.json"), "--quiet", *words]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (found,) = json.loads((tmp_path / "report.json").read_text())["install"]
    assert found["metadata"]["name"] == install_hint.PACKAGE
