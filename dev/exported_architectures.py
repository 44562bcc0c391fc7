"""Export every architecture of mmdet and mmseg with a ConvNeXt: which work, and how closely.

    python dev/exported_architectures.py [--format onnx] [NAME ...]

Prints a row for each; takes half a minute for an architecture that exports. Those that do not are
refused before anything is written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from convnext_backbones.exporting.folder import Wanted, export
from convnext_backbones.inference.exported import FILES
from dev.exchanged_training import ARCHITECTURES, build_miniature


def try_out(name: str, format_: str) -> str:
    """Export a miniature of an architecture, and return how far it is from the original."""
    torch.manual_seed(0)
    model, _ = build_miniature(ARCHITECTURES[name])
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = export(model.eval(), Path(folder, 'model'), Wanted(format_))
        except ValueError as error:
            return f'backbone only: {error}'
    return f'whole: {found}; {time.monotonic() - start:.0f} s'


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='default: all')
    parser.add_argument('--format', choices=tuple(FILES), default='onnx')
    args = parser.parse_args(argv)
    for name in args.names or ARCHITECTURES:
        print(f'{name} | {try_out(name, args.format)}', flush=True)


if __name__ == '__main__':
    main()
