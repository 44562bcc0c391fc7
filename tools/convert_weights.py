"""Convert weights to the layout of another project: tools/convert_weights.py SRC DST --to LAYOUT.

SRC is the name of published weights, a file or a URL, in any of the layouts. DST is written as
safetensors if its name ends in .safetensors, else for torch.load, or as HDF5 for Keras. A detector
or segmentor keeps its heads, and its backbone is renamed; only OpenMMLab and the authors have such
files, and transformers those of UperNet.
"""

from __future__ import annotations

import argparse
import sys

from convnext_backbones.weights.convert import convert
from convnext_backbones.weights.layouts import EXPORTS


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', metavar='SRC', help='a published name, a file or a URL')
    parser.add_argument('destination', metavar='DST', help='the file to write')
    parser.add_argument('--to', required=True, choices=EXPORTS, help='its layout')
    parser.add_argument(
        '--drop', action='store_true', help='skip tensors that the layout has no place for'
    )
    parser.add_argument('--ema', action='store_true', help='take the averaged weights (model_ema)')
    parser.add_argument('--prefix', help='the network to take from a file with several')
    args = parser.parse_args(argv)
    try:
        print(convert(**vars(args)))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'convert_weights: {error}')


if __name__ == '__main__':
    main()
