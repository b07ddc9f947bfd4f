"""The few largest of many, for Numba: a short sorted list that most candidates never touch."""

from __future__ import annotations

from numba import njit


@njit(nogil=True)
def insert(value, index, values, ids, count):
    """Insert (value, index) into the descending lists `values`, `ids`; return the new count, at most their length.

    Among equal values the one inserted first stays first, so feeding indices in ascending order breaks ties by index.
    """
    size = values.size
    if count == size:
        if size == 0 or not value > values[size - 1]:
            return count
        place = size - 1
    else:
        place = count
        count += 1
    while place > 0 and value > values[place - 1]:
        values[place], ids[place] = values[place - 1], ids[place - 1]
        place -= 1
    values[place], ids[place] = value, index
    return count
