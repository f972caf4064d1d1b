"""vLLM by itself: loads a model, samples one token, says so.

    python vllm_start.py '{"model": FOLDER, ...}'

The argument is that of `vllm.LLM`. Nothing of repo_ray is imported here.
"""

from __future__ import annotations

import json
import sys

if __name__ == "__main__":
    from vllm import LLM, SamplingParams

    out, sys.stdout = sys.stdout, sys.stderr
    llm = LLM(**json.loads(sys.argv[1]))
    found = llm.generate({"prompt_token_ids": [1, 2, 3]}, SamplingParams(max_tokens=1))
    print(len(found[0].outputs[0].token_ids), file=out, flush=True)
