"""Names of the tensors of a ConvNeXt in the files of other projects.

One table per layout pairs their names with the authors' names, which are also ours; it is read in
both directions. In a template ``{p}`` is ``weight`` or ``bias``, any other letter is a number, and
arithmetic such as ``{2*i+1}`` computes their number from ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# mmpretrain's converter gives the norm after pooling the name of the fourth output norm.
MMPRETRAIN_FINAL_NORM = 'norm3'
# timm's name of the final norm in classifiers that have it before the pooling.
TIMM_NORM_BEFORE_POOLING = 'norm_pre'


# Parts of a network that not all projects have: the start of the authors' names, what it is.
PARTS = {
    'grn': (r'stages\.\d+\.\d+\.grn\.', 'global response normalization (ConvNeXt V2)'),
    'overlap': (r'downsample_layers\.0\.2\.', 'an overlapping stem'),
    'hidden': (r'pre_logits\.', 'a hidden layer before the head'),
}


@dataclass(frozen=True)
class Layout:
    """The names and shapes of one project.

    Attributes:
        name: The name for users, such as ``'timm'``.
        table: Pairs (their template, the authors' template) for names inside the trunk. The first
            pair that matches a name counts, in either direction.
        beside: Such pairs for what a classifier has outside the trunk, from the root of the
            network.
        trunk: The prefix of the trunk in a classification file.
        trunk_v2: The same in a file of ConvNeXt V2, if it is another.
        holders: Prefixes under which whole networks hold the trunk, longer ones first.
        heads: Pairs (their spelling, mmseg's spelling) of parts of the names of UperNet's heads;
            empty if the project has no segmentors with heads that mmseg has too.
        respellings: Pairs (pattern, replacement) that are applied to their names first.
        second_name: Pair (the authors' template, their template): a second name of one tensor.
        discarded: A pattern of names in the trunk with nothing to load: second names of other
            tensors, and heads of the pretraining.
        parts: Keys of :data:`PARTS` that the project's networks can have.
        gamma_axes: Number of trailing axes of length one of their layer scale.
        grn_axes: Number of leading axes of length one of their global response normalization.
        convolutions: Variants whose pointwise layers are 1x1 convolutions in that project.
        output_norms: Whether the project's backbones can have a norm per output.
    """

    name: str
    table: tuple[tuple[str, str], ...]
    beside: tuple[tuple[str, str], ...] = ()
    trunk: str = ''
    trunk_v2: str | None = None
    holders: tuple[str, ...] = ('backbone.',)
    heads: tuple[tuple[str, str], ...] = ()
    respellings: tuple[tuple[str, str], ...] = ()
    second_name: tuple[str, str] | None = None
    discarded: str | None = None
    parts: tuple[str, ...] = ()
    gamma_axes: int = 0
    grn_axes: int = 0
    convolutions: tuple[str, ...] = ()
    output_norms: bool = True


OFFICIAL = Layout(
    'official',
    (
        ('downsample_layers.{i}.{k}.{p}', 'downsample_layers.{i}.{k}.{p}'),
        ('stages.{i}.{j}.dwconv.{p}', 'stages.{i}.{j}.dwconv.{p}'),
        ('stages.{i}.{j}.norm.{p}', 'stages.{i}.{j}.norm.{p}'),
        ('stages.{i}.{j}.pwconv{n}.{p}', 'stages.{i}.{j}.pwconv{n}.{p}'),
        ('stages.{i}.{j}.gamma', 'stages.{i}.{j}.gamma'),
        ('stages.{i}.{j}.grn.gamma', 'stages.{i}.{j}.grn.gamma'),
        ('stages.{i}.{j}.grn.beta', 'stages.{i}.{j}.grn.beta'),
        ('norm{i}.{p}', 'norm{i}.{p}'),
        ('norm.{p}', 'norm.{p}'),
        ('pre_logits.{p}', 'pre_logits.{p}'),
        ('head.{p}', 'head.{p}'),
    ),
    parts=tuple(PARTS),
    grn_axes=3,
)


def _official_without(*starts: str) -> tuple[tuple[str, str], ...]:
    """Return the authors' table without the templates that start with ``starts``."""
    return tuple(pair for pair in OFFICIAL.table if not pair[1].startswith(starts))


# Meta's DINOv3 and EUPE: the authors' names, the final norm twice, no classifier.
META = replace(
    OFFICIAL,
    name='meta',
    table=_official_without('norm{i}.', 'head.'),
    parts=(),
    second_name=('norm.{p}', 'norms.3.{p}'),
    discarded=r'(norms\.\d+|projectors)\.',
    output_norms=False,
)
# What :mod:`.keras_files` writes and reads, which knows Keras' names. Of the output norms it has
# the last, as a network without a classifier applies its final norm to the map.
KERAS = replace(
    OFFICIAL,
    name='keras',
    table=(*_official_without('norm{i}.'), ('norm3.{p}', 'norm3.{p}')),
    parts=(),
    output_norms=False,
)
MMPRETRAIN = Layout(
    'mmpretrain',
    (
        ('downsample_layers.{i}.{k}.{p}', 'downsample_layers.{i}.{k}.{p}'),
        ('stages.{i}.{j}.depthwise_conv.{p}', 'stages.{i}.{j}.dwconv.{p}'),
        ('stages.{i}.{j}.norm.{p}', 'stages.{i}.{j}.norm.{p}'),
        ('stages.{i}.{j}.pointwise_conv{n}.{p}', 'stages.{i}.{j}.pwconv{n}.{p}'),
        ('stages.{i}.{j}.gamma', 'stages.{i}.{j}.gamma'),
        ('stages.{i}.{j}.grn.gamma', 'stages.{i}.{j}.grn.gamma'),
        ('stages.{i}.{j}.grn.beta', 'stages.{i}.{j}.grn.beta'),
        ('norm{i}.{p}', 'norm{i}.{p}'),
        (f'{MMPRETRAIN_FINAL_NORM}.{{p}}', 'norm.{p}'),
    ),
    beside=(('head.fc.{p}', 'head.{p}'),),
    trunk='backbone.',
    parts=('grn',),
)
TIMM = Layout(
    'timm',
    (
        ('stem.{k}.{p}', 'downsample_layers.0.{k}.{p}'),
        ('stages.{i}.downsample.{k}.{p}', 'downsample_layers.{i}.{k}.{p}'),
        ('stages.{i}.blocks.{j}.conv_dw.{p}', 'stages.{i}.{j}.dwconv.{p}'),
        ('stages.{i}.blocks.{j}.norm.{p}', 'stages.{i}.{j}.norm.{p}'),
        ('stages.{i}.blocks.{j}.mlp.fc{n}.{p}', 'stages.{i}.{j}.pwconv{n}.{p}'),
        ('stages.{i}.blocks.{j}.gamma', 'stages.{i}.{j}.gamma'),
        ('stages.{i}.blocks.{j}.mlp.grn.weight', 'stages.{i}.{j}.grn.gamma'),
        ('stages.{i}.blocks.{j}.mlp.grn.bias', 'stages.{i}.{j}.grn.beta'),
        ('head.norm.{p}', 'norm.{p}'),
        (f'{TIMM_NORM_BEFORE_POOLING}.{{p}}', 'norm.{p}'),
        ('head.pre_logits.fc.{p}', 'pre_logits.{p}'),
        ('head.fc.{p}', 'head.{p}'),
    ),
    # The projections of open_clip, whose image encoders are of timm.
    beside=(
        ('head.proj.{p}', 'head.{p}'),
        ('head.mlp.fc1.{p}', 'pre_logits.{p}'),
        ('head.mlp.fc2.{p}', 'head.{p}'),
    ),
    holders=('trunk.', 'backbone.'),
    # features_only=True turns grandchildren of the top module into its children.
    respellings=((r'(^|\.)(stem|stages)_(\d+)\.', r'\1\2.\3.'),),
    parts=tuple(PARTS),
    convolutions=('atto', 'femto', 'pico', 'nano'),
    output_norms=False,
)
# timm's tiny_hnf has the sizes of tiny, but convolutions, and its final norm before the pooling.
TIMM_HNF = replace(
    TIMM,
    name='timm_hnf',
    table=tuple(pair for pair in TIMM.table if pair[0] != 'head.norm.{p}'),
    convolutions=(*TIMM.convolutions, 'tiny'),
)
TORCHVISION = Layout(
    'torchvision',
    # Stem, stage, downsampling, stage, ...: even children of `features` change the resolution.
    (
        ('features.{2*i}.{k}.{p}', 'downsample_layers.{i}.{k}.{p}'),
        ('features.{2*i+1}.{j}.block.0.{p}', 'stages.{i}.{j}.dwconv.{p}'),
        ('features.{2*i+1}.{j}.block.2.{p}', 'stages.{i}.{j}.norm.{p}'),
        ('features.{2*i+1}.{j}.block.3.{p}', 'stages.{i}.{j}.pwconv1.{p}'),
        ('features.{2*i+1}.{j}.block.5.{p}', 'stages.{i}.{j}.pwconv2.{p}'),
        ('features.{2*i+1}.{j}.layer_scale', 'stages.{i}.{j}.gamma'),
        ('classifier.0.{p}', 'norm.{p}'),
        ('classifier.2.{p}', 'head.{p}'),
    ),
    gamma_axes=2,
    output_norms=False,
)
TRANSFORMERS = Layout(
    'transformers',
    (
        ('embeddings.patch_embeddings.{p}', 'downsample_layers.0.0.{p}'),
        ('embeddings.layernorm.{p}', 'downsample_layers.0.1.{p}'),
        ('encoder.stages.{i}.downsampling_layer.{k}.{p}', 'downsample_layers.{i}.{k}.{p}'),
        ('encoder.stages.{i}.layers.{j}.dwconv.{p}', 'stages.{i}.{j}.dwconv.{p}'),
        ('encoder.stages.{i}.layers.{j}.layernorm.{p}', 'stages.{i}.{j}.norm.{p}'),
        ('encoder.stages.{i}.layers.{j}.pwconv{n}.{p}', 'stages.{i}.{j}.pwconv{n}.{p}'),
        ('encoder.stages.{i}.layers.{j}.layer_scale_parameter', 'stages.{i}.{j}.gamma'),
        ('encoder.stages.{i}.layers.{j}.grn.weight', 'stages.{i}.{j}.grn.gamma'),
        ('encoder.stages.{i}.layers.{j}.grn.bias', 'stages.{i}.{j}.grn.beta'),
        ('hidden_states_norms.stage{i+1}.{p}', 'norm{i}.{p}'),
        ('layernorm.{p}', 'norm.{p}'),
    ),
    beside=(('classifier.{p}', 'head.{p}'),),
    trunk='convnext.',
    trunk_v2='convnextv2.',
    holders=('convnextv2.', 'convnext.', 'backbone.'),
    heads=(('.batch_norm.', '.bn.'), ('_head.classifier.', '_head.conv_seg.')),
    parts=('grn',),
    grn_axes=3,
)
# DINOv3 in transformers, as its files have the names. In memory, `model.` is before the stages.
DINOV3 = Layout(
    'dinov3',
    (
        ('stages.{i}.downsample_layers.{k}.{p}', 'downsample_layers.{i}.{k}.{p}'),
        ('stages.{i}.layers.{j}.depthwise_conv.{p}', 'stages.{i}.{j}.dwconv.{p}'),
        ('stages.{i}.layers.{j}.layer_norm.{p}', 'stages.{i}.{j}.norm.{p}'),
        ('stages.{i}.layers.{j}.pointwise_conv{n}.{p}', 'stages.{i}.{j}.pwconv{n}.{p}'),
        ('stages.{i}.layers.{j}.gamma', 'stages.{i}.{j}.gamma'),
        ('layer_norm.{p}', 'norm.{p}'),
    ),
    beside=(('layer_norm.{p}', 'norm.{p}'),),
    holders=('backbone.model.', 'model.', 'backbone.'),
    heads=TRANSFORMERS.heads,
    output_norms=False,
)
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (OFFICIAL, MMPRETRAIN, TIMM, TORCHVISION, TRANSFORMERS, DINOV3)
}
# Files in these are read as those of a layout above, whose names they share.
EXPORTS: dict[str, Layout] = LAYOUTS | {layout.name: layout for layout in (META, TIMM_HNF, KERAS)}
