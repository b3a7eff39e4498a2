"""`evalflow compare` and `evalflow gate` on folders: what they print, write and refuse."""

import csv
import io
import json
from xml.etree import ElementTree

import made_up_run
import pytest

from evalscope_evalflow.cli import main
from evalscope_evalflow.cli.comparison_fields import COMPARE, GATE

ENVELOPE = ("schema", "exit_code", "error")
POLICY = "critical:\n  qa: {max_drop: 0.02}\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A sweep of two models, and one of the same models later; both on the same 40 questions."""
    top = tmp_path_factory.mktemp("runs")
    base = [1.0, 0.0] * 20
    for sweep, tuned in (("monday", [0.0] * 12 + base[12:]), ("tuesday", [1.0] * 12 + base[12:])):
        made_up_run.run(top / sweep / "base", base, "base", "qa")
        made_up_run.run(top / sweep / "tuned", tuned, "tuned", "qa")
    made_up_run.run(top / "alone", base, "base", "qa")
    made_up_run.run(top / "other", base, "base", "code")
    for day in ("monday", "tuesday"):
        made_up_run.run(top / "all" / day / "base", base, "base", "qa")
    for name in ("first", "second"):
        made_up_run.run(top / "two" / name, base, name, "qa")
    for name in ("a", "b"):
        made_up_run.run(top / "same" / name, base, "base", "qa")
    made_up_run.run(top / "newer", base, "tuned", "qa")
    made_up_run.record(top / "newer", "tuned", schema=99)
    (top / "empty").mkdir()
    made_up_run.run(top / "torn", base, "tuned", "qa")
    torn = top / "torn" / "reviews" / "tuned" / "qa_s.jsonl"
    torn.write_bytes(torn.read_bytes()[:-200])
    made_up_run.run(top / "half", base[:20], "tuned", "qa")
    return top


@pytest.fixture
def evalflow(runs, monkeypatch, capsys):
    """Runs the command beside the folders; its exit code, output and errors, on a wide screen."""
    monkeypatch.chdir(runs)
    monkeypatch.setenv("COLUMNS", "120")

    def run(line):
        code = main(line.split())
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# --- which runs, and which baseline ---


@pytest.mark.parametrize(
    ("line", "compared"),
    [
        ("monday", {("tuned", "base")}),
        ("monday --baseline tuned", {("base", "tuned")}),
        ("monday/tuned monday/base", {("base", "tuned")}),
        ("monday/tuned --baseline monday/base", {("tuned", "base")}),
        ("monday/tuned --baseline monday:base", {("tuned", "base")}),
        ("monday --baseline tuesday:base", {("monday/base", "tuesday/base"), ("tuned", "tuesday/base")}),
        ("tuesday --baseline monday", {("tuesday/base", "monday/base"), ("tuesday/tuned", "monday/tuned")}),
        ("tuesday --baseline monday --models tuned", {("tuesday/tuned", "monday/tuned")}),
        ("monday tuesday --models tuned", {("monday/tuned", "base"), ("tuesday/tuned", "base")}),
        ("all", {("tuesday/base", "monday/base")}),
        ("all --baseline tuesday/base", {("monday/base", "tuesday/base")}),
        ("all --baseline all:tuesday/base", {("monday/base", "tuesday/base")}),
        ("monday alone --baseline alone", {("base", "alone"), ("tuned", "alone")}),
        # The same runs have the same labels in all forms.
        ("same --baseline same/a", {("b", "a")}),
        ("same --baseline same:a", {("b", "a")}),
        ("same/b --baseline same/a", {("b", "a")}),
        ("same/a same/b", {("b", "a")}),
        ("same", {("b", "a")}),
        ("same monday/base --baseline same:a", {("b", "a"), ("base", "a")}),
    ],
)
def test_the_baseline_is_a_model_a_folder_or_a_model_in_a_folder(evalflow, line, compared):
    code, out, err = evalflow(f"compare {line} --json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {(cell["run"], cell["baseline"]) for cell in found["cells"]} == compared


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("compare none", "none does not exist"),
        ("compare alone", "holds one model alone, base"),
        ("compare alone --baseline alone", "alone: is the same run as --baseline alone: base, in alone"),
        ("compare alone --baseline ./alone/", "is the same run as --baseline ./alone/"),
        ("compare monday --baseline bese", "Did you mean 'base'?"),
        ("compare monday --baseline tuesday:bese", "Did you mean 'base'?"),
        ("compare monday --baseline nowhere/x:base", "is neither a model of these folders nor a folder"),
        ("compare monday --baseline tuesday/bace", "Did you mean 'tuesday/base'?"),
        ("compare newer --baseline alone", "its record has schema 99"),
        ("compare monday/base/reports", "is a part of a run folder"),
        ("compare empty", "no run folder is in empty"),
        ("compare monday --baseline all:base", "Say which: all:monday/base, all:tuesday/base"),
        ("compare all --baseline base", "Say which: all:monday/base, all:tuesday/base"),
        ("compare monday tuesday --baseline base", "Say which: monday:base, tuesday:base"),
        ("compare half --baseline two", "two holds several models, but none is named 'tuned'"),
        ("compare monday --models tunde", "Did you mean 'tuned'?"),
        ("compare monday --datasets qaa", "Did you mean 'qa'?"),
        ("compare monday --allow jugde", "Did you mean 'judge'?"),
        ("compare monday -n 0", "-n: must be 1 or more, and is 0"),
        ("compare monday --output /nowhere/x", "cannot be written"),
        ("compare alone --baseline other", "no dataset in common"),
        ("compare half --baseline alone", "20 of 40 samples have a score in both (20 not asked in tuned)"),
        ("gate monday/tuned --policy gate.yaml", "--baseline: is required"),
        ("gate none --baseline alone --policy gate.yaml", "none does not exist"),
        ("gate monday/tuned --baseline nowhere --policy gate.yaml", "neither a model of these folders nor a folder"),
        ("gate monday/tuned --baseline monday/base --policy none.yaml", "cannot be read"),
        ("gate monday/tuned --baseline monday/base --policy empty.yaml", "names no dataset that could decide"),
        ("gate monday/tuned --baseline monday/base --policy other.yaml", "no run has such a dataset"),
    ],
)
def test_bad_input_is_refused_with_2_and_what_to_do(evalflow, runs, line, said):
    for name, text in (("gate", POLICY), ("empty", "{}"), ("other", "critical: {gsm8k: {max_drop: 0.1}}")):
        (runs / f"{name}.yaml").write_text(text)
    code, out, err = evalflow(line)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize("flag", ["--min_share 1.5", "--min_share x", "--format pdf", "--baselin base"])
def test_a_wrong_flag_ends_with_2(evalflow, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        evalflow(f"compare monday {flag}")
    assert ended.value.code == 2
    assert flag.split()[0] in capsys.readouterr().err


# --- what is printed ---


def test_the_table_says_what_was_found_and_what_it_stands_on(evalflow):
    code, out, _ = evalflow("compare monday")
    assert code == 0
    for words in (
        "tuned against base, paired sample by sample",
        "-0.1500 [-0.298, -0.034] ▼",
        "Both ends of that interval stand in place of ± where it reaches further to one side.",
        "▼",
        "0 won, 6 lost",
        "one comparison, tested at a level of 5 %",
        "What this data could have shown",
    ):
        assert words in out


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_fits_the_terminal_and_cuts_no_name(evalflow, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = evalflow("compare monday tuesday --samples")
    assert all(len(line) <= width for line in out.splitlines())
    assert "monday/tuned" in out
    assert "…" not in out


def test_samples_that_flipped_come_worst_first_with_both_answers(evalflow):
    _, out, _ = evalflow("compare tuesday --baseline monday --samples")
    assert "6 of 12 samples" not in out
    code, out, _ = evalflow("compare monday --samples -n 2")
    assert code == 0
    assert "2 of 6 samples whose scores differ, the largest falls first" in out
    assert "sample 0: 1.0000 → 0.0000" in out
    for words in ("question 0", "right answer: target 0", "said 0", "base: 1.0000", "tuned: 0.0000"):
        assert words in out


def test_what_a_terminal_would_obey_is_not_printed(evalflow, runs):
    """A model's answer may hold anything, such as a sequence that clears the screen."""
    path = runs / "rude" / "predictions" / "rude" / "qa_s.jsonl"
    made_up_run.run(runs / "rude", [0.0, *[1.0, 0.0] * 19, 1.0], "rude", "qa")
    path.write_text(path.read_text().replace("said 0", "\\u001b[2Jsaid 0"))
    for kind in ("table", "md"):
        _, out, _ = evalflow(f"compare rude --baseline alone --samples --format {kind}")
        assert "said 0" in out
        assert "\x1b" not in out


def test_markdown_csv_and_json_hold_the_same(evalflow, tmp_path):
    code, markdown, _ = evalflow("compare monday --format md --samples -n 1")
    assert code == 0
    assert "| tuned | 0.3500" in markdown
    assert "\\[-0.298, -0.034\\]" in markdown
    assert "#### qa" in markdown
    _, text, _ = evalflow("compare monday --format csv")
    (line,) = csv.DictReader(io.StringIO(text))
    _, text, _ = evalflow("compare monday --format json")
    document = json.loads(text)
    assert (document["schema"], document["exit_code"], document["error"]) == ("evalflow.compare/1", 0, None)
    (cell,) = document["cells"]
    assert float(line["difference"]) == cell["difference"] == -0.15
    assert (line["verdict"], cell["verdict"]) == ("worse", "worse")
    assert document["family"] == 1
    target = tmp_path / "comparison.md"
    evalflow(f"compare monday --format md --samples -n 1 --output {target}")
    assert target.read_text() == markdown


def test_the_samples_can_be_had_as_csv(evalflow, tmp_path):
    code, text, _ = evalflow("compare monday --samples --format csv")
    found = list(csv.DictReader(io.StringIO(text)))
    assert (code, len(found)) == (0, 6)
    assert {line["difference"] for line in found} == {"-1"}
    assert (found[0]["prompt"], found[0]["baseline_score"], found[0]["score"]) == ("question 0", "1", "0")
    assert len(list(csv.DictReader(io.StringIO(evalflow("compare monday -n 2 --format csv")[1])))) == 2


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("x.html", "<!DOCTYPE html>"),
        ("x.md", "**tuned against base"),
        ("x.csv", "run,baseline,"),
        ("x.json", '{\n  "schema"'),
        ("x.txt", "tuned against base"),
        ("x.csv --format md", "**tuned against base"),
    ],
)
def test_the_name_of_the_file_says_the_format(evalflow, tmp_path, name, begins):
    assert evalflow(f"compare monday --output {tmp_path}/{name}") == (0, "", "")
    assert (tmp_path / name.split()[0]).read_text().startswith(begins)


@pytest.mark.parametrize(
    "line",
    ["monday tuesday --baseline base", "all --baseline base", "same --baseline base", "monday same --baseline base"],
)
def test_each_baseline_that_is_offered_works(evalflow, line):
    code, _, err = evalflow(f"compare {line}")
    assert code == 2
    folders = line.partition(" --")[0]
    for form in err.partition("Say which: ")[2].strip().split(", "):
        assert evalflow(f"compare {folders} --baseline {form}")[0] == 0


def test_a_torn_row_is_left_out_and_counted(evalflow):
    code, out, _ = evalflow("compare torn --baseline alone")
    assert code == 0
    assert "over 39 of 40 samples, 97.5% (1 not scored in tuned)" in out
    code, _, err = evalflow("compare torn --baseline alone --min_share 1")
    assert code == 2
    assert "39 of 40 samples have a score in both" in err


def test_html_is_one_page(evalflow, tmp_path):
    target = tmp_path / "comparison.html"
    assert evalflow(f"compare monday --format html --output {target}")[0] == 0
    text = target.read_text()
    assert text.startswith("<!doctype html>") or text.startswith("<!DOCTYPE html>")
    assert "0 won, 6 lost" in text


def test_the_report_says_whether_less_is_better(evalflow, runs):
    for name, scores in (("good", [0.0, 1.0] * 10), ("worse", [1.0] * 20)):
        made_up_run.run(runs / "wer" / name, scores, name, "speech")
        path = runs / "wer" / name / "reports" / name / "speech.json"
        report = json.loads(path.read_text())
        report["metrics"][0]["semantics"]["direction"] = "lower_is_better"
        path.write_text(json.dumps(report))
    (cell,) = json.loads(evalflow("compare wer --baseline good --json --samples")[1])["cells"]
    assert (cell["verdict"], cell["difference"], cell["wins"], cell["losses"]) == ("worse", 0.5, 0, 10)


def test_some_refused_cells_make_3(evalflow, runs):
    code, out, _ = evalflow("compare half monday --baseline monday:base")
    assert code == 3
    assert "not compared: 20 of 40 samples have a score in both" in out
    assert evalflow("compare half --baseline alone --min-share 0.5")[0] == 0


def fields(tree, known, here=""):
    """The fields of a document, as deep as the reference knows them."""
    if here in known or not isinstance(tree, (dict, list)):
        return {here}
    if isinstance(tree, list):
        return {path for item in tree for path in fields(item, known, f"{here}[]")}
    return {path for key, item in tree.items() for path in fields(item, known, f"{here}.{key}".lstrip("."))}


def test_every_field_of_the_documents_is_in_the_reference(evalflow, runs):
    (runs / "gate.yaml").write_text(POLICY)
    for line, known in (
        ("compare monday half --baseline base --samples", COMPARE),
        ("gate monday/tuned --baseline monday/base --policy gate.yaml", GATE),
    ):
        document = json.loads(evalflow(f"{line} --json")[1])
        have = fields({key: item for key, item in document.items() if key not in ENVELOPE}, known)
        empty = {name for name in known if name.startswith(("missing[]", "differences[]")) or "remarks[]" in name}
        assert have | empty == set(known)


def test_a_refusal_is_a_document_as_well(evalflow):
    code, out, err = evalflow("compare monday --baseline bese --json")
    document = json.loads(out)
    assert (code, document["exit_code"], document["schema"]) == (2, 2, "evalflow.compare/1")
    assert document["error"]["problems"][0]["where"] == "--baseline"
    assert "Did you mean 'base'?" in err


# --- the gate ---


@pytest.mark.parametrize(
    ("line", "drop", "code"),
    [
        ("gate monday/tuned --baseline monday/base", 0.02, 4),
        ("gate tuesday/tuned --baseline monday/base", 0.02, 0),
        ("gate alone --baseline monday:base", 0.02, 3),
        ("gate alone --baseline monday:base", 0.2, 0),
        ("gate half --baseline alone", 0.2, 3),
        ("gate monday --baseline base", 0.02, 4),
    ],
)
def test_the_gates_exit_code_is_its_decision(evalflow, runs, tmp_path, line, drop, code):
    policy, junit, summary = tmp_path / "gate.yaml", tmp_path / "gate.xml", tmp_path / "summary.md"
    policy.write_text(f"critical: {{qa: {{max_drop: {drop}}}}}")
    found, out, err = evalflow(f"{line} --policy {policy} --junit {junit} --summary {summary}")
    assert (found, err) == (code, "")
    word = {0: "passed", 3: "not decidable", 4: "blocked"}[code]
    assert f"Gate: {word}" in out
    assert f"Gate: {word}" in summary.read_text()
    root = ElementTree.parse(junit).getroot()
    assert (root.get("failures"), root.get("errors")) == {0: ("0", "0"), 3: ("0", "1"), 4: ("1", "0")}[code]
    found, out, _ = evalflow(f"{line} --policy {policy} --json")
    document = json.loads(out)
    assert (found, document["exit_code"], document["status"]) == (code, code, word)


def test_the_gate_says_what_differs_and_which_share_would_do(evalflow, runs, tmp_path):
    policy = tmp_path / "gate.yaml"
    policy.write_text(POLICY)
    task = {"datasets": ["qa"], "evalflow": {"backend": "Native"}}
    for name, version in (("newest", "9"), ("older", "8")):
        made_up_run.run(runs / name, [1.0, 0.0] * 20, "base", "qa")
        made_up_run.record(runs / name, "base", task=task, versions={"evalscope": version})
    _, out, _ = evalflow(f"gate newest --baseline older --policy {policy}")
    assert "\n\nWhat differs\n  evalscope: 8 (older), 9 (newest)\n" in out
    _, out, _ = evalflow(f"gate half --baseline alone --policy {policy}")
    assert "less than 95% (min_share: 0.5 takes them)" in " ".join(out.split())
    assert "What differs" not in out


def test_a_word_too_many_is_named_but_never_what_may_be_a_key(evalflow, capsys):
    for line, said in (
        ("gate alone half --policy x", "'half' belongs to no flag evalflow gate takes one DIR."),
        ("gate alone --jsno sk-secret --policy x", "unknown flag --jsno Did you mean '--json'?"),
        ("gate alone --json sk-secret --policy x", "1 word belongs to no flag"),
        ("gate alone --frob sk-secret --policy x", "unknown flag --frob All flags"),
    ):
        with pytest.raises(SystemExit) as ended:
            evalflow(line)
        assert ended.value.code == 2
        err = capsys.readouterr().err
        assert said in " ".join(err.split())
        assert "secret" not in err


def test_the_summary_is_added_to_what_is_there(evalflow, tmp_path):
    policy, summary = tmp_path / "gate.yaml", tmp_path / "summary.md"
    policy.write_text(POLICY)
    summary.write_text("# Before\n")
    evalflow(f"gate monday/tuned --baseline monday/base --policy {policy} --summary {summary}")
    assert summary.read_text().startswith("# Before\n## ")


@pytest.mark.parametrize(("flag", "known"), [("--datasets zzz", "qa"), ("--allow zzz", "data, prompt")])
def test_what_is_known_is_not_indented_further_where_nothing_is_near(evalflow, flag, known):
    assert f"\n    Known: {known}" in evalflow(f"compare monday {flag}")[2]


def test_what_is_said_of_a_whole_run_does_not_look_like_a_dataset(tmp_path, capsys):
    scores = [1.0, 0.0] * 20
    for name in ("base", "tuned"):
        made_up_run.run(tmp_path / name, scores, name, "qa")
    made_up_run.record(
        tmp_path / "tuned", "tuned", state="died", task={"datasets": ["qa"], "evalflow": {"backend": "Native"}}
    )
    assert main(["compare", str(tmp_path), "--baseline", "base"]) == 0
    said = capsys.readouterr().out
    assert "tuned: its last run was killed" in said
    assert "tuned / its last run" not in said
