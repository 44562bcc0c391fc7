"""Small detectors of the kinds that are exported, and what mmdet itself predicts with them."""

import torch
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope

from dev.exchanged_training import ARCHITECTURES, build_miniature

SIZE = (150, 210)  # of the images: no multiple of a stride


def small_detector(name):
    """An architecture of mmdet with scores that differ from box to box."""
    torch.manual_seed(0)
    model, _ = build_miniature(ARCHITECTURES[name])
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if parameter.ndim > 1 and not part.startswith('backbone'):
                noise = torch.randn_like(parameter)
                parameter.add_(noise * parameter.std(correction=0).clamp(0.02))
    classes = ('first', 'second', 'third')
    model.dataset_meta = dict(classes=classes, palette=[[10, 20, 30]] * len(classes))
    return model.eval()


def images(number=2, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, *size), generator=generator).float()


def predicted(model, batch):
    """What mmdet predicts for images as they were read, at their size."""
    size = tuple(batch.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    data = dict(
        inputs=[image.to(torch.uint8) for image in batch],
        data_samples=[DetDataSample(metainfo=dict(meta)) for _ in batch],
    )
    with torch.no_grad(), DefaultScope.overwrite_default_scope('mmdet'):
        data = model.data_preprocessor(data, False)
        found = model.predict(data['inputs'], data['data_samples'], rescale=False)
    return [sample.pred_instances for sample in found]
