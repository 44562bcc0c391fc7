"""Random weights of miniature networks, and what the tests of weights do to them."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.io.checkpoint import named_tensors, read_checkpoint
from convnext_backbones.weights.layouts import DINOV3, LAYOUTS, OFFICIAL
from convnext_backbones.weights.names import export

# DINOv3 has no classifiers.
WITH_HEAD = [name for name, layout in LAYOUTS.items() if layout is not DINOV3]


def random_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }


def holds(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items())


def trunk(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t for name, t in state.items() if not name.startswith(('norm', 'head'))}


def norms(backbone: ConvNeXt) -> list[nn.Module]:
    return [getattr(backbone, f'norm{i}') for i in backbone.out_indices]


def broken(kind: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A classifier's weights with one thing wrong."""
    name = 'stages.2.1.pwconv1.weight'
    changes = {
        'missing': lambda: state.pop(name),
        'unexpected': lambda: state.update({'stages.2.1.extra.weight': torch.ones(1)}),
        'shape': lambda: state.update({name: torch.ones(2, 2)}),
        'type': lambda: state.update({name: state[name].long()}),
        'sparse': lambda: state.update({name: state[name].to_sparse()}),
        'nested': lambda: state.update({name: torch.nested.nested_tensor([state[name]])}),
        'meta': lambda: state.update({name: state[name].to('meta')}),
        'nan': lambda: state[name].view(-1)[5:6].fill_(math.nan),
        'inf': lambda: state[name].view(-1)[5:6].fill_(math.inf),
        'some norms': lambda: state.update({'norm0.weight': torch.ones(8)}),
        'no gamma': lambda: [state.pop(key) for key in [*state] if key.endswith('gamma')],
    }
    changes[kind]()
    return state


class Detector(nn.Module):
    """What load_weights sees of a detector: a backbone and other parts."""

    def __init__(self, arch) -> None:
        super().__init__()
        self.backbone = ConvNeXt(arch)
        self.neck = nn.Conv2d(32, 4, 1)
        self.bbox_head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return named_tensors(read_checkpoint(path), path)


def equal(a: Path, b: Path) -> bool:
    a, b = tensors(a), tensors(b)
    return set(a) == set(b) and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def save_classifier(arch: dict, folder: Path, **options) -> Path:
    """A classifier as the authors publish theirs."""
    state = random_state(ConvNeXtClassifier(arch, **options))
    torch.save({'model': export(state, OFFICIAL)[0]}, folder / 'official.pth')
    return folder / 'official.pth'


def save_detector(arch: dict, folder: Path) -> Path:
    """A checkpoint of a training: a detector with its classes, and what is not to be published."""
    state = {f'backbone.{name}': t for name, t in ConvNeXt(arch).state_dict().items()}
    path = folder / 'epoch_1.pth'
    meta = {
        'dataset_meta': {'classes': ('nucleus',), 'palette': [(220, 20, 60)]},
        'cfg': "data_root = '/home/me/secret/'",
        'seed': 0,
    }
    torch.save(
        {
            'meta': meta,
            'state_dict': state
            | {'neck.weight': torch.ones(2), 'bn.num_batches_tracked': torch.tensor(3)},
            'optimizer': {'state': {0: torch.ones(100)}},
            'message_hub': {'loss': np.float64(1)},
        },
        path,
    )
    return path
