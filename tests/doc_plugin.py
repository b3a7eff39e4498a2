"""Examples of plug-ins in the documentation, made into a package that another process can import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

DOCS = Path(__file__).parents[1] / "docs" / "contributing"


def run_example(page: str, folder: Path, *, timeout_s: float, **replace: str) -> set[str]:
    """Install the example of a page, and run its suite in a process of its own.

    The page's Python blocks are the plug-in, under the name that the entry point gives its module, and the tests.

    Args:
        page: its file in docs/contributing.
        folder: where the package is put.
        timeout_s: seconds that the suite may take.
        replace: texts in the tests, and what to put in their place.

    Returns:
        The names of the tests that ran; all of them have passed.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    plugin, suite = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    entry = re.search(r'^\[project\.entry-points\."(.+?)"\]\n(\w+) = "(\w+):(\w+)"', text, re.MULTILINE)
    assert entry is not None
    group, name, module, kind = entry.groups()
    metadata = folder / "my_package-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{kind}\n")
    (folder / f"{module}.py").write_text(plugin)
    for old, new in replace.items():
        assert old in suite, old
        suite = suite.replace(old, new)
    (folder / "test_example.py").write_text(suite)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml", "test_example.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {str(case.get("name")) for case in ElementTree.parse(folder / "report.xml").iter("testcase")}


def names_of_tests(suite: type) -> set[str]:
    """The names of a suite's tests."""
    return {name for name in dir(suite) if name.startswith("test_")}
