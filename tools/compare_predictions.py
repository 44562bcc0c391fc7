"""Show what changed between two checkpoints: tools/compare_predictions.py A B [flags].

A and B are files that ``tools/test.py --dump`` wrote, of the same classes and the same images. The
page lists what changed image by image, and shows the most changed images side by side. With
--config, the truth and the images are shown too, and what became right or wrong is counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_backbones.analysis.detections import SCORE_THRESHOLD
from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import OverrideAction, add_traceback_flag
from convnext_backbones.config.loading import load_run_config
from convnext_backbones.evaluation.changes import compare_predictions
from convnext_backbones.io.files import check_file


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('a', metavar='A', help='file from test.py --dump')
    parser.add_argument('b', metavar='B', help='another one')
    parser.add_argument('--config', metavar='CONFIG', help='gives the truth and the images')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OverrideAction,
        metavar='KEY=VALUE',
        help='override entries of the config',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('changes.html'),
        metavar='FILE',
        help='the page (default: %(default)s)',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers here')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=SCORE_THRESHOLD,
        help='lowest score of the compared detections (default: %(default)s)',
    )
    add_traceback_flag(parser)
    args = parser.parse_args(argv)
    try:
        for path in (args.a, args.b):
            check_file(path, 'kept predictions')
        cfg = load_run_config(args.config, args.cfg_options) if args.config else None
        lines = compare_predictions(args.a, args.b, args.out, cfg, args.json, args.score_thr)
    except (OSError, ValueError) as error:
        exit_with('compare_predictions', error, args.traceback)
    print('\n'.join(lines))
    print(f'The changes are in {args.out}')


if __name__ == '__main__':
    main()
