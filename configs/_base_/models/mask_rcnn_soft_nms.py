# Mask R-CNN that lowers the scores of overlapping boxes instead of removing them, as the paper of
# ConvNeXt V2 evaluates it.
_base_ = ['./mask_rcnn.py']

model = dict(test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms'))))
