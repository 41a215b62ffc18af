"""Rows in a temporary file."""

from ovss_ray.io.sorted_rows import Rows, row


def test_rows_come_in_the_order_they_were_given_or_in_another() -> None:
    given = [("b", 1), ("a", 2), ("a", 1)]
    assert list(Rows(row, "name, number", given)) == given
    assert list(Rows(row, "name, number", given, order="name, number DESC")) == [("a", 2), ("a", 1), ("b", 1)]


def test_rows_may_be_added_while_others_are_read() -> None:
    first, second = Rows(row, "name", [("a",), ("b",)]), Rows(row, "name, number", ())
    for i, (name,) in enumerate(first):
        second.add(name, i)
    assert (list(second), len(second)) == ([("a", 0), ("b", 1)], 2)


def test_rows_that_repeat_are_known() -> None:
    rows = Rows(row, "name, number, kind", [("a", 1, 0), ("a", 2, 0), ("b", 1, 0), ("b", 1, 1)])
    assert rows.repeats("name")
    assert rows.repeats("name, number")
    assert not rows.repeats("name, number", "kind = 0")
    assert not rows.repeats("name, number, kind")
