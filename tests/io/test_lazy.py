"""Names that import their module on first use."""

import pytest

import safety_modules
from safety_modules import training


@pytest.mark.parametrize("package", [safety_modules, training])
def test_every_public_name_is_listed_and_comes_from_its_module(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is vars(package)[name]


def test_an_unknown_name_is_an_attribute_error_that_names_the_package():
    with pytest.raises(AttributeError, match=r"module 'safety_modules.training' has no attribute 'trian'"):
        _ = training.trian
