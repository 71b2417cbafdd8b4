"""The names that are known without PyTorch are those that the library has."""

import inspect

import pytest

from aevb_ext import estimators, learners, models, paper
from aevb_ext.cli.commands.evaluate import _LOG_LIKELIHOOD
from aevb_ext.cli.config import KEYS, MODEL, SETTINGS
from aevb_ext.configuration import choices
from aevb_ext.configuration.datasets import KNOWN
from aevb_ext.configuration.settings import CHOICES
from aevb_ext.data.known import READERS

pytestmark = pytest.mark.once("names are Python's")

# What is said without PyTorch, and the table of what the names are of.
TABLES = {
    "learner": (choices.LEARNER_TRAITS, learners.LEARNERS),
    "estimator": (choices.ESTIMATORS, estimators.ESTIMATORS),
    "log-likelihood estimator": (choices.LOG_LIKELIHOOD_ESTIMATORS, _LOG_LIKELIHOOD),
    "architecture": (choices.MODEL_CHOICES["architecture"], models.ARCHITECTURES),
    "activation": (choices.MODEL_CHOICES["activation"], models.ACTIVATIONS),
    "likelihood": (choices.MODEL_CHOICES["likelihood"], models.LIKELIHOODS),
    "figure": (choices.FIGURES, paper.FIGURES),
    "dataset": (KNOWN, READERS),
}


@pytest.mark.parametrize("kind", TABLES)
def test_names_are_those_of_the_table(kind):
    said, table = TABLES[kind]
    assert list(said) == list(table)


def test_traits_are_of_their_learner():
    for name, learner in learners.LEARNERS.items():
        assert learner.TRAITS is choices.LEARNER_TRAITS[name]
        # Its options are arguments that it takes, beside those of every learner.
        assert set(learner.TRAITS.options) <= set(inspect.signature(learner).parameters) & set(SETTINGS)


def test_default_numbers_of_samples_are_those_of_the_functions():
    for name, samples in choices.LOG_LIKELIHOOD_ESTIMATORS.items():
        parameter = inspect.signature(_LOG_LIKELIHOOD[name]).parameters.get("n_samples")
        assert samples == (None if parameter is None else parameter.default)


def test_keys_of_a_model_are_options_of_an_architecture():
    options = {name for build, _ in models.ARCHITECTURES.values() for name in inspect.signature(build).parameters}
    assert set(MODEL) - {"architecture"} <= options


def test_every_option_of_several_names_is_a_key():
    assert {*CHOICES, *choices.MODEL_CHOICES, "binarize"} <= set(KEYS)


@pytest.mark.parametrize("figure", choices.FIGURES)
def test_the_data_of_a_figure_is_that_of_its_runs(figure):
    runs = paper.FIGURES[figure].plan(1000, 1)
    assert {run.keys["data"] for run in runs} == set(choices.FIGURES[figure].data)
