"""A minimal example of ReptileDQN: train on CartPole, save, load, evaluate."""

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_reptile import ReptileDQN

model = ReptileDQN("MlpPolicy", "CartPole-v1", learning_rate=1e-3, train_freq=1, target_update_interval=500, seed=0)
model.learn(20_000, progress_bar=True)
model.save("reptile_cartpole")

model = ReptileDQN.load("reptile_cartpole", env=model.get_env())
mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=10)
print(f"return over 10 episodes: {mean:.0f} +/- {deviation:.0f}")
