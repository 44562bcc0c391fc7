"""Find problems of a config, its data and this machine: tools/check.py CONFIG [flags].

It takes the flags of tools/train.py, changes nothing and downloads nothing. Each finding is one
line, PATH:PLACE: LEVEL: WHAT; FIX. Errors, with which training would fail or learn something
wrong, make the exit status 1; warnings do not.

With --fix OUT it first writes repaired copies of annotation files and label maps into the new
folder OUT, with a list of every change in OUT/changes.json, and then checks these copies. What
cannot be decided is left, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

from convnext_backbones.checks.findings import ERROR, WARNING, Finding, count_levels, one_line
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.checks.repair import LIST, Repair, repair_data
from convnext_backbones.config.flags import runner_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.training.flags import add_training_flags, set_training_flags


def check(args: argparse.Namespace) -> tuple[list[Finding], Repair | None]:
    """Return the findings for the config and the flags of the command line, and what was fixed."""
    repair = None
    try:
        cfg = load_run_config(args.config, args.cfg_options, args.launcher, args.work_dir)
        set_training_flags(cfg, args)
        if args.fix:
            repair = repair_data(cfg, args.fix, thorough=not args.quick)
            cfg = repair.config
    except (OSError, ValueError) as error:
        fix = 'correct the config or the flags'
        return [Finding(ERROR, one_line(error), '', fix, args.config)], None
    return find_problems(cfg, thorough=not args.quick, processes=args.processes), repair


def as_json(config: str, findings: list[Finding], repair: Repair | None, seconds: float) -> str:
    """Return the report for programs."""
    levels = Counter(finding.level for finding in findings)
    report = dict(
        config=config,
        errors=levels[ERROR],
        warnings=levels[WARNING],
        seconds=round(seconds, 1),
        findings=[finding.as_data() for finding in findings],
    )
    if repair:
        report['fix'] = repair.as_data()
    return json.dumps(report, indent=1)


def as_text(findings: list[Finding], repair: Repair | None, seconds: float, color: bool) -> str:
    """Return the report for people: what was fixed, a line per finding, and the summary."""
    lines = repair.as_lines() if repair else []
    if repair and repair.folder:
        lines.append(f'every change is in {repair.folder / LIST}; findings on the fixed files:')
    elif repair:
        lines.append('nothing to fix')
    lines += [finding.as_line(color) for finding in findings]
    lines.append(f'{count_levels(findings)} in {seconds:.1f} s')
    if repair and repair.options:
        options = shlex.join(f'{key}={value}' for key, value in repair.options.items())
        lines.append(f'to train on the fixed files, add: --cfg-options {options}')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = runner_parser(__doc__.splitlines()[0])
    add_training_flags(parser)
    parser.add_argument(
        '--quick',
        action='store_true',
        help='open a sample of the images, as tools/train.py does, instead of all',
    )
    parser.add_argument(
        '--processes',
        type=int,
        metavar='N',
        help='how many will train, for the batch size (default: those that were started)',
    )
    parser.add_argument(
        '--fix',
        type=Path,
        metavar='OUT',
        help='write repaired copies of annotation files and label maps into the new folder OUT, '
        'and check these',
    )
    parser.add_argument('--json', action='store_true', help='print JSON and nothing else')
    args = parser.parse_args(argv)
    start = time.monotonic()
    findings, repair = check(args)
    seconds = time.monotonic() - start
    if args.json:
        print(as_json(args.config, findings, repair, seconds))
    else:
        color = sys.stdout.isatty() and not os.environ.get('NO_COLOR')
        text = as_text(findings, repair, seconds, color)
        # A terminal or pipe may not know all characters of file names.
        encoding = sys.stdout.encoding or 'utf-8'
        print(text.encode(encoding, 'backslashreplace').decode(encoding))
    sys.exit(any(finding.level == ERROR for finding in findings))


if __name__ == '__main__':
    main()
