"""Files that are written as a whole or not at all."""

import errno
import os
import re

import pytest
import torch
from mmengine.runner import save_checkpoint

from convnext_backbones.io import files, mmengine_patches


@pytest.mark.parametrize('reason', [errno.ENOSPC, errno.EACCES])
def test_what_cannot_be_written_leaves_what_was_there(reason, tmp_path, monkeypatch):
    path = tmp_path / 'file.pth'
    files.write_atomically(path, 'old')

    def fail(*_):
        raise OSError(reason, os.strerror(reason))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync' if reason == errno.ENOSPC else 'replace', fail)
        with pytest.raises(files.WriteError, match=re.escape(f"{os.strerror(reason)}: '{path}'")):
            files.write_atomically(path, 'new')
    assert [p.read_text() for p in tmp_path.iterdir()] == ['old']
    # A real problem, which root has as well: the name of the temporary file is taken.
    path.with_name('file.pth.tmp').mkdir()
    with pytest.raises(files.WriteError, match='file.pth'):
        files.write_atomically(path, 'new')
    assert path.read_text() == 'old'


def test_mmengine_writes_through_files(tmp_path, monkeypatch):
    mmengine_patches.write_checkpoints_atomically()
    path = tmp_path / 'new/file.pth'
    save_checkpoint(dict(state=1), str(path))
    monkeypatch.setattr(os, 'replace', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(dict(state=2), str(path))
    assert torch.load(path) == dict(state=1)
    files.remove_leftovers(path.parent)
    assert [p.name for p in path.parent.iterdir()] == ['file.pth']
