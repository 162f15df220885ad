"""What the figures may cost: only readers that cost something are told, and an unknown price makes the sum unknown."""

from types import SimpleNamespace

from evolvedirector.planning.spending import Reader, figures_rows

LOCAL, FREE = object(), SimpleNamespace(price_usd=lambda: 0.0, requests_in_flight=4)
HOSTED = SimpleNamespace(price_usd=lambda: 0.01, requests_in_flight=4)
UNKNOWN = SimpleNamespace(price_usd=lambda: None, requests_in_flight=4)


def test_readers_that_cost_something_are_told_with_their_sum() -> None:
    readers = [Reader("a.reader", HOSTED, 200), Reader("b.reader", LOCAL, 500), Reader("c.judge", FREE, 1000)]
    assert figures_rows(readers, {"WinRate": 1.5}, 10.0) == {
        "looks of a.reader (outside the budget)": "at most 200 x 0.01 USD = 2.00 USD",
        "looks of c.judge (outside the budget)": "at most 1,000",
        "images of WinRate (most, once, outside the budget)": "1.50 USD",
        "cost in all (most)": "13.50 USD; a hosted writer comes on top",
    }


def test_nothing_is_told_where_everything_runs_here() -> None:
    assert figures_rows([Reader("a.reader", LOCAL, None)], {}, 10.0) == {}


def test_what_is_not_known_is_told() -> None:
    rows = figures_rows([Reader("a.reader", UNKNOWN, 7), Reader("b.reader", HOSTED, None)], {"WinRate": None}, 1.0)
    assert rows["looks of a.reader (outside the budget)"] == (
        "at most 7, price of a look unknown: set its cost_usd_per_look"
    )
    assert rows["looks of b.reader (outside the budget)"] == "not bounded, 0.01 USD each"
    assert rows["images of WinRate (most, once, outside the budget)"] == "not known: a price is missing"
    assert rows["cost in all (most)"].startswith("not known")
    assert figures_rows([Reader("a.reader", HOSTED, 7)], {}, None)["cost in all (most)"].startswith("not known")
