"""Command-line flags that every tool with a config shares."""

from __future__ import annotations

import argparse

from mmengine.config import DictAction

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class OverrideAction(DictAction):
    """mmengine's ``KEY=VALUE``; what it cannot parse is an error of usage."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Parse ``values``, called by ``parser``."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # an assertion, for one, where brackets are not closed
            raise argparse.ArgumentError(
                self, f'expected KEY=VALUE with paired brackets, got {" ".join(values)!r}'
            ) from error


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with CONFIG and its overrides."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', metavar='CONFIG', help='config file, detection or segmentation')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OverrideAction,
        metavar='KEY=VALUE',
        help='override entries of the config, such as train_dataloader.batch_size=4',
    )
    return parser


def runner_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every OpenMMLab tool with a Runner has."""
    parser = config_parser(description)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    # torchrun sets the environment variable; older launchers pass the flag.
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser
