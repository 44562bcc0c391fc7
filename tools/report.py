"""Write the report of a training, or compare trainings: tools/report.py RUN [RUN ...] [flags].

RUN is the work dir of a training. The report is one HTML file, made from the records that the
training left there; its config is read and not executed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag
from convnext_backbones.reports.training_page import REPORT, write_training_page


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='work dir of a training')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help=f'file for the report (default: RUN/{REPORT}, and {REPORT} here for several runs)',
    )
    add_traceback_flag(parser)
    args = parser.parse_args(argv)
    out = args.out or (args.runs[0] / REPORT if len(args.runs) == 1 else Path(REPORT))
    try:
        write_training_page(out, args.runs)
    except (OSError, ValueError) as error:
        exit_with('report', error, args.traceback)
    print(f'The report is in {out}')


if __name__ == '__main__':
    main()
