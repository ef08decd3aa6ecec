"""Combinations of options in which every pair of values occurs."""

import itertools


def all_pairs(factors, is_allowed):
    """
    Combinations such that every allowed pair of values of two factors is in one of them, by a greedy search.

    :param factors: Values of each factor, by its name
    :param is_allowed: Whether a combination of some or all factors is allowed, a predicate on a dict
    :return: The combinations, dicts
    """
    names = list(factors)
    missing = {
        (one, i, other, j)
        for one, other in itertools.combinations(names, 2)
        for i, j in itertools.product(range(len(factors[one])), range(len(factors[other])))
    }

    def values(numbers):
        return {name: factors[name][number] for name, number in numbers.items()}

    def pairs(numbers):
        known = [(name, numbers[name]) for name in names if name in numbers]
        return {(*one, *other) for one, other in itertools.combinations(known, 2)}

    def completed(numbers):
        """The given numbers with those of the other factors that make the most missing pairs, or None."""
        if not is_allowed(values(numbers)):
            return None
        rest = [name for name in names if name not in numbers]
        if not rest:
            return numbers
        candidates = [{**numbers, rest[0]: number} for number in range(len(factors[rest[0]]))]
        for candidate in sorted(candidates, key=lambda each: -len(pairs(each) & missing)):
            found = completed(candidate)
            if found is not None:
                return found
        return None

    combinations = []
    while missing:
        one, i, other, j = min(missing)
        numbers = completed({one: i, other: j})
        missing.discard((one, i, other, j))
        if numbers is not None:
            missing -= pairs(numbers)
            combinations.append(values(numbers))
    return combinations
