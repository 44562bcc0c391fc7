"""Find what is wrong with a config, its data and this machine: tools/check.py CONFIG [flags].

It takes the flags of tools/train.py, changes nothing and downloads nothing. What it finds is
printed with the place and the remedy. Errors, with which training would fail or learn what is
wrong, make the exit status 1; warnings do not.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict

from rich.console import Console

from convnext_backbones.checks.findings import ERROR, WARNING, Finding, as_table
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.config.flags import runner_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.training.flags import add_training_flags, set_training_flags


def main(argv: list[str] | None = None) -> None:
    """Command line."""
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
    parser.add_argument('--json', action='store_true', help='print JSON and nothing else')
    args = parser.parse_args(argv)
    start = time.monotonic()
    try:
        cfg = load_run_config(args.config, args.cfg_options, args.launcher, args.work_dir)
        set_training_flags(cfg, args)
    except (FileNotFoundError, ValueError) as error:
        findings = [Finding(ERROR, str(error), args.config, 'correct the config or the flags')]
    else:
        findings = find_problems(cfg, thorough=not args.quick, processes=args.processes)
    seconds = round(time.monotonic() - start, 1)
    levels = Counter(finding.level for finding in findings)
    if args.json:
        report = dict(
            config=args.config,
            errors=levels[ERROR],
            warnings=levels[WARNING],
            seconds=seconds,
            findings=[asdict(finding) for finding in findings],
        )
        print(json.dumps(report, indent=1))
    else:
        if findings:
            Console().print(as_table(findings))
        print(f'{levels[ERROR]} errors and {levels[WARNING]} warnings, in {seconds} s')
    sys.exit(bool(levels[ERROR]))


if __name__ == '__main__':
    main()
