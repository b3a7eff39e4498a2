"""How a process ended, beside what its log says."""

import pytest

from evalscope_evalflow.processes import exit_reason as ending


@pytest.mark.parametrize(("text", "count"), [("nr_free_pages 7\noom_kill 3\nswap_ra 0\n", 3), ("nr_free_pages 7\n", 0)])
def test_the_kernel_counts_what_it_kills_for_lack_of_memory(tmp_path, monkeypatch, text, count):
    (tmp_path / "vmstat").write_text(text)
    monkeypatch.setattr(ending, "_VMSTAT", tmp_path / "vmstat")
    assert ending.oom_kills() == count


def test_a_kernel_that_does_not_say_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(ending, "_VMSTAT", tmp_path / "none")
    assert ending.oom_kills() == 0


def test_this_kernel_says():
    assert "\noom_kill " in ending._VMSTAT.read_text()


@pytest.mark.parametrize("code", [None, 0, 1, 126, 127, 255])
def test_an_ordinary_end_explains_nothing(code):
    assert ending.Exit(code).explain() is None
