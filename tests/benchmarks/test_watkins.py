"""Watkins's Q(λ), which the benchmark compares with Peng's, against its recursion."""

import numpy as np
import pytest

from tests.conftest import cartpole, small


def test_returns_end_before_actions_that_are_not_greedy(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    from variants import WatkinsDQN

    options = small(n_steps=5, q_lambda=0.7, gamma=0.9, target_update_interval=60, policy_kwargs=dict(net_arch=[16]))
    model = WatkinsDQN("MlpPolicy", cartpole(3), **options).learn(300)
    buffer, indices = model.replay_buffer, np.arange(200)
    targets = model._td_targets(buffer.transitions(indices)).flatten().tolist()
    actions = buffer.actions.reshape(-1)
    steps, last, rewards, dones = buffer.sequences(indices)
    for i in indices:
        value_after = None
        for k in range(last[i], -1, -1):
            q_values = model.q_net_target(buffer.next_observations_of(steps[i, k : k + 1]))[0]
            value = q_values.max().item()
            if k < last[i]:
                q_lambda = 0.7 * (actions[steps[i, k + 1]] == q_values.argmax().item())
                value = (1 - q_lambda) * value + q_lambda * value_after
            else:
                value *= 1 - dones[i]
            value_after = rewards[i, k] + 0.9 * value
        assert targets[i] == pytest.approx(value_after, abs=1e-5)
