"""Command-line flags that tools with a config share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class OverrideAction(DictAction):
    """mmengine's parser of ``KEY=VALUE``, in which a malformed value is a usage error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Parse ``values`` into ``namespace``."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # such as an assertion about unclosed brackets
            words = ' '.join(map(str, values or ()))
            raise argparse.ArgumentError(
                self, f'expected KEY=VALUE with paired brackets, got {words!r}'
            ) from error


def config_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser for CONFIG and its overrides."""
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
    """Return a :func:`config_parser` with the flags that all OpenMMLab tools with a Runner have."""
    parser = config_parser(description)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    # torchrun sets the environment variable; older launchers pass the flag.
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def add_traceback_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for :func:`~convnext_backbones.config.errors.exit_with`."""
    parser.add_argument(
        '--traceback',
        action='store_true',
        help='print the traceback of an error, not only one sentence',
    )
