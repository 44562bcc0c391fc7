"""What README shows is true: its configs load and build, its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from convnext_backbones import VARIANTS
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.weights.zoo import PUBLISHED

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
CONFIGS = [block for block in re.findall(r'```python\n(.*?)```', README, re.S) if '_base_' in block]


@pytest.mark.parametrize(('number', 'most_lines'), [(0, 10), (1, 25)])
def test_config_of_readme_builds(number, most_lines, tmp_path):
    text = CONFIGS[number]
    assert len(text.splitlines()) <= most_lines
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')  # README's configs stand beside it
    path = tmp_path / 'config.py'
    path.write_text(text)
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'ConvNeXt'
    assert cfg.model.neck.in_channels == list(model.backbone.out_channels)


def test_commands_of_readme_exist():
    named = set(re.findall(r'(?:tools|configs)/[\w/]+\.(?:py|sh)', README))
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).is_file()] == []
    targets = set(re.findall(r'make (\w[\w-]*)', README)) - {'and'}
    for target in targets:
        subprocess.run(['make', '-n', target], cwd=ROOT, check=True, capture_output=True)


def test_links_of_readme_lead_to_files():
    links = [link for link in re.findall(r'\]\((.+?)\)', README) if '://' not in link]
    assert 'docs/demo.jpg' in links
    headings = re.findall(r'^#+ (.+)$', README, re.M)
    anchors = {f'#{heading.lower().replace(" ", "-")}' for heading in headings}
    assert [link for link in links if link not in anchors and not (ROOT / link).is_file()] == []


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_results_of_readme_are_those_of_the_table(name):
    experiment = EXPERIMENTS[name]
    link = f'| [`{name}`](configs/{name}.py) | '
    (row,) = (line for line in README.splitlines() if line.startswith(link))
    assert row.startswith(link + ' | '.join(map(str, experiment.paper_metrics.values())))
    assert f'({PUBLISHED[experiment.finetuned].url})' in row
    assert ('ImageNet-22K' in row) == ('22k' in experiment.weights)


def test_variants_of_readme_are_those_of_the_table():
    for name, variant in VARIANTS.items():
        sizes = (', '.join(map(str, values)) for values in (variant.depths, variant.dims))
        assert f'| {name} | {" | ".join(sizes)} |' in README
