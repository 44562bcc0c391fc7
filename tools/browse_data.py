"""Draw training samples as the model gets them: tools/browse_data.py CONFIG [flags].

Writes DIR/NUMBER_NAME.png for samples of the dataset as they leave its pipeline, augmented, with
their boxes, masks and class names or with their label map. A picture has the size of its sample.
Annotations of the validation and test data are drawn at the size of the image that the network
gets; the pipelines for evaluation have them at the size of the file.
"""

from __future__ import annotations

from pathlib import Path

from convnext_backbones.config.errors import exit_with
from convnext_backbones.config.flags import add_traceback_flag, config_parser
from convnext_backbones.config.loading import load_config
from convnext_backbones.engine.browsing import SPLITS, draw_samples


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='folder to write (default: work_dirs/CONFIG/samples_SPLIT)',
    )
    parser.add_argument(
        '--number', type=int, default=10, help='number of samples (default: %(default)s)'
    )
    parser.add_argument('--split', choices=SPLITS, default='train', help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of choice and augmentation')
    add_traceback_flag(parser)
    args = parser.parse_args(argv)
    out = args.out or Path('work_dirs') / Path(args.config).stem / f'samples_{args.split}'
    try:
        cfg = load_config(args.config, args.cfg_options)
        drawn, total = draw_samples(cfg, args.split, args.number, args.seed, out)
    except (FileNotFoundError, ValueError) as error:
        exit_with('browse_data', error, args.traceback)
    print(f'{drawn} of {total} samples are in {out}')


if __name__ == '__main__':
    main()
