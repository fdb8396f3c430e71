"""The matrix products for the roofline limits are correct at every precision that a stack declares."""

import numpy as np
import pytest

from backends.registry import open_product, stacks
from conftest import OWN_STACK
from tests.contract.conftest import in_process

ORDER = 64


@in_process
@pytest.mark.parametrize("precision", stacks()[OWN_STACK].products)
def test_each_element_of_a_product_of_ones_is_the_order(precision) -> None:
    product = open_product(OWN_STACK, 1, precision, ORDER)()
    assert tuple(product.shape) == (ORDER, ORDER)
    assert np.all(product.float().numpy() == ORDER)
