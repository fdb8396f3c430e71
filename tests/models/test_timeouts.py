import pytest

from models.errors import UserError
from models.timeouts import timeout_factor


def test_timeouts_are_as_they_are_unless_the_user_multiplies_them(monkeypatch) -> None:
    monkeypatch.delenv("BENCH_TIMEOUT_FACTOR", raising=False)
    assert timeout_factor() == 1
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", "2.5")
    assert timeout_factor() == 2.5


@pytest.mark.parametrize("factor", ["0", "-1", "x", "", "nan", "inf", "1001"])
def test_a_factor_of_the_timeouts_is_a_sensible_number(factor, monkeypatch) -> None:
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", factor)
    with pytest.raises(UserError, match=r"BENCH_TIMEOUT_FACTOR=.*: allowed: a number above 0, up to 1000"):
        timeout_factor()
