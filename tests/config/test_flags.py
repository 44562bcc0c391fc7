"""The command line that all tools with a config share."""

import pytest

from convnext_backbones.config.flags import config_parser, runner_parser


def test_overrides_are_parsed_as_mmengine_does():
    options = ['a.b=1', 'c=[1,2]', 'd=x']
    args = config_parser('').parse_args(['config.py', '--cfg-options', *options])
    assert args.cfg_options == {'a.b': 1, 'c': [1, 2], 'd': 'x'}
    assert config_parser('').parse_args(['config.py']).cfg_options is None


def test_launchers_of_openmmlab_are_known():
    args = runner_parser('').parse_args(['config.py', '--launcher', 'slurm', '--local-rank', '1'])
    assert (args.launcher, args.work_dir) == ('slurm', None)


@pytest.mark.parametrize('option', ['model', 'a=[1,(2]', 'a=((1,2)'])
def test_an_override_that_cannot_be_parsed_is_an_error_of_usage(option, capsys):
    with pytest.raises(SystemExit) as error:
        config_parser('').parse_args(['config.py', '--cfg-options', option])
    assert error.value.code == 2
    assert f'expected KEY=VALUE with paired brackets, got {option!r}' in capsys.readouterr().err
