# Label maps of one's own, for a network that starts from random weights. Augmentation is gentle, so
# that small shapes are learned sooner. No image is scaled below the crops: the first norm of a
# network whose biases are 0 divides by next to nothing on padding, and its gradients grow a
# thousandfold.
_base_ = ['./label_maps.py']

train_pipeline = _base_.train_pipeline
train_pipeline[2].ratio_range = (0.75, 1.5)
train_pipeline.pop(5)  # PhotoMetricDistortion
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
