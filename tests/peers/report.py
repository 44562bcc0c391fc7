"""Print how far the installed peers are from ours, as a Markdown table.

With PYTHONPATH=.:tests, from the root of the checkout:

python tests/peers/report.py                           every peer, every variant it has
python tests/peers/report.py --peers timm --variants tiny base
python tests/peers/report.py --files                   through the files that the peers write
python tests/peers/report.py --tags                    the files of all tags of timm
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from support.peer_models import (
    PEERS,
    TOLERANCE,
    compare_backbone_files,
    compare_backbones,
)
from support.timm_tags import all_tags, outcome

from convnext_backbones import VARIANTS


def main() -> int:
    """Print the table; the status is 1 if a difference is above the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--peers', nargs='+', choices=PEERS, default=list(PEERS))
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--dtype', choices=['float32', 'float64'], default='float32')
    parser.add_argument(
        '--files', action='store_true', help='load the files that the peers write, in float32'
    )
    parser.add_argument('--tags', action='store_true', help="load the files of timm's tags")
    args = parser.parse_args()
    if args.tags:
        return report_tags()

    peers = {key: PEERS[key] for key in args.peers}
    missing = {peer.name for peer in peers.values() if not peer.installed()}
    if missing:
        print(f'Not installed here: {", ".join(missing)}.\n')
    print(
        f'torch {torch.__version__}, {args.dtype} on the CPU, largest differences as '
        'fractions of the largest value\n'
    )
    print('| peer | variant | tensors | output | input gradient |')
    print('|---|---|---:|---:|---:|')
    worst = 0.0
    for key, peer in peers.items():
        for variant in args.variants:
            if peer.name in missing or variant not in peer.variants:
                continue
            if args.files:
                with tempfile.TemporaryDirectory() as folder:
                    _, found = compare_backbone_files(peer, variant, Path(folder))
            else:
                found = compare_backbones(peer, variant, getattr(torch, args.dtype))
            output, gradient = max(found.outputs), max(found.gradients)
            worst = max(worst, output, gradient)
            print(
                f'| {key} | {variant} | {found.tensors} | {output:.1e} | {gradient:.1e} |',
                flush=True,
            )
    return int(worst > TOLERANCE)


def report_tags() -> int:
    """Print what becomes of every tag of timm; the status is 1 if outputs differ.

    Of the larger sizes, files of a few blocks are loaded.
    """
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    print('| tag of timm | tensors | logits | maps | gradients | if not, why |')
    print('|---|---:|---:|---:|---:|---|')
    tags = all_tags()
    loading, worst = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for tag in tags:
            found = outcome(tag, Path(folder))
            if found.reason:
                print(f'| {tag} | - | - | - | - | {found.reason} |', flush=True)
                continue
            loading += 1
            worst = max(worst, found.largest())
            logits, maps = max(found.logits.outputs), max(found.maps.outputs)
            gradients = max(*found.logits.gradients, *found.maps.gradients)
            print(
                f'| {tag} | {found.tensors} | {logits:.1e} | {maps:.1e} | {gradients:.1e} | |',
                flush=True,
            )
    print(f'\n{loading} of {len(tags)} tags load.')
    return int(worst > TOLERANCE)


if __name__ == '__main__':
    sys.exit(main())
