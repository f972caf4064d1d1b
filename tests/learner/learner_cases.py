"""Settings and batches for a learner on a random two-layer model."""

import random

from repo_ray.config.learning import AlgorithmConfig, LearnerConfig
from repo_ray.config.settings import Config, LoraShape, ModelConfig, RunConfig, SamplingConfig
from repo_ray.records import Experience, Prompt, Reward, Rollout

VOCAB = 61
SAMPLES = 6


def settings(
    dtype="float32",
    algorithm=None,
    temperature=0.8,
    batch_size=SAMPLES,
    attention="eager",
    **learner,
):
    return Config(
        run=RunConfig(batch_size=batch_size, seed=3),
        model=ModelConfig(dtype=dtype, attention=attention, max_prompt_tokens=32),
        lora=LoraShape(rank=4, alpha=8),
        sampling=SamplingConfig(max_new_tokens=16, temperature=temperature),
        algorithm=AlgorithmConfig(**(algorithm or {})),
        learner=LearnerConfig(
            **{
                "policy_lr": 5e-3,
                "value_lr": 5e-3,
                "warmup_steps": 2,
                "threads": 1,
                "logprob_chunk": 5,
                "micro_batch_tokens": 64,
                **learner,
            }
        ),
    )


def batch(seed=0, rewards=None, count=SAMPLES, prompts=None):
    """Random samples with the given rewards, each of a prompt of its own or of those named."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        prompt_id = prompts[i] if prompts else f"p{i}"
        size = rng.randint(2, 9)
        rollout = Rollout(
            sample_id=f"s{i}",
            prompt_id=prompt_id,
            attempt=0,
            prompt_token_ids=tuple(rng.randrange(VOCAB) for _ in range(rng.randint(3, 12))),
            token_ids=tuple(rng.randrange(VOCAB) for _ in range(size)),
            loss_mask=tuple(j != 1 or i != 2 for j in range(size)),
            logprobs=tuple(-rng.random() * 3 - 2 for _ in range(size)),
            versions=(0,) * size,
            finish_reason="length" if i == 1 else "stop",
            text="",
        )
        total = rng.gauss(0, 1) if rewards is None else rewards[i]
        reward = Reward(total, total, 0, 0, 0, 1)
        made.append(Experience(Prompt(prompt_id, ()), rollout, (), reward))
    return made
