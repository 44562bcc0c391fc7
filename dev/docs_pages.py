"""Generated parts of the documentation: tables of the package and the help of the commands.

A page of ``docs/`` marks the place with a line ``<!-- generated: NAME -->``, where NAME is a key of
:data:`PARTS`. Sphinx loads this module as an extension (``docs/conf.py``) and fills the places when
it reads a page, so the repository holds no second copy of a table or a help text.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / 'tools'
LAUNCHERS = ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh')
DOCTOR = 'python -m convnext_backbones.doctor'
PLACE = re.compile(r'^<!-- generated: ([\w-]+) -->$', re.MULTILINE)
HELP_WIDTH = 80  # columns, so that a block of help fits the text width of the site


def fill(text: str) -> str:
    """Replace the marked places of a page with the generated parts.

    Raises:
        ValueError: The page names an unknown part.
    """

    def part(match: re.Match) -> str:
        if match[1] not in PARTS:
            raise ValueError(f'expected one of {", ".join(PARTS)}, got {match[0]}')
        return PARTS[match[1]]()

    return PLACE.sub(part, text)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a Markdown table."""
    lines = [headings, ['---'] * len(headings), *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


# --- tables ---------------------------------------------------------------------------------


def results(segmentors: bool) -> str:
    """Tabulate the authors' results of the segmentors, or of the detectors."""
    from convnext_backbones import PUBLISHED
    from convnext_backbones.experiments import EXPERIMENTS

    chosen = {
        name: one
        for name, one in EXPERIMENTS.items()
        if ('mIoU' in one.paper_metrics) == segmentors
    }
    metrics = next(iter(chosen.values())).paper_metrics
    headings = ('config', *metrics, 'params', 'GMACs', 'ImageNet', 'result')
    return table(
        headings,
        (
            (
                f'[`{name}`](../configs/{name}.py)',
                *one.paper_metrics.values(),
                f'{one.paper_params} M',
                one.paper_gmacs,
                '22K' if '22k' in one.weights else '1K',
                f'[weights]({PUBLISHED[one.finetuned].url})',
            )
            for name, one in chosen.items()
        ),
    )


def recipes() -> str:
    """Tabulate the settings in which the experiments differ."""
    from convnext_backbones.experiments import EXPERIMENTS

    models = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
    metadata = {model['Name']: model['Metadata'] for model in models}

    def length(name: str) -> str:
        facts = metadata[name]
        if 'Epochs' in facts:
            return f'{facts["Epochs"]} epochs'
        return f'{facts["Iterations"]:,} iterations'

    headings = ('config', 'learning rate', 'decay rate', 'drop path', 'AMP', 'length', 'batch')
    return table(
        headings,
        (
            (
                f'`{name}`',
                f'{one.lr:g}',
                one.decay_rate,
                one.drop_path_rate,
                'yes' if one.amp else 'no',
                length(name),
                metadata[name]['Batch Size'],
            )
            for name, one in EXPERIMENTS.items()
        ),
    )


def head_recipes() -> str:
    """Tabulate the ready configs of other heads."""
    from convnext_backbones.recipes import HEAD_RECIPES, config_of

    return table(
        ('config', 'head', 'weights'),
        (
            (f'[`{name}`](../configs/{config_of(name)})', one.method, f'`{one.weights}`')
            for name, one in HEAD_RECIPES.items()
        ),
    )


def variants() -> str:
    """Tabulate the sizes of the backbone, with counted parameters."""
    import torch

    from convnext_backbones import VARIANTS, ConvNeXt

    def millions(name: str) -> str:
        with torch.device('meta'):
            backbone = ConvNeXt(name)
        return f'{sum(parameter.numel() for parameter in backbone.parameters()) / 1e6:.1f} M'

    return table(
        ('arch', 'depths', 'dims', 'parameters'),
        (
            (
                f'`{name}`',
                ', '.join(map(str, variant.depths)),
                ', '.join(map(str, variant.dims)),
                millions(name),
            )
            for name, variant in VARIANTS.items()
        ),
    )


def classifier_layers() -> str:
    """Tabulate the layers of ConvNeXt-T for ImageNet, with the first block of each stage only."""
    from convnext_backbones.benchmark.complexity import build_classifier
    from convnext_backbones.benchmark.layer_report import totals
    from convnext_backbones.benchmark.layers import list_layers

    found = list_layers('tiny', build_classifier('tiny'), (224, 224))
    rows = table(
        ('layer', 'in Keras', 'output', 'parameters'),
        (
            (
                f'`{layer.name}`',
                f'`{layer.keras}`' if layer.keras else '',
                ' x '.join(map(str, layer.shape or ())),
                f'{layer.params:,}',
            )
            for layer in found.layers
            if not re.match(r'stages\.\d+\.[1-9]', layer.name)
        ),
    )
    return f'{rows}\n\n{totals(found)}'


def weights() -> str:
    """Tabulate the published weights; those of detectors are beside their configs."""
    from convnext_backbones import PUBLISHED

    rows = {name: one.facts() for name, one in PUBLISHED.items() if not one.method}
    headings = ['name', *next(iter(rows.values()))]
    return table(
        headings,
        (
            (f'`{name}`', *('' if value is None else value for value in facts.values()))
            for name, facts in rows.items()
        ),
    )


def versions() -> str:
    """Tabulate the tested versions of both stacks."""
    from convnext_backbones.io import tested_versions as versions

    pythons = versions.tested_pythons()
    packages = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation')
    # All tests run on the first Python, and only there with a fork.
    columns = [['Python', *packages], [', '.join(sorted(pythons))], [pythons[0]]]
    for column, (stack, names) in zip(columns[1:], versions.read_stacks().items(), strict=True):
        tested = versions.read_table(versions.stack_table(stack))
        for name in packages:
            own = names.get(name, name)
            column.append(tested[own] if own == name else f'{own} {tested[own]}')
    return table(('package', 'OpenMMLab', 'OneDL'), zip(*columns, strict=True))


@functools.cache
def road(regime: str) -> list:
    """Count the steps from ResNet to ConvNeXt in a regime."""
    from convnext_backbones.benchmark.roadmap import count_road

    return count_road([regime])


def road_table(regime: str) -> str:
    """Tabulate the steps of a regime, counted, beside the paper's figures."""
    from rich import box

    from convnext_backbones.benchmark.roadmap import steps_table

    return steps_table(road(regime), box.MARKDOWN)


def road_notes() -> str:
    """Say which cells of both tables differ from the paper's, and why."""
    from convnext_backbones.benchmark.roadmap import notes

    return '\n\n'.join(notes(road('T') + road('B')))


def road_kinds() -> str:
    """Tabulate the multiply-adds of regime T by kind of layer."""
    from rich import box

    from convnext_backbones.benchmark.roadmap import kinds_table

    return kinds_table(road('T'), box.MARKDOWN)


def road_blocks() -> str:
    """Picture the blocks of regime T."""
    from convnext_backbones.benchmark.roadmap_blocks import block_pictures

    return f'```text\n{block_pictures("T")}\n```'


# --- commands -------------------------------------------------------------------------------


def call(main: Callable, program: str, *arguments: str) -> str:
    """Run a command line in this process and return what it prints before it exits."""
    text = io.StringIO()
    environment = dict(COLUMNS=str(HELP_WIDTH), NO_COLOR='1')
    with (
        patch.dict(os.environ, environment),
        patch.object(sys, 'argv', [program]),
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
    ):
        main([*arguments])
    return text.getvalue().rstrip()


def subcommands(text: str) -> list[str]:
    """List the subcommands that a help text names below its COMMAND."""
    _, found, rest = text.partition('  COMMAND\n')
    return re.findall(r'^    (\w+) ', rest, re.MULTILINE) if found else []


def tool_sections() -> Iterator[str]:
    """Write a section for each Python script of ``tools/``, with its help."""
    for path in sorted(TOOLS.glob('*.py')):
        main = importlib.import_module(f'tools.{path.stem}').main
        program = f'tools/{path.name}'
        yield f'### {program}\n\n{helps(main, program)}'


def helps(main: Callable, program: str) -> str:
    """Write the help of a command, and those of its subcommands."""
    texts = [call(main, program, '--help')]
    texts += [call(main, program, name, '--help') for name in subcommands(texts[0])]
    return '\n\n'.join(f'```text\n{text}\n```' for text in texts)


def launcher_sections() -> Iterator[str]:
    """Write a section for each shell launcher, with the comment at its top."""
    for name in LAUNCHERS:
        lines = (TOOLS / name).read_text().splitlines()[1:]
        stop = next(number for number, line in enumerate(lines) if not line.startswith('#'))
        comment = '\n'.join(line.removeprefix('#').removeprefix(' ') for line in lines[:stop])
        yield f'### tools/{name}\n\n```text\n{comment}\n```'


def doctor_section() -> str:
    """Write the section of the doctor."""
    from convnext_backbones import doctor

    text = call(doctor.main, 'convnext_backbones.doctor', '--help')
    return f'### {DOCTOR}\n\n```text\n{text}\n```'


def weights_section() -> str:
    """Write the section of the command that knows the published weights."""
    from convnext_backbones.weights.__main__ import PROGRAM, main

    return f'### {PROGRAM}\n\n{helps(main, PROGRAM)}'


def make_targets() -> str:
    """Tabulate the targets of the Makefile."""
    makefile = (ROOT / 'Makefile').read_text()
    found = re.findall(r'^([\w-]+):.*?##\s*(.+)$', makefile, re.MULTILINE)
    return table(('command', 'what it does'), ((f'`make {name}`', text) for name, text in found))


PARTS: dict[str, Callable[[], str]] = {
    'coco-results': lambda: results(segmentors=False),
    'ade20k-results': lambda: results(segmentors=True),
    'recipes': recipes,
    'head-recipes': head_recipes,
    'variants': variants,
    'classifier-layers': classifier_layers,
    'weights': weights,
    'versions': versions,
    'roadmap-t': lambda: road_table('T'),
    'roadmap-b': lambda: road_table('B'),
    'roadmap-notes': road_notes,
    'roadmap-kinds': road_kinds,
    'roadmap-blocks': road_blocks,
    'tools': lambda: '\n\n'.join(tool_sections()),
    'launchers': lambda: '\n\n'.join(launcher_sections()),
    'doctor': doctor_section,
    'weights-command': weights_section,
    'make-targets': make_targets,
}


def setup(app: Any) -> dict:
    """Let Sphinx fill the places of each page when it reads it."""

    def fill_page(app: Any, page: str, source: list[str]) -> None:
        source[0] = fill(source[0])

    app.connect('source-read', fill_page)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
