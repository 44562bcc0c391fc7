"""A detector of mmdet whose network, with all that chooses boxes, is an exported model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import InstanceData
from torch import Tensor

from .exported import ExportedModel


class ExportedDetector(BaseDetector):
    """A detector that asks an exported model for boxes; the size of the image is restored here.

    Args:
        model: The detector of the config; its weights do not matter.
        exported: Finds boxes in images as they were read.
    """

    def __init__(self, model: Any, exported: ExportedModel) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.exported = exported
        self.test_cfg = getattr(model, 'test_cfg', None)
        self._with_mask = bool(model.with_mask)
        # Only its method that pastes masks is used.
        roi_head = getattr(model, 'roi_head', None)
        heads: Any = roi_head.mask_head if self._with_mask and roi_head is not None else None
        self.paste: Any = heads[-1] if isinstance(heads, torch.nn.ModuleList) else heads
        self.mask_cfg = roi_head.test_cfg if roi_head is not None else None

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return self._with_mask

    def predict(
        self, batch_inputs: list[Tensor], batch_data_samples: list, rescale: bool = True
    ) -> list:
        """Return the samples with ``pred_instances``, as mmdet does.

        Args:
            batch_inputs: Images of shape (C, H, W), as they were read and resized.
            batch_data_samples: Where the images come from.
            rescale: Whether boxes and masks are of the size of the original image.
        """
        for image, sample in zip(batch_inputs, batch_data_samples, strict=True):
            found = self.exported(image[None].cpu().numpy())
            sample.pred_instances = self._instances(found, sample.metainfo, rescale)
        return batch_data_samples

    def _instances(
        self, found: dict[str, np.ndarray], meta: dict[str, Any], rescale: bool
    ) -> InstanceData:
        kept = found['labels'][0] >= 0
        boxes, scores, labels = (
            torch.from_numpy(found[name][0][kept]) for name in ('boxes', 'scores', 'labels')
        )
        instances = InstanceData(scores=scores, labels=labels)
        if self._with_mask:
            masks = torch.from_numpy(found['masks'][0][kept])
            instances.masks = self._pasted(masks, boxes, meta, rescale)
        elif rescale:
            boxes /= boxes.new_tensor(meta['scale_factor']).repeat(2)
        instances.bboxes = boxes
        return instances

    def _pasted(self, masks: Tensor, boxes: Tensor, meta: dict[str, Any], rescale: bool) -> Tensor:
        """Return masks of the image, (K, H, W); scales the boxes, if wanted, in place."""
        if not len(boxes):
            height, width = meta['ori_shape'][:2]
            return torch.zeros(0, height, width, dtype=torch.bool)
        return self.paste._predict_by_feat_single(
            masks[:, None],
            boxes,
            torch.zeros(len(boxes), dtype=torch.long),  # the one channel that is there
            meta,
            self.mask_cfg,
            rescale,
            activate_map=True,
        )

    def extract_feat(self, batch_inputs: Tensor) -> None:
        """Refuse to return maps, which are inside of the exported model."""
        raise TypeError('expected only predictions of an exported model, got a call for its maps')

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> None:
        """Refuse to train."""
        raise TypeError('expected only predictions of an exported model, got a call for its loss')

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> None:
        raise TypeError('expected only predictions of an exported model, got a call for its maps')
