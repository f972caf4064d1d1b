"""TRL's GRPO, a step at a time: run by a Python that has TRL, which may be another environment's.

    python trl_steps.py MODEL_FOLDER PROMPTS.json CHECKPOINTING

Does one step for every line that it reads, and writes a line with its peak memory (MiB) after it.
Nothing of repo_ray is imported here.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

GROUP, NEW_TOKENS = 8, 64


def reward(completions: list[Any], **_: object) -> list[float]:
    """As `repo_ray.benchmark.steps.reward`: the number of words."""
    return [float(len(c[0]["content"].split())) for c in completions]


class Turns(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not sys.stdin.readline():
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"peak_mib": peak}), file=OUT, flush=True)


if __name__ == "__main__":
    OUT, sys.stdout = sys.stdout, sys.stderr  # the trainer prints
    folder, prompts, checkpointing = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "on"
    with tempfile.TemporaryDirectory() as out:
        GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16"),
            processing_class=AutoTokenizer.from_pretrained(folder),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=out,
                per_device_train_batch_size=len(prompts) * GROUP,
                num_generations=GROUP,
                max_completion_length=NEW_TOKENS,
                max_steps=10_000,
                learning_rate=3e-4,
                beta=0.0,
                use_cpu=not torch.cuda.is_available(),
                bf16=True,
                gradient_checkpointing=checkpointing,
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": [{"role": "user", "content": p}]} for p in prompts]
            ),
            peft_config=LoraConfig(r=64, lora_alpha=64, target_modules="all-linear"),
            callbacks=[Turns()],
        ).train()
