"""`evalflow gate DIR --baseline DIR --policy gate.yaml`."""

from __future__ import annotations

import argparse

from evalscope_evalflow.cli.compare import a_wide_console, add_comparison, allowed_kinds, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="run folder, or folder of a sweep, that is to pass")
    add_comparison(parser)
    parser.add_argument("--policy", required=True, metavar="FILE", help="YAML or JSON file with the policy")
    parser.add_argument("--junit", metavar="FILE", help="write the result as JUnit XML")
    parser.add_argument("--summary", metavar="FILE", help="append the result as Markdown, as to $GITHUB_STEP_SUMMARY")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Judge a run by a policy, and print what was decided."""
    from evalscope_evalflow.errors import ConfigError, Problem
    from evalscope_evalflow.results.comparison.chosen_runs import choose_runs
    from evalscope_evalflow.results.comparison.compare_runs import Rules, compare, load_runs
    from evalscope_evalflow.results.gating.gate_policy import check_names, read_policy
    from evalscope_evalflow.results.gating.gate_text import as_summary, gate_payload, show_gate
    from evalscope_evalflow.results.gating.gate_verdicts import judge
    from evalscope_evalflow.results.gating.junit_file import as_junit
    from evalscope_evalflow.results.json_output import print_document

    if args.baseline is None:
        raise ConfigError(Problem("--baseline", "is required", "A model, a folder, or FOLDER:MODEL."))
    policy = read_policy(args.policy)
    rules = Rules(policy.min_share, allowed_kinds(args.allow), share_from="min_share: ")
    runs = load_runs(choose_runs([args.folder], args.baseline, args.models), rules)
    datasets = list(dict.fromkeys(name for run in runs for name in run.datasets))
    check_names(policy, args.policy, datasets)
    result = judge(compare(runs, rules), policy, datasets, args.policy)
    if args.junit:
        write(as_junit(result), args.junit)
    if args.summary:
        write(as_summary(result), args.summary, append=True)
    if args.json:
        print_document("gate", gate_payload(result), result.exit_code)
    else:
        show_gate(result, a_wide_console())
    return result.exit_code
