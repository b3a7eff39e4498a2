"""Standard streams that break: each in a process of its own."""

import os
import subprocess
import sys

import pytest

SAY = """
import sys
from evalscope_evalflow.display.output_streams import steady_output
steady_output()
from rich.console import Console
from evalscope_evalflow.display.reporter import Reporter, _pass_on
for number in range(3000):
    print("a line → 模型", number)
Console().print("[bold]x[/bold] →")
Reporter().log("y → \\ud83d")
_pass_on("z → \\n".encode())
sys.stdout.flush()
sys.exit(3)
"""


def run(**options):
    return subprocess.run([sys.executable, "-c", SAY], stderr=subprocess.PIPE, text=True, timeout=60, **options)


def test_a_reader_that_goes_does_not_end_the_command():
    code = f"{sys.executable} -c '{SAY}' | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", ">&- 2>&-", "> /dev/full"])
def test_a_closed_stream_and_a_full_disk_do_not_end_it_either(closed):
    command = ["bash", "-c", f"{sys.executable} -c '{SAY}' {closed}"]
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, timeout=60)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert ("cannot be written: No space left on device" in done.stderr) == ("full" in closed)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_a_character_does_not_end_it(encoding):
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run(env=environ, stdout=subprocess.DEVNULL)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
