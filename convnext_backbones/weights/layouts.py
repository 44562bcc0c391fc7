"""Names of the tensors of a ConvNeXt in the files of other projects.

One table per layout pairs their names with the authors' names, which are also ours; it is read in
both directions. In a template ``{p}`` is ``weight`` or ``bias``, any other letter is a number, and
arithmetic such as ``{2*i+1}`` computes their number from ours.
"""

from __future__ import annotations

from dataclasses import dataclass

# mmpretrain's converter gives the norm after pooling the name of the fourth output norm.
MMPRETRAIN_FINAL_NORM = 'norm3'


@dataclass(frozen=True)
class Layout:
    """The names and shapes of one project.

    Attributes:
        name: The name for users, such as ``'timm'``.
        table: Pairs (their template, the authors' template) for names inside the trunk. The first
            pair that matches a name counts, in either direction.
        head: Their template of a classifier's head, from the root of the file, if it is outside
            the trunk; None if ``table`` has it.
        trunk: The prefix of the trunk in a classification file.
        respellings: Pairs (pattern, replacement) that are applied to their names first.
        gamma_axes: Number of trailing axes of length one of their layer scale.
        convolutions: Variants whose pointwise layers are 1x1 convolutions in that project.
        output_norms: Whether the project's backbones can have a norm per output.
    """

    name: str
    table: tuple[tuple[str, str], ...]
    head: str | None = None
    trunk: str = ''
    respellings: tuple[tuple[str, str], ...] = ()
    gamma_axes: int = 0
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
        ('norm{i}.{p}', 'norm{i}.{p}'),
        ('norm.{p}', 'norm.{p}'),
        ('head.{p}', 'head.{p}'),
    ),
)
MMPRETRAIN = Layout(
    'mmpretrain',
    (
        ('downsample_layers.{i}.{k}.{p}', 'downsample_layers.{i}.{k}.{p}'),
        ('stages.{i}.{j}.depthwise_conv.{p}', 'stages.{i}.{j}.dwconv.{p}'),
        ('stages.{i}.{j}.norm.{p}', 'stages.{i}.{j}.norm.{p}'),
        ('stages.{i}.{j}.pointwise_conv{n}.{p}', 'stages.{i}.{j}.pwconv{n}.{p}'),
        ('stages.{i}.{j}.gamma', 'stages.{i}.{j}.gamma'),
        ('norm{i}.{p}', 'norm{i}.{p}'),
        (f'{MMPRETRAIN_FINAL_NORM}.{{p}}', 'norm.{p}'),
    ),
    head='head.fc.{p}',
    trunk='backbone.',
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
        ('head.norm.{p}', 'norm.{p}'),
        ('head.fc.{p}', 'head.{p}'),
    ),
    # features_only=True turns grandchildren of the top module into its children.
    respellings=((r'(^|\.)(stem|stages)_(\d+)\.', r'\1\2.\3.'),),
    convolutions=('atto', 'femto', 'pico', 'nano'),
    output_norms=False,
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
        ('hidden_states_norms.stage{i+1}.{p}', 'norm{i}.{p}'),
        ('layernorm.{p}', 'norm.{p}'),
    ),
    head='classifier.{p}',
    trunk='convnext.',
)
LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (OFFICIAL, MMPRETRAIN, TIMM, TORCHVISION, TRANSFORMERS)
}
