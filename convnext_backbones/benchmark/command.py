"""Flags and the main program that the benchmark's commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from .machine import describe_machine
from .report import ReportFiles, header_text
from .sweep import RaceOptions
from .worker import ContenderError

Command = Callable[[argparse.Namespace, dict[str, str], RaceOptions], None]


def race_flags() -> argparse.ArgumentParser:
    """Return a parent parser with the flags of all races."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--rounds', type=int, default=7, help='most rounds (default: 7)')
    parser.add_argument(
        '--seconds',
        type=float,
        default=150,
        help='approximate limit for the rounds of a race (default: 150)',
    )
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    for kind in ('json', 'markdown', 'png'):
        parser.add_argument(f'--{kind}', type=Path, metavar='FILE')
    return parser


def report_files(args: argparse.Namespace) -> ReportFiles:
    """Return the files that the flags of :func:`race_flags` ask for."""
    return ReportFiles(args.json, args.markdown, args.png)


def run_command(name: str, command: Command, args: argparse.Namespace) -> None:
    """Print the machine's description and run a command; exit with one sentence on an error.

    Args:
        name: Name of the program, for the message.
        command: Called with the flags, the machine's description and the options of races.
        args: The flags, those of :func:`race_flags` among them.
    """
    console = Console(stderr=True)
    try:
        if args.rounds < 1:
            raise ValueError(f'expected --rounds to be at least 1, got {args.rounds}')
        header = describe_machine(args.threads)
        print(header_text(header))
        with console.status('') as status:
            command(args, header, RaceOptions(args.rounds, args.seconds, status.update))
    except (ContenderError, FileNotFoundError, ValueError) as error:
        sys.exit(f'{name}: {error}')
