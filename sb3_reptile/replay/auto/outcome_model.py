"""A robust linear model of outcomes, whose residuals are compared instead of the outcomes themselves."""

import math
from typing import Any

import numpy as np

from sb3_reptile.replay.auto.features import Transitions
from sb3_reptile.replay.auto.settings import DEFAULTS, Settings

# Added to the scale of each feature, and that of one which does not vary
SMALLEST_SCALE = 1e-6


class OutcomeModel:
    """
    Predicts outcomes as a linear function of the features, one function per group. The fit is robust: errors beyond
    twice the median error are clipped and the fit is repeated. The residuals are not noise, but between neighbouring
    situations they vary less than the outcomes do.

    :param data: Transitions to fit
    :param n_groups: Number of groups
    :param settings: Constants
    """

    ARRAYS = ("center", "scale", "spread", "coefficients")

    def __init__(self, data: Transitions, n_groups: int, settings: Settings = DEFAULTS) -> None:
        self.settings = settings
        self.center = data.features.mean(axis=0)
        self.scale = data.features.std(axis=0) + SMALLEST_SCALE
        low, high = np.quantile(data.outcomes, [0.05, 0.95], axis=0)
        # Standard deviation if the outcomes are normal; outcomes that hardly vary are measured by their size
        root_mean_square = np.sqrt((data.outcomes**2).mean(axis=0))
        smallest = np.maximum(0.01 * data.outcomes.std(axis=0), 0.1 * root_mean_square)
        self.spread = np.maximum((high - low) / 3.29, np.maximum(smallest, 1e-6))
        self.coefficients = np.zeros((n_groups, data.features.shape[1] + 1, data.outcomes.shape[1]))
        regressors = self._regressors(data.features)
        for group in range(n_groups):
            which = data.groups == group
            if which.sum() > regressors.shape[1]:
                self.coefficients[group] = self._fit(regressors[which], data.outcomes[which])

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles from before there were settings
        self.__dict__.update({"settings": DEFAULTS, **state})

    @classmethod
    def from_arrays(cls, *arrays: np.ndarray, settings: Settings = DEFAULTS) -> "OutcomeModel":
        """
        :param arrays: The arrays named in ``ARRAYS``
        :param settings: Constants
        :return: A model with these arrays
        """
        model = object.__new__(cls)
        model.settings = settings
        model.center, model.scale, model.spread, model.coefficients = (array.copy() for array in arrays)
        return model

    @property
    def unrelated_distance(self) -> float:
        """Distance of unrelated situations: the root mean square of independent ones with standardized features."""
        return math.sqrt(2 * np.count_nonzero(self.scale > 2 * SMALLEST_SCALE))

    def _regressors(self, features: np.ndarray) -> np.ndarray:
        limit = self.settings.feature_limit
        regressors = np.ones((len(features), features.shape[1] + 1))
        regressors[:, 1:] = np.clip((features - self.center) / self.scale, -limit, limit)
        return regressors

    def _fit(self, regressors: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
        gram = regressors.T @ regressors + self.settings.ridge * np.eye(regressors.shape[1])
        targets = np.clip(outcomes, *np.quantile(outcomes, [0.05, 0.95], axis=0))
        for _ in range(self.settings.fit_iterations):
            coefficients = np.linalg.solve(gram, regressors.T @ targets)
            predictions = regressors @ coefficients
            errors = outcomes - predictions
            limits = 2 * np.median(np.abs(errors), axis=0)
            targets = predictions + np.clip(errors, -limits, limits)
        return coefficients

    def __call__(self, transitions: Transitions) -> tuple[np.ndarray, np.ndarray]:
        """
        :param transitions: n transitions
        :return: Places, shape (n, n_features + n_groups), whose distances measure how similar two situations are; and
            residuals in units of the spread, shape (n, n_outcomes)
        """
        regressors = self._regressors(transitions.features)
        n_features = regressors.shape[1] - 1
        places = np.zeros((len(regressors), n_features + len(self.coefficients)))
        places[:, :n_features] = regressors[:, 1:]
        places[np.arange(len(places)), n_features + transitions.groups] = self.settings.group_distance
        residuals = transitions.outcomes - np.matmul(regressors[:, None], self.coefficients[transitions.groups])[:, 0]
        return places, residuals / self.spread
