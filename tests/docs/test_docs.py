"""What README and the pages of docs/ show is true: configs build, code and commands run, links lead
somewhere, tables and flags are those of the package.
"""

import argparse
import functools
import html
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import convnext_backbones
from convnext_backbones import PUBLISHED, VARIANTS, ConvNeXt, ConvNeXtClassifier
from convnext_backbones.config.loading import load_config
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.io import tested_versions
from convnext_backbones.weights.keras_writing import write_keras
from dev import docs_pages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
README = ROOT / 'README.md'
PAGES = [README, *sorted(DOCS.glob('*.md'))]
GENERATOR = ('sphinx', 'myst_parser', 'pydata_sphinx_theme')
# The launchers: the tool that each starts, and the arguments that are its own.
LAUNCHERS = {
    'tools/dist_train.sh': ('train', (1,)),
    'tools/dist_test.sh': ('test', (2,)),
    'tools/slurm_train.sh': ('train', (0, 1)),
    'tools/slurm_test.sh': ('test', (0, 1)),
}
FOREIGN_FLAGS = {'--signal', '--index-url', '--no-deps', '--target'}  # of srun, of pip
FOREIGN_FLAGS |= {'--local-dir'}  # of hf

of_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE)


@functools.cache
def filled(page: Path) -> str:
    """A page as the site shows it."""
    return docs_pages.fill(page.read_text())


# --- size -----------------------------------------------------------------------------------


def test_readme_is_one_screen():
    assert len(README.read_text().splitlines()) <= 130


# --- Python blocks --------------------------------------------------------------------------

PYTHON = [(page, text) for page in PAGES for text in blocks(page, 'python')]
CONFIGS = [(page, text) for page, text in PYTHON if '_base_ =' in text]
FRAGMENTS = [(page, text) for page, text in PYTHON if '_base_' not in text and 'import' not in text]
CODE = [(page, text) for page, text in PYTHON if '_base_' not in text and 'import' in text]


def each(cases: list) -> pytest.MarkDecorator:
    """Parametrize by page and number."""
    ids = [f'{page.stem}-{number}' for number, (page, _) in enumerate(cases)]
    return pytest.mark.parametrize(('page', 'text'), cases, ids=ids)


def test_there_are_configs_of_every_kind():
    pages = {page.stem for page, _ in CONFIGS}
    assert {'README', 'quickstart', 'detection', 'label_maps', 'experiments'} <= pages
    assert len(PYTHON) == len(CONFIGS) + len(FRAGMENTS) + len(CODE)


@each(CONFIGS)
def test_config_builds(page, text, tmp_path):
    assert len(text.splitlines()) <= (10 if page == README else 25)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')  # a user's config stands beside the folder
    (tmp_path / '_base_').symlink_to(ROOT / 'configs' / '_base_')  # a published one stands in it
    path = tmp_path / 'config.py'
    path.write_text(text)
    cfg = load_config(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert type(model.backbone) is ConvNeXt
    follower = cfg.model.get('neck') or cfg.model.decode_head
    assert list(follower.in_channels) == list(model.backbone.out_channels)
    if 'classes' in cfg:
        head = cfg.model.decode_head if 'decode_head' in cfg.model else cfg.model.roi_head.bbox_head
        assert head.num_classes == len(cfg.classes)


def test_the_shown_published_config_is_the_file():
    (text,) = blocks(DOCS / 'experiments.md', 'python')
    assert (ROOT / 'configs' / 'upernet_convnext_t.py').read_text().endswith(text)


@each(FRAGMENTS)
def test_fragment_of_a_config_loads(page, text):
    assert len(Config.fromstring(text, '.py'))


@each(CODE)
def test_code_runs(page, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = dict(torch=torch)
    if 'images' in text:
        names['images'] = torch.zeros(1, 3, 64, 64)
    if 'load_weights' in text:
        torch.save(ConvNeXtClassifier('tiny').state_dict(), 'convnext_tiny_1k_224.pth')
        monkeypatch.setenv('CONVNEXT_BACKBONES_WEIGHTS', str(tmp_path))
        names['model'] = ConvNeXt('tiny')
    if 'mine.weights.h5' in text:
        write_keras('mine.weights.h5', ConvNeXtClassifier('tiny', num_classes=10).state_dict())
    if 'in loader' in text:
        names['loader'] = [(torch.zeros(2, 3, 64, 64), torch.tensor([0, 9]))]
    if 'optimize_for_inference' in text:
        names['model'] = ConvNeXt('atto')
    if 'mmdet.apis' in text:
        apis = importlib.import_module('mmdet.apis')
        for name in ('init_detector', 'inference_detector'):
            monkeypatch.setattr(apis, name, mock.create_autospec(getattr(apis, name)))
    exec(compile(text, page.name, 'exec'), names)
    printed = capsys.readouterr().out
    for shape in re.findall(r'print\(.*\.shape.*# .*?(\(\d.*?\))', text):  # as the page says
        assert f'torch.Size([{shape[1:-1]}])' in printed
    if 'print(load_weights' in text:
        counts = '(official layout): 178 loaded, 8 missing, 4 dropped'
        assert counts in printed and counts in page.read_text()


# --- commands -------------------------------------------------------------------------------


class Parsed(BaseException):
    """Raised in the place of what a command does, once its arguments are understood."""


def parse(module: str, arguments: list[str]) -> str:
    """Give a tool's own parser some arguments; the complaint, or nothing."""
    main = importlib.import_module(module).main

    def stopping(name):
        original = getattr(argparse.ArgumentParser, name)

        def parse_args(parser, args=None, namespace=None):
            original(parser, args, namespace)
            raise Parsed

        return parse_args

    names = ('parse_args', 'parse_intermixed_args')
    with mock.patch.multiple(argparse.ArgumentParser, **{name: stopping(name) for name in names}):
        try:
            main(arguments)
        except Parsed:
            return ''
        except SystemExit as error:
            return f'{module} {arguments}: exit status {error.code}'
    return f'{module} {arguments}: the arguments were not parsed'


def complaint(line: str) -> str:
    """What is wrong with a command line of a page; nothing if it would start."""
    words = shlex.split(line, comments=True)
    while words and re.match(r'[A-Z_]+=', words[0]):
        words.pop(0)
    command, *arguments = words
    if command == 'python' and arguments[0] == '-m':
        is_package = (ROOT / arguments[1].replace('.', '/')).is_dir()
        return parse(arguments[1] + '.__main__' * is_package, arguments[2:])
    if command == 'python':
        script = Path(arguments[0])
        if script.parent.name not in ('tools', 'dev') or not (ROOT / script).is_file():
            return f'{script} does not exist'
        return parse(f'{script.parent.name}.{script.stem}', arguments[1:])
    if command in LAUNCHERS:
        tool, own = LAUNCHERS[command]
        if 'dist' in command and not arguments[own[0]].isdigit():
            return f'{line}: expected the number of processes'
        handed_on = [word for number, word in enumerate(arguments) if number not in own]
        return parse(f'tools.{tool}', handed_on)
    if command == 'make':
        run = subprocess.run(['make', '-n', *arguments], cwd=ROOT, capture_output=True, text=True)
        return run.stderr if run.returncode else ''
    if command == 'pip' and arguments[0] == 'install':
        return pip_complaint(arguments[1:])
    if command == 'source':
        return '' if arguments == ['.venv/bin/activate'] else line
    return f'{line}: not a known command'


def pip_complaint(arguments: list[str]) -> str:
    """What is wrong with the arguments of ``pip install``."""
    extras = re.findall(r"'(\w+)': [A-Z]+\b", (ROOT / 'setup.py').read_text())
    known = {'.', 'torch', 'torchvision', 'safetensors', *(f'.[{extra}]' for extra in extras)}
    for option in ('--no-deps', '--index-url'):
        if option in arguments:
            start = arguments.index(option)
            del arguments[start : start + 1 + (option == '--index-url')]
    unknown = [word for word in arguments if word not in known]
    if unknown or not arguments:
        return f'pip install: expected some of {", ".join(sorted(known))}, got {unknown}'
    return ''


def commands(page: Path) -> list[str]:
    """The command lines that a page shows."""
    texts = [text.replace('\\\n', ' ') for text in blocks(page, 'bash')]
    lines = [line for text in texts for line in text.splitlines()]
    lines += re.findall(r'^    (make .+)', page.read_text(), re.MULTILINE)
    return [line for line in lines if line.strip() and not line.startswith('#')]


@of_page
def test_commands_start(page):
    assert [found for line in commands(page) if (found := complaint(line))] == []


@pytest.mark.parametrize(
    'line',
    [
        'python tools/train.py CONFIG --no-such-flag',
        'python tools/absent.py CONFIG',
        'tools/dist_train.sh CONFIG --resume 8',
        'make no-such-target',
        "pip install '.[absent]'",
        'pip install --no-deps',
        'rm -rf /',
    ],
)
def test_wrong_commands_are_noticed(line):
    assert complaint(line)


def test_the_commands_are_many():
    assert len([line for page in PAGES for line in commands(page)]) > 60
    readme = '\n'.join(commands(README))
    assert all(f'make {target}' in readme for target in ('demo', 'test'))


def test_ci_calls_the_test_command_of_readme():
    assert re.search(r'^make test$', (ROOT / '.ci' / 'run').read_text(), re.MULTILINE)


@of_page
def test_make_targets_in_the_text_exist(page):
    targets = set(re.findall(r'`make ([\w-]+)', page.read_text()))
    assert [target for target in targets if complaint(f'make {target}')] == []


@of_page
def test_named_files_exist(page):
    folders = 'tools|configs|dev|docs|tests|convnext_backbones'
    named = re.findall(rf'(?<![\w/.])(?:{folders})/[\w/]+\.(?:py|sh|md|txt|yml)', page.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


@of_page
def test_flags_exist(page):
    flags = set(re.findall(r'(?<![\w-])--[a-z][a-z-]*', page.read_text()))
    known = set(re.findall(r'--[a-z][a-z-]*', filled(DOCS / 'commands.md'))) | FOREIGN_FLAGS
    assert flags - known == set()


# --- links ----------------------------------------------------------------------------------


def anchors(text: str, hosts: bool) -> set[str]:
    """The anchors of the headings of a page.

    Args:
        text: The page.
        hosts: Only in the form of code hosts, which show README; the site has docutils' too.
    """
    headings = [heading.strip('`') for heading in re.findall(r'^#{1,3} (.+)$', text, re.MULTILINE)]
    found = {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}
    if not hosts:
        found |= {re.sub(r'[^a-z0-9]+', '-', heading.lower()).strip('-') for heading in headings}
    return found


@of_page
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r'\]\(([^)\s]+)\)', filled(page)):
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        if '://' in link:
            continue
        found = target.is_file() and target.is_relative_to(ROOT)
        if found and anchor:
            found = anchor in anchors(filled(target), hosts=page == README)
        if not found:
            broken.append(link)
    assert broken == []


def test_readme_shows_the_picture_and_links_every_page():
    links = set(re.findall(r'\]\(([^)\s]+)\)', README.read_text()))
    assert 'docs/demo.jpg' in links
    pages = {f'docs/{page.name}' for page in PAGES if page.parent == DOCS}
    assert pages - links == {'docs/index.md'}


def test_the_table_of_contents_has_every_page():
    toctrees = re.findall(
        r'^```\{toctree\}\n(.*?)^```', (DOCS / 'index.md').read_text(), re.S | re.M
    )
    listed = [line for text in toctrees for line in text.splitlines() if line[:1].isalpha()]
    assert sorted([*listed, 'index']) == sorted(page.stem for page in DOCS.glob('*.md'))


# --- tables and help texts ------------------------------------------------------------------


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_results_are_those_of_the_table(name):
    experiment = EXPERIMENTS[name]
    pretraining = '22K' if '22k' in experiment.weights else '1K'
    in_readme = ', '.join(f'{key} {value}' for key, value in experiment.paper_metrics.items())
    in_docs = ' | '.join(map(str, experiment.paper_metrics.values()))
    for page, link, metrics, imagenet in (
        (README, f'configs/{name}.py', in_readme, f'ImageNet-{pretraining}'),
        (DOCS / 'experiments.md', f'../configs/{name}.py', in_docs, pretraining),
    ):
        start = f'| [`{name}`]({link}) | '
        (row,) = (line for line in filled(page).splitlines() if line.startswith(start))
        assert row.startswith(start + metrics + ' | ')
        assert f'({PUBLISHED[experiment.finetuned].url})' in row
        assert f' | {imagenet} | ' in row


def test_recipes_are_those_of_the_table():
    rows = filled(DOCS / 'experiments.md').splitlines()
    for name, one in EXPERIMENTS.items():
        start = f'| `{name}` | {one.lr:g} | {one.decay_rate} | {one.drop_path_rate} |'
        assert len([row for row in rows if row.startswith(start)]) == 1


def test_variants_are_those_of_the_table():
    for name, variant in VARIANTS.items():
        sizes = (', '.join(map(str, values)) for values in (variant.depths, variant.dims))
        assert f'| `{name}` | {" | ".join(sizes)} |' in filled(DOCS / 'models.md')


def test_the_layers_of_the_classifier_are_those_of_keras():
    page = filled(DOCS / 'classifier.md')
    for row in (
        '| `downsample_layers.0.0` | `convnext_tiny_stem_conv` | 1 x 96 x 56 x 56 | 4,704 |',
        '| `norm` | `convnext_tiny_head_layernorm` | 1 x 768 | 1,536 |',
        '| `head` | `convnext_tiny_head_dense` | 1 x 1000 | 769,000 |',
        'Parameters: 28,589,128. Trainable: 28,589,128. Not trainable: 0.',
    ):
        assert row in page.splitlines()
    note = 'the file has 1000 classes and the model 10: head keeps the values that it had'
    assert f'    {note}\n' in page  # tests/weights/test_matching.py has the same sentence


def test_every_published_name_is_listed():
    page = filled(DOCS / 'weights.md')
    finetuned = {experiment.finetuned for experiment in EXPERIMENTS.values()}
    assert [
        name for name in PUBLISHED if f'| `{name}` |' not in page and name not in finetuned
    ] == []


def test_tested_versions_are_listed():
    page = filled(DOCS / 'installation.md')
    assert f'| Python | {", ".join(sorted(tested_versions.tested_pythons()))} |' in page
    for table in (ROOT / 'convnext_backbones').glob('tested_versions*.txt'):
        for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation'):
            for version in re.findall(rf'^(?:onedl-)?{name}\w*==(\S+)', table.read_text(), re.M):
                assert version in page


def test_every_command_has_its_help():
    page = filled(DOCS / 'commands.md')
    tools = [path.name for path in (ROOT / 'tools').glob('*.py')]
    assert len(tools) > 8
    for name in tools:
        assert f'### tools/{name}\n\n```text\nusage: {name} ' in page
    for name in LAUNCHERS:
        assert f'### {name}\n' in page and f'  {name} ' in page
    assert 'usage: convnext_backbones.doctor ' in page
    assert 'usage: python -m convnext_backbones.weights list ' in page
    targets = re.findall(r'^([\w-]+):.*##', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert [target for target in targets if f'| `make {target}` |' not in page] == []


def test_every_public_name_is_in_the_api():
    page = (DOCS / 'api.md').read_text()
    names = {*convnext_backbones.__all__} - {'__version__'}
    documented = re.findall(
        r'^\.\. (?:autoclass|autofunction|py:data):: ([\w.]+)', page, re.MULTILINE
    )
    assert names <= {path.rpartition('.')[2] for path in documented}


def test_environment_variables_are_those_of_the_package():
    sources = [*(ROOT / 'convnext_backbones').rglob('*.py'), *(ROOT / 'tools').glob('*.sh')]
    code = '\n'.join(path.read_text() for path in sources)
    pattern = r'CONVNEXT_BACKBONES_[A-Z_]+'
    shown = {name for page in PAGES for name in re.findall(pattern, page.read_text())}
    assert shown == set(re.findall(pattern, code))
    page = (DOCS / 'commands.md').read_text().partition('## Environment variables')[2]
    assert [name for name in re.findall(r'`([A-Z_]+)`', page) if name not in code] == []


def test_unknown_parts_are_noticed():
    with pytest.raises(ValueError, match='expected one of .*, got <!-- generated: absent -->'):
        docs_pages.fill('<!-- generated: absent -->')


# --- the site -------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does it."""
    missing = [name for name in GENERATOR if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f'not installed: {", ".join(missing)}')
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'sphinx', *SPHINX_FLAGS, str(DOCS), str(folder)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


SPHINX_FLAGS = ['--fresh-env', '--fail-on-warning', '--keep-going', '--quiet']


def test_make_docs_builds_as_the_test_does():
    run = subprocess.run(['make', '-n', 'docs'], cwd=ROOT, capture_output=True, text=True)
    assert ' '.join(SPHINX_FLAGS) in run.stdout


def test_site_has_every_page_and_needs_no_network(site):
    for page in DOCS.glob('*.md'):
        text = (site / f'{page.stem}.html').read_text()
        resources = re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="([^"]+)"', text)
        assert [source for source in resources if re.match(r'(?:https?:)?//', source)] == []
        assert '<!-- generated' not in text


def test_links_of_the_site_lead_somewhere(site):
    texts = {path.name: path.read_text() for path in site.glob('*.html')}
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    broken = []
    for name, text in texts.items():
        for link in re.findall(r'<a\b[^>]*href="([^"]+)"', text):
            path, _, anchor = html.unescape(link).partition('#')
            if '://' in path or not (path or anchor):
                continue
            target = path or name
            if not (site / target).is_file() or (anchor and anchor not in ids.get(target, ())):
                broken.append(f'{name}: {link}')
    assert broken == []
