"""Runs of several sweeps in EvalScope's dashboard."""

import made_up_run as made
import pytest

from evalscope_evalflow.results.dashboard_view import dashboard_view
from evalscope_evalflow.results.run_folders import find_runs


@pytest.fixture
def outputs(tmp_path):
    made.run(tmp_path / "outputs" / "sweep" / "a", [1], model="a")
    made.run(tmp_path / "outputs" / "single", [0], model="b")
    for run in ("sweep/a", "single"):
        (tmp_path / "outputs" / run / "configs").mkdir()
        (tmp_path / "outputs" / run / "configs" / "task_config.yaml").write_text("datasets: [d]\n")
    return tmp_path / "outputs"


def test_the_service_lists_all_runs_below_a_folder(outputs):
    from evalscope.report.data_frames import scan_report_refs

    with dashboard_view(outputs, find_runs(outputs)) as view:
        assert sorted(path.name for path in view.iterdir()) == ["single", "sweep--a"]
        refs = scan_report_refs(str(view))
        assert sorted(ref.key for ref in refs) == ["single/b", "sweep--a/a"]
        assert all((view / ref.run_id / "configs" / "task_config.yaml").is_file() for ref in refs)
    assert not view.exists()
    assert (outputs / "sweep" / "a" / "reports").is_dir()


def test_a_single_run_has_its_folders_name(outputs):
    with dashboard_view(outputs / "single", find_runs(outputs / "single")) as view:
        assert [path.name for path in view.iterdir()] == ["single"]


def test_a_run_that_a_link_leads_to_is_one(outputs):
    (outputs / "again").symlink_to(outputs / "single", target_is_directory=True)
    assert len(find_runs(outputs)) == 2
