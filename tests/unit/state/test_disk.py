"""An OSError that ends a run is told of what it is about, and not of the run folder in any case."""

import errno
import os

import pytest

from evalscope_evalflow.state import disk


def told(folder, number, filename=None):
    names = () if filename is None else (str(filename),)
    return str(disk.explain(folder, OSError(number, os.strerror(number), *names)))


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.ENOSPC, "Make room, and run the same command"),
        (errno.EDQUOT, "Make room (your quota is used up)"),
        (errno.EROFS, "Make it writable"),
    ],
)
def test_a_write_that_fails_is_of_the_run_folder(tmp_path, number, todo):
    message = told(tmp_path, number)
    assert message.startswith(f"{tmp_path} cannot be written: {os.strerror(number)}")
    assert todo in message
    assert (" MB free)" in message) == (number == errno.ENOSPC)


def test_a_file_in_the_run_folder_is_too(tmp_path):
    message = told(tmp_path, errno.EACCES, tmp_path / "evalflow" / "run.json")
    assert message.startswith(f"{tmp_path / 'evalflow' / 'run.json'} cannot be read or written: Permission denied")
    assert "Make it writable, and run the same command again" in message


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_is_told_of(tmp_path, number):
    message = told(tmp_path, number, tmp_path / "evalflow" / "run.json")
    assert message.startswith(f"{tmp_path / 'evalflow' / 'run.json'} cannot be read or written: {os.strerror(number)}")
    assert "See to the" in message
    assert told(tmp_path, number).startswith(f"{tmp_path} cannot be read")


def test_a_full_disk_elsewhere_is_named(tmp_path):
    """As of temporary files."""
    message = told(tmp_path / "work", errno.ENOSPC, tmp_path / "scratch" / "evalflow-x")
    assert message.startswith(f"{tmp_path / 'scratch' / 'evalflow-x'} cannot be written: No space left on device (")
    assert str(tmp_path / "work") not in message


def test_a_file_elsewhere_that_may_not_be_used_is_named(tmp_path):
    message = told(tmp_path / "work", errno.EACCES, tmp_path / "env" / "bin" / "python")
    assert message.startswith(f"{tmp_path / 'env' / 'bin' / 'python'}: Permission denied")
    assert "writ" not in message


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.EPERM])
def test_what_is_about_no_file_says_so(tmp_path, number):
    message = told(tmp_path, number)
    assert message.startswith(
        f"[Errno {number}] {os.strerror(number)}\n    See to that, and run the same command again"
    )
