"""The model index says what the table of experiments says, and mim's reader accepts it."""

from pathlib import Path

import pytest
from modelindex.load_model_index import load

from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.recipes import HEAD_RECIPES, RECIPES, config_of
from convnext_backbones.weights.published import find_published
from convnext_backbones.weights.zoo import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def models() -> dict:
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    return {model.name: model for model in index.models}


def test_every_experiment_is_in_the_index(models):
    assert list(models) == [*EXPERIMENTS, *RECIPES, *HEAD_RECIPES]


@pytest.mark.parametrize('name', [*RECIPES, *HEAD_RECIPES])
def test_an_entry_of_ours_has_no_results(models, name):
    model, recipe = models[name], {**RECIPES, **HEAD_RECIPES}[name]
    assert model.config == f'configs/{config_of(name)}' and (ROOT / model.config).is_file()
    assert not model.results and not model.weights
    metadata = model.metadata.data
    assert metadata['Source of Figures'] == 'not measured'
    assert metadata['Pretraining'] == recipe.pretraining
    assert metadata['Licence of the Weights'] == find_published(recipe.weights).licence


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_entry_is_a_row_of_the_table(models, name):
    model, experiment = models[name], EXPERIMENTS[name]
    assert model.config == f'configs/{name}.py' and (ROOT / model.config).is_file()
    metrics = {}
    for result in model.results:
        metrics |= result.metrics
    assert metrics == experiment.paper_metrics
    assert model.weights == PUBLISHED[experiment.finetuned].url
    metadata = model.metadata.data
    assert metadata['FLOPs'] == experiment.paper_gmacs * 10**9
    assert metadata['Parameters'] == experiment.paper_params * 10**6
    assert metadata['Source of Figures'] == 'the authors'
    assert metadata['Pretraining'] == experiment.pretraining
    assert ('22K' in experiment.pretraining) == ('22k' in experiment.weights)
