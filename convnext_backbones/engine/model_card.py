"""The model card of a published detector or segmentor: README.md as the Hugging Face hub reads it.

huggingface_hub writes and checks the metadata on top. The text below it is made of facts that were
found; what is not known is said to be unknown. Names come from files, so they are escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..io.hub import split_hub_name
from .data_facts import DataFacts
from .training_facts import RANDOM, StartingWeights

LIBRARY = 'convnext_backbones'
UNKNOWN = 'not known'
DIGITS = '.7g'  # the precision of fp32, in which metrics are computed
# Licences by the hub's own identifiers; it files any other under `other`, with a name.
HUB_LICENCES = ('mit', 'apache-2.0', 'cc-by-nc-4.0')
# What begins markup inside of a line; an underscore within a word does not.
MARKUP = re.compile(r'[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])')
# A name that can stand in a command as it is; the hub allows no other.
PLAIN_NAME = re.compile(r'[A-Za-z0-9][\w.-]*', re.ASCII)


@dataclass(frozen=True)
class ModelFacts:
    """What the network is.

    Attributes:
        architecture: Class of the detector or segmentor.
        toolbox: ``mmdet`` or ``mmseg``.
        masks: Whether a detector also gives masks.
        backbone: Description of the backbone.
        options: Keywords of the :class:`~convnext_backbones.ConvNeXt`; None for another backbone.
        tags: Tags of the hub.
        parameters: Number of parameters.
        normalization: Mean, std and order of channels, in words; empty if there is none.
    """

    architecture: str
    toolbox: str
    masks: bool
    backbone: str
    options: Mapping[str, Any] | None
    tags: Sequence[str]
    parameters: int
    normalization: str

    @property
    def task(self) -> str:
        """The task in the words of the hub."""
        boxes_only = self.toolbox == 'mmdet' and not self.masks
        return 'object-detection' if boxes_only else 'image-segmentation'

    @property
    def purpose(self) -> str:
        """What the model does, as the begin of a sentence that ends with the classes."""
        if self.toolbox == 'mmseg':
            return 'gives every pixel one of'
        return f'finds the boxes{" and masks" if self.masks else ""} of objects of'


@dataclass(frozen=True)
class Measured:
    """Metrics, and where they are from.

    Attributes:
        metrics: Values by the evaluator's name; None for a value that is not a number.
        source: How they were measured, as the end of a sentence.
        split: ``validation`` or ``test``.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    source: str = ''
    split: str = 'test'


@dataclass(frozen=True)
class CardFacts:
    """All that a card says.

    Attributes:
        name: Name of the model.
        repo: Repository of the hub that it is for, ``OWNER/NAME``; empty if not known.
        checkpoint: Name of the checkpoint.
        sha256: Of the file of weights, in hexadecimal.
        model: The network.
        data: The data.
        dataset: Name of the data or their repository of the hub, as the publisher gives it.
        training: The recipe, by name.
        recorded: Whether the recipe is from the config in the checkpoint; else it is from the one
            given.
        start: What the training started from; None if not known.
        measured: The metrics.
        licence: Of the model, as the publisher gives it; empty for that of the starting weights.
        versions: Versions of the packages that wrote the card.
    """

    name: str
    repo: str
    checkpoint: str
    sha256: str
    model: ModelFacts
    data: DataFacts
    dataset: str
    training: Mapping[str, str]
    recorded: bool
    start: StartingWeights | None
    measured: Measured
    licence: str
    versions: Mapping[str, str]

    @property
    def dataset_name(self) -> str:
        """The data in a few words."""
        return self.dataset or self.data.known or 'own data'


def model_card(facts: CardFacts) -> str:
    """Return the text of a README.md with the metadata of the hub on top.

    Needs huggingface_hub.
    """
    from huggingface_hub import ModelCard

    sections = [
        f'# {escaped(facts.name)}',
        _summary(facts),
        *_section('How to use it', _usage(facts)),
        *_section('Intended use and limits', [_limits(facts)]),
        *_section('Metrics', _metrics(facts)),
        *_section('Data', _data(facts)),
        *_section('Training', _training(facts)),
        *_section('Licence', [_licence(facts)]),
        *_section('Files', _files(facts)),
    ]
    content = f'---\n{_metadata(facts)}\n---\n\n' + '\n\n'.join(sections) + '\n'
    return str(ModelCard(content))


def escaped(text: object) -> str:
    """Return any text on one line, for Markdown: neither tags nor markup in it have an effect."""
    return MARKUP.sub(r'\\\g<0>', html.escape(' '.join(str(text).split()), quote=False))


def _section(title: str, blocks: Iterable[str]) -> list[str]:
    return [f'## {title}', *filter(None, blocks)]


def _facts(pairs: Mapping[str, str]) -> str:
    return '\n'.join(f'- **{escaped(name)}**: {escaped(fact)}' for name, fact in pairs.items())


# --- metadata -------------------------------------------------------------------------------


def _metadata(facts: CardFacts) -> str:
    """Return the metadata as YAML, without the lines around it."""
    from huggingface_hub import EvalResult, ModelCardData

    task, place = facts.model.task, split_hub_name(facts.dataset)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=facts.dataset if place else facts.data.format_,
            dataset_name=facts.dataset_name,
            dataset_split=facts.measured.split,
            metric_type=name,
            metric_name=name,
            metric_value=float(f'{value:{DIGITS}}'),
        )
        for name, value in facts.measured.metrics.items()
        # mmdet says -1 where the data have no such objects.
        if value is not None and value >= 0
    ]
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=task,
        tags=list(facts.model.tags),
        datasets=[facts.dataset] if place else None,
        base_model=(facts.start and facts.start.repo) or None,
        model_name=facts.name,
        eval_results=results or None,
        **_licence_entries(facts),
    )
    return data.to_yaml()


def _licence_entries(facts: CardFacts) -> dict[str, Any]:
    """Return the entries of the licence; none if nothing asks for one."""
    start = facts.start or StartingWeights(UNKNOWN)
    # Behind the licence of who publishes weights, the table has others' claims.
    licence = facts.licence or start.licence.partition(' (')[0].partition(',')[0]
    if not licence:
        return {} if start.name == RANDOM else dict(license='unknown')
    identifier = re.sub(r'[^a-z0-9.]+', '-', licence.lower()).strip('-')
    if facts.licence or identifier in HUB_LICENCES:
        return dict(license=identifier)
    return dict(license='other', license_name=identifier)


# --- sections -------------------------------------------------------------------------------


def _summary(facts: CardFacts) -> str:
    model, count = facts.model, len(facts.data.classes)
    return (
        f'{escaped(model.architecture)} of {model.toolbox} with the backbone '
        f'{escaped(model.backbone)}. The model has {model.parameters / 1e6:,.1f} million '
        f'parameters; it {model.purpose} {count} class{"es" * (count != 1)}.'
    )


def _usage(facts: CardFacts) -> list[str]:
    toolbox = facts.model.toolbox
    name = facts.repo or (facts.name if PLAIN_NAME.fullmatch(facts.name) else 'FOLDER')
    place = (
        'is fetched from the hub; the path of a folder with these files can take its place'
        if facts.repo
        else 'is the folder with these files; the name of their repository, `OWNER/NAME`, can take '
        'its place'
    )
    whole = (
        'from convnext_backbones.config.loading import load_config\n'
        'from convnext_backbones.engine.build import build_model\n'
        'from convnext_backbones.weights.model_files import model_files\n\n'
        f"config, weights = model_files('{name}')\n"
        "model = build_model(load_config(config), str(weights), 'cpu')"
    )
    blocks = [
        f'Install convnext_backbones with its extra `{toolbox.removeprefix("mm")}`, and run the '
        f'command in its folder. `{name}` {place}.',
        f'```bash\npython tools/predict.py {name} IMAGES --out predictions\n```',
        f'The whole model in Python, for the functions of {toolbox} too:',
        f'```python\n{whole}\n```',
    ]
    if facts.model.options is not None:
        options = ''.join(f'    {k}={v!r},\n' for k, v in facts.model.options.items())
        blocks += [
            'Its backbone alone, for another model:',
            '```python\nfrom convnext_backbones import ConvNeXt, load_weights\n\n'
            f'backbone = ConvNeXt(\n{options})\n'
            f"print(load_weights(backbone, '{name}'))\n```",
        ]
        if facts.model.normalization:
            blocks.append(
                'It expects images that are normalized as the config of the whole model does: '
                f'{facts.model.normalization}.'
            )
    return blocks


def _limits(facts: CardFacts) -> str:
    count = len(facts.data.classes)
    classes = 'one class' if count == 1 else f'{count} classes'
    return (
        f'The model is for images like those of its training, and knows its {classes} only. '
        'Nothing here says how well it does on other images, or that it is fit for decisions about '
        'people or their safety: measure it on your own first.'
    )


def _metrics(facts: CardFacts) -> list[str]:
    measured = facts.measured
    if not measured.metrics:
        return ['Not measured.']
    rows = [
        f'| {escaped(name)} | {"–" if value is None else f"{value:{DIGITS}}"} |'
        for name, value in measured.metrics.items()
    ]
    unit = dict(
        mmseg='in percent', mmdet='fractions of one, and -1 where the data have no such objects'
    )[facts.model.toolbox]
    return [
        f'Of {escaped(facts.checkpoint)} on the {measured.split} data '
        f'({escaped(facts.dataset_name)}), {escaped(measured.source)}. Metrics of '
        f'{facts.model.toolbox} are {unit}.',
        '\n'.join(['| Metric | Value |', '| --- | ---: |', *rows]),
    ]


def _data(facts: CardFacts) -> list[str]:
    data = facts.data
    entries = {'name': facts.dataset_name, 'read as': data.format_, **data.counts}
    entries['classes'] = f'{len(data.classes)}: {", ".join(data.classes)}'
    counted = 'The data were counted when this card was written.'
    if not data.counts:
        counted = 'The numbers of images are not known: the data were not at hand.'
    elif data.problem:
        counted += ' What is not listed was not at hand.'
    return [_facts(entries), counted]


def _training(facts: CardFacts) -> list[str]:
    start = facts.start.name if facts.start else UNKNOWN
    if facts.start and facts.start.pretraining:
        start += f' ({facts.start.pretraining})'
    note = (
        ''
        if facts.recorded
        else (
            'The checkpoint does not say how it was trained. This is what the config given with it '
            'says.'
        )
    )
    return [note, _facts({'started from': start, **facts.training})]


def _licence(facts: CardFacts) -> str:
    start, own = facts.start, facts.licence
    unknown = 'is not known here; find it out before you use or share the model.'
    if start is None:
        begin = f'What the training started from is not known, so the licence of that {unknown}'
    elif start.name == RANDOM:
        begin = 'The training started from random numbers, so no weights of others ask for one.'
    elif start.licence:
        begin = (
            f'The training started from {escaped(start.name)}, whose licence is '
            f'{escaped(start.licence)}.'
        )
    else:
        begin = (
            f'The training started from {escaped(start.name)}. The licence of these weights '
            f'{unknown}'
        )
    if own:
        end = f'The publisher states {escaped(own)} for this model.'
    elif start and start.licence:
        end = 'This model is under the same licence, as far as its weights are concerned.'
    else:
        end = 'No licence is stated for this model.'
    return f'{begin} {end} The data of the training may have terms of their own.'


def _files(facts: CardFacts) -> list[str]:
    versions = ', '.join(f'{name} {number}' for name, number in facts.versions.items())
    return [
        f'- `model.safetensors`: the weights and the names of the classes. SHA-256: '
        f'`{facts.sha256}`\n'
        '- `config.json`: the network, the transforms of test images, and the classes\n\n'
        'Neither holds code.',
        f'Written by tools/publish.py with {escaped(versions)}.',
    ]
