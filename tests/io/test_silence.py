"""Nothing is said while silenced, and everything afterwards."""

import logging
import warnings

import pytest

from convnext_backbones.io.silence import silenced


def test_silence_ends_with_the_block(caplog):
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(KeyError), silenced(logging.WARNING):
            warnings.warn('hidden', stacklevel=1)
            logging.getLogger('some').warning('hidden')
            logging.getLogger('some').error('seen')
            raise KeyError
    assert logging.root.manager.disable == before
    logging.getLogger('some').warning('seen, too')
    assert [record.message for record in caplog.records] == ['seen', 'seen, too']
