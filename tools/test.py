"""Evaluate a detector or a segmentor: tools/test.py CONFIG CHECKPOINT [flags].

The metrics are written to WORK_DIR/metrics.json, a page about them to report.html beside it, and
those of a segmentor's classes to per_class.json and per_class.csv.
"""

from __future__ import annotations

from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag, runner_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.engine.processes import leave_process_group
from convnext_backbones.evaluation.run import add_test_flags, evaluate, set_test_flags


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = runner_parser(__doc__.splitlines()[0])
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='weights to evaluate: file, published name or URL'
    )
    add_test_flags(parser)
    add_traceback_flag(parser)
    args = parser.parse_args(argv)
    try:
        cfg = load_run_config(args.config, args.cfg_options, args.launcher, args.work_dir)
        set_test_flags(cfg, args)
        report = not args.no_report
        evaluate(cfg, args.checkpoint, args.tta, args.optimize, args.dump, report)
    except (FileNotFoundError, TypeError, ValueError) as error:
        exit_with('test', error, args.traceback)
    leave_process_group()


if __name__ == '__main__':
    main()
