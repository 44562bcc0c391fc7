"""Make a file to give away out of a training checkpoint: tools/publish.py CHECKPOINT --out DIR.

Only the weights and the names of the classes are kept, as safetensors, which hold no code. The
SHA-256 of the file becomes a part of its name, so that every download of it is checked. With
--config CONFIG a JSON of the same name is written beside it: what tools/predict.py needs of the
config, as plain data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from convnext_backbones.checkpoint import named_tensors, read_checkpoint, write_safetensors
from convnext_backbones.files import write_atomically
from convnext_backbones.launch import load_config
from convnext_backbones.plain_data import plain_config

# Of what mmengine keeps beside the weights, what inference needs. The rest tells of the machine:
# the config with its paths, the time, the seed.
KEPT = 'dataset_meta'


def publish(checkpoint: str | os.PathLike, folder: str | os.PathLike, ema: bool = False) -> Path:
    """Write the weights of ``checkpoint`` into ``folder`` and return the path of the file.

    Args:
        checkpoint: A file of any container; the names of its tensors stay as they are.
        folder: Created if it does not exist.
        ema: Take the averaged weights of a training checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, would execute code, or holds no weights.
    """
    contents = read_checkpoint(checkpoint, mmap=True)
    tensors = named_tensors(contents, checkpoint, ema)
    meta = contents.get('meta')
    kept = {KEPT: meta[KEPT]} if isinstance(meta, Mapping) and KEPT in meta else {}
    folder, stem = Path(folder), Path(checkpoint).stem
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        draft = Path(temporary, stem)
        write_safetensors(draft, tensors, kept)
        path = folder / f'{stem}-{_sha256(draft)}.safetensors'
        os.replace(draft, path)
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def publish_config(config: str | os.PathLike) -> str:
    """The text of a config as JSON, for tools/predict.py; a Python config is executed for it.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or does not go into plain data.
    """
    cfg = load_config(argparse.Namespace(config=os.fspath(config), cfg_options=None))
    return json.dumps(plain_config(cfg), indent=1)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='what training wrote')
    parser.add_argument('--out', dest='folder', default='.', metavar='DIR', help='where it goes')
    parser.add_argument('--ema', action='store_true', help='take the averaged weights (model_ema)')
    parser.add_argument(
        '--config', metavar='CONFIG', help='also write what tools/predict.py needs of it, as JSON'
    )
    args = parser.parse_args(argv)
    try:
        config = args.config and publish_config(args.config)
        path = publish(args.checkpoint, args.folder, args.ema)
        print(path)
        if config:
            write_atomically(path.with_suffix('.json'), config)
            print(path.with_suffix('.json'))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'publish: {error}')


if __name__ == '__main__':
    main()
