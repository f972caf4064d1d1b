"""One rollout engine: vLLM's AsyncLLM, sampling exactly the adapter it was last given.

Here and in `worker` alone is vLLM imported, and only when an engine starts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from repo_ray.config.settings import Config
from repo_ray.logs import at_step
from repo_ray.models.adapters import adapter_digest, parse_adapter, save_adapter
from repo_ray.models.loading import load_tokenizer
from repo_ray.records import FinishReason, Rollout
from repo_ray.rollouts.gate import Gate
from repo_ray.rollouts.publication import (
    EngineState,
    PublicationError,
    PushReport,
    check_read_back,
    tensors_to_verify,
)

#: The ranks for which vLLM has LoRA buffers (vllm.config.lora.MaxLoRARanks).
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

#: Tokens that a CPU engine computes in one step at most.
_CPU_BATCH_TOKENS = 4096

log = logging.getLogger(__name__)


class EngineDiedError(RuntimeError):
    """vLLM's engine core has ended; this engine cannot work any more."""


def engine_environment(config: Config) -> dict[str, str]:
    """Variables that an engine's process must be started with (vLLM reads them at import)."""
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",  # the model is always a local folder
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not config.rollout.pool.gpus:
        variables |= {
            # `auto` would pin every engine of the machine to the same cores.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": str(config.rollout.cpu_kv_cache_gib),
            "OMP_NUM_THREADS": str(config.rollout.pool.threads),
            # Lets the worker live inside the engine core: on CPUs vLLM otherwise turns `uni`
            # into `mp`, one more process. AsyncLLM has its engine core apart either way.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # vLLM 0.32 saves an ahead-of-time compiled CPU model, then cannot load it and compiles
            # again at every start; without, Inductor's own cache is found.
            "VLLM_USE_AOT_COMPILE": "0",
        }
    return variables


class RolloutEngine:
    """Samples replies and publishes adapters.

    A push waits until no sample is under way, so that all tokens of a reply come from one adapter;
    with `rollout.in_flight_updates` it interrupts samples, which go on with the new adapter
    (PipelineRL, arXiv 2509.19128). New samples wait until it has been verified. After a failed push
    nothing is sampled until another succeeds. `engine_environment` must be set in the process.
    """

    def __init__(self, config: Config, model_folder: Path, name: str) -> None:
        self._config = config
        self._folder = model_folder
        self._name = name
        self._gate = Gate()
        self._version = 0
        self._digest = ""
        self._pushes = 0
        self._failure = ""
        self._in_flight = config.rollout.in_flight_updates
        self._lora: Any = None  # vLLM's LoRARequest in native mode
        self._llm: Any = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    # --- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Loads the model; blocks the event loop meanwhile (10-30 s for small models)."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        class StatLogger(RayPrometheusStatLogger):
            """Metrics in Ray, with one latency of each decode step, not one of each sequence in it:
            those are equal, and were most of what metrics cost (6% of the speed on a CPU)."""

            def record(
                self,
                scheduler_stats: Any,
                iteration_stats: Any,
                mm_cache_stats: Any = None,
                engine_idx: int = 0,
            ) -> None:
                if iteration_stats is not None:
                    del iteration_stats.inter_token_latencies_iter[1:]
                super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)

        self._tokenizer = load_tokenizer(self._folder)
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**self._engine_arguments()), stat_loggers=[StatLogger]
        )
        await self._workers("end_with", os.getpid())
        await self._ask("update_weight_version", str(self._version))

    async def shutdown(self) -> None:
        """Ends the engine core and its workers."""
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None
        if self._lora is not None:
            shutil.rmtree(self._lora.lora_path)
            self._lora = None

    def check(self) -> None:
        """Raises `EngineDiedError` if the engine core has ended or never started."""
        if self._llm is None or self._llm.errored:
            raise EngineDiedError(f"{self._name}: the vLLM engine core is not running")

    async def answer(self, timeout_s: float) -> None:
        """Raises `EngineDiedError` if the engine core answers nothing within `timeout_s`."""
        try:
            await asyncio.wait_for(self._ask("is_sleeping"), timeout_s)
        except TimeoutError:
            raise EngineDiedError(
                f"{self._name}: the vLLM engine core has answered nothing for {timeout_s:g} s"
            ) from None

    def state(self) -> EngineState:
        """Which adapter the engine samples, and whether its last push was verified."""
        return EngineState(self._name, self._version, self._digest, not self._failure)

    # --- sampling -----------------------------------------------------------------------

    async def sample(
        self,
        sample_id: str,
        prompt_id: str,
        attempt: int,
        prompt_token_ids: Sequence[int],
        seed: int,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Rollout:
        """One reply. `seed` fixes it, up to the rounding of other batch companions.

        The end-of-turn token is part of the reply. Log-probs are those of the distribution
        sampled from (after temperature); top-p and top-k are off. Waits while a push runs. After
        an in-flight update the prefix is computed again with the new adapter, and log-probs and
        `versions` of tokens already sampled stay what they were.

        Raises:
            PublicationError: the last push failed, so what would be sampled is unknown.
            EngineDiedError: the engine core has ended.
            ValueError: prompt and reply do not fit into `rollout.max_model_len`.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = self._config.sampling
        new_tokens = max_new_tokens or sampling.max_new_tokens
        limit = self._config.rollout.max_model_len
        if len(prompt_token_ids) + new_tokens > limit:
            raise ValueError(
                f"sample {sample_id}: {len(prompt_token_ids)} prompt tokens and up to {new_tokens} "
                f"new ones do not fit into rollout.max_model_len ({limit})"
            )
        parameters = SamplingParams(
            n=1,
            max_tokens=new_tokens,
            temperature=sampling.temperature if temperature is None else temperature,
            top_p=1.0,
            top_k=0,
            seed=seed,
            logprobs=0,  # the sampled token's alone
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        began = time.monotonic()
        request = f"{sample_id}.{attempt}"
        async with self._gate.shared():
            self._refuse_unverified()
            if not self._in_flight:
                output = await self._generate(prompt_token_ids, parameters, request)
        if self._in_flight:  # outside, so that a push need not wait for the reply's end
            output = await self._generate(prompt_token_ids, parameters, request)
        output = output.outputs[0]
        tokens = tuple(output.token_ids)
        return Rollout(
            sample_id=sample_id,
            prompt_id=prompt_id,
            attempt=attempt,
            prompt_token_ids=tuple(prompt_token_ids),
            token_ids=tokens,
            loss_mask=(True,) * len(tokens),
            logprobs=tuple(
                float(choices[token].logprob)
                for token, choices in zip(tokens, output.logprobs, strict=True)
            ),
            versions=tuple(
                int(span.version)
                for span in output.weight_versions
                for _ in range(span.start, span.end)
            ),
            finish_reason=self._finish_reason(sample_id, output.finish_reason),
            text=self._text(tokens),
            engine=self._name,
            latency_s=time.monotonic() - began,
        )

    async def probe(
        self, samples: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        """The live adapter's log-probs (nats) of given replies [T], at temperature 1.

        Each sample is (prompt ids, reply ids). vLLM computes prompt log-probs without
        temperature and without reading the prefix cache.
        """
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        logprobs: list[list[float]] = []
        async with self._gate.shared():
            self._refuse_unverified()
            for index, (prompt, reply) in enumerate(samples):
                output = await self._generate([*prompt, *reply], parameters, f"probe-{index}")
                logprobs.append(
                    [
                        float(choices[token].logprob)
                        for token, choices in zip(
                            reply, output.prompt_logprobs[len(prompt) :], strict=True
                        )
                    ]
                )
        return logprobs

    # --- publication --------------------------------------------------------------------

    async def push(self, blob: bytes, version: int, digest: str) -> PushReport:
        """Makes an adapter blob live as `version` and proves that it is.

        Drains or interrupts, loads, clears the prefix cache, reads live tensors back (all of them
        at the engine's first push, `rollout.verify_tensors` in rotation later), resumes.

        Raises:
            PublicationError: the blob is not the one with `digest`, the cache was not cleared
                or a live tensor is not what it must be.
            EngineDiedError: the engine core has ended.
        """
        began = time.monotonic()
        modules = tensors_to_verify(
            list(parse_adapter(blob).modules), self._config.rollout.verify_tensors, self._pushes
        )
        async with self._gate.exclusive():
            for received in await self._receive(blob):
                if received != digest:
                    raise PublicationError(
                        f"{self._name}: version {version}: the adapter received has digest "
                        f"{received[:12]}, expected {digest[:12]}"
                    )
            self._failure = f"{self._name}: the push of version {version} did not finish"
            # The gate has drained this engine's own requests; one cancelled by its caller may
            # still run in the core until its abort arrives.
            # Asked of the core itself: AsyncLLM's own method sleeps for 20 ms afterwards.
            await self._ask(
                "engine_core.pause_scheduler_async",
                mode="keep" if self._in_flight else "wait",
                clear_cache=False,
            )
            drained = time.monotonic()
            await self._load(blob, version)
            # Preempts what is in flight, whose keys and values are of the previous adapter.
            if not await self._ask("reset_prefix_cache", self._in_flight):
                raise PublicationError(
                    f"{self._name}: version {version}: vLLM did not clear its prefix cache; "
                    "blocks of the previous adapter would be reused"
                )
            loaded = time.monotonic()
            largest = check_read_back(
                self._name, version, modules, await self._read_back(blob, modules)
            )
            verified = time.monotonic()
            await self._ask("update_weight_version", str(version))
            await self._ask("resume_generation")
            self._version, self._digest, self._failure = version, digest, ""
            self._pushes += 1
        at_step(version)
        log.info("adapter version %d is live: %d modules read back", version, len(modules))
        return PushReport(
            engine=self._name,
            version=version,
            digest=digest,
            verified_tensors=len(modules),
            max_difference=largest,
            drain_s=drained - began,
            load_s=loaded - drained,
            verify_s=verified - loaded,
            total_s=time.monotonic() - began,
        )

    async def _receive(self, blob: bytes) -> list[str]:
        """The digests of what arrived where it will be used."""
        if self._config.rollout.publication == "merged":
            return await self._workers("receive_adapter", blob)
        return [adapter_digest(blob)]

    async def _load(self, blob: bytes, version: int) -> None:
        if self._config.rollout.publication == "merged":
            await self._workers("merge_adapter", str(self._folder))
            return
        from vllm.lora.request import LoRARequest

        previous = self._lora
        # vLLM has no in-memory LoRA. Number and name are new at each push, whatever the
        # version, so that neither a cached adapter nor a cached block can be taken for it.
        folder = Path(tempfile.mkdtemp(prefix="repo-ray-lora-"))
        save_adapter(folder, blob, str(self._folder))
        number = previous.lora_int_id + 1 if previous else 1
        self._lora = LoRARequest(f"v{version}-{number}", number, str(folder))
        if previous is not None:
            await self._ask("remove_lora", previous.lora_int_id)
            shutil.rmtree(previous.lora_path)
        if not await self._ask("add_lora", self._lora):
            raise PublicationError(f"{self._name}: vLLM did not load LoRA {self._lora.lora_name}")

    async def _read_back(self, blob: bytes, modules: list[str]) -> list[dict[str, float]]:
        if self._config.rollout.publication == "merged":
            return await self._workers("read_back_merged", str(self._folder), modules)
        return await self._workers("read_back_lora", blob, self._lora.lora_int_id, modules)

    # --- vLLM ---------------------------------------------------------------------------

    def _engine_arguments(self) -> dict[str, Any]:
        config, rollout = self._config, self._config.rollout
        arguments: dict[str, Any] = {
            "model": str(self._folder),
            "dtype": config.model.dtype,
            "seed": config.run.seed,
            "max_model_len": rollout.max_model_len,
            "max_num_seqs": rollout.max_num_seqs,
            "tensor_parallel_size": rollout.tensor_parallel,
            "distributed_executor_backend": "uni" if rollout.tensor_parallel == 1 else "mp",
            "enforce_eager": rollout.enforce_eager,
            "logprobs_mode": "processed_logprobs",
            "worker_extension_cls": "repo_ray.rollouts.worker.PublicationExtension",
            # `model_name` of vLLM's metrics, which go through Ray to Prometheus.
            "served_model_name": f"{config.run.name}/{self._name}",
            "disable_log_stats": True,  # to the log; a stat logger of one's own turns them on
            "use_tqdm_on_load": False,
        }
        if rollout.pool.gpus:
            arguments["gpu_memory_utilization"] = rollout.gpu_memory_utilization
        else:
            # A seeded request whose prompt is prefilled in chunks kills vLLM 0.32 on CPUs (it
            # rewinds the request's generator, and CPU generators have no offset). Whole
            # prompts need a token budget of at least the longest sequence.
            arguments |= {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(rollout.max_model_len, _CPU_BATCH_TOKENS),
            }
        if rollout.publication == "native":
            rank = config.lora.rank
            if rank > _LORA_RANKS[-1]:
                raise ValueError(
                    f"lora.rank {rank}: vLLM serves at most {_LORA_RANKS[-1]}; "
                    "use rollout.publication merged"
                )
            arguments |= {
                "enable_lora": True,
                "max_loras": 1,
                "max_cpu_loras": 1,
                "max_lora_rank": min(r for r in _LORA_RANKS if r >= rank),
            }
        return arguments

    async def _generate(self, tokens: Sequence[int], parameters: Any, request: str) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        self.check()
        stream = self._llm.generate(
            {"prompt_token_ids": list(tokens)}, parameters, request, lora_request=self._lora
        )
        try:
            return [output async for output in stream][-1]
        except EngineDeadError as error:
            raise EngineDiedError(f"{self._name}: the vLLM engine core died: {error}") from None

    async def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        self.check()
        try:
            return await attrgetter(method)(self._llm)(*args, **kwargs)
        except EngineDeadError as error:
            raise EngineDiedError(f"{self._name}: the vLLM engine core died: {error}") from None

    async def _workers(self, method: str, *args: Any) -> list[Any]:
        """Runs a method of `worker.PublicationExtension` on every worker."""
        return await self._ask("collective_rpc", method, args=args)

    def _refuse_unverified(self) -> None:
        self.check()  # a push that failed because the core died is the core's failure
        if self._failure:
            raise PublicationError(f"{self._failure}; nothing is sampled until a push succeeds")

    def _finish_reason(self, sample_id: str, reason: str | None) -> FinishReason:
        if reason == "stop":
            return "stop"
        if reason == "length":
            return "length"
        raise RuntimeError(f"{self._name}: sample {sample_id} ended with {reason!r}")

    def _text(self, tokens: Sequence[int]) -> str:
        assert self._tokenizer is not None
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))
