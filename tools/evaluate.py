"""Evaluate kept predictions without the network: tools/evaluate.py CONFIG PREDICTIONS [flags].

PREDICTIONS is a file that ``tools/test.py --dump`` wrote. WORK_DIR gets the same files as from
there.
"""

from __future__ import annotations

import os

from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag, config_parser
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.evaluation.flags import add_evaluation_flags, set_evaluation_flags
from convnext_backbones.evaluation.predictions import evaluate_predictions
from convnext_backbones.evaluation.report import write_report
from convnext_backbones.evaluation.results import write_metrics
from convnext_backbones.io.files import check_file


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument('predictions', metavar='PREDICTIONS', help='file from test.py --dump')
    parser.add_argument('--work-dir', help='folder for the metrics')
    add_evaluation_flags(parser)
    add_traceback_flag(parser)
    args = parser.parse_args(argv)
    try:
        check_file(args.predictions, 'kept predictions')
        cfg = load_run_config(args.config, args.cfg_options, work_dir=args.work_dir)
        os.makedirs(cfg.work_dir, exist_ok=True)
        set_evaluation_flags(cfg, args)
        metrics, dataset, records = evaluate_predictions(cfg, args.predictions)
    except (FileNotFoundError, ValueError) as error:
        exit_with('evaluate', error, args.traceback)
    print('  '.join(f'{name}: {value:.4f}' for name, value in metrics.items()))
    print(f'Metrics are in {write_metrics(cfg.work_dir, metrics)}')
    write_report(cfg, dataset, None if args.no_report else records, metrics)


if __name__ == '__main__':
    main()
