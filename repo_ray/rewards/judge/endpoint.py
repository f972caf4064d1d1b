"""A judge behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from repo_ray.config.rewards import JudgeConfig
from repo_ray.endpoints import EndpointError, complete, endpoint_client, text_of
from repo_ray.records import Prompt, Score, storable
from repo_ray.rewards.judge.budget import Budget, BudgetError, JudgeBudget
from repo_ray.rewards.judge.cache import question_key
from repo_ray.rewards.judge.consistency import judge_identity
from repo_ray.rewards.judge.prompt import answer_schema, answer_tokens, is_quote, judge_messages
from repo_ray.rewards.judge.rubric import Rubric
from repo_ray.rewards.judge.spending import Usage, need_of, usage_of

LONGEST_BACKOFF_S = 20.0
#: With these causes the server has refused to work, and does not bill.
UNBILLED = ("rate_limited", "server_error", "rejected")


class JudgeUnavailableError(RuntimeError):
    """The endpoint does not answer as it must. The message names it and the cause."""


class _Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    evidence: str
    verdict: bool


_ANSWER = TypeAdapter(dict[str, _Verdict])


class EndpointJudge:
    """Scores replies against a rubric by asking a chat model at temperature 0."""

    def __init__(
        self,
        rubric: Rubric,
        config: JudgeConfig,
        api_key: str | None,
        deadline_s: float | None = None,
        backoff_s: float = 0.5,
        budget: Budget | None = None,
    ) -> None:
        """`config` names endpoint, model, time limit per request and number of retries.

        `deadline_s` limits one score with all its retries; by default nine tenths of the pool's
        limit, so that the judge's own cause is reported rather than the pool's. `backoff_s` is
        the longest wait before the first retry; it doubles with each (full jitter).
        `budget` is shared with other judges; by default the judge keeps to the limits of `config`
        by itself.
        """
        self._rubric = rubric
        self._config = config
        self._key = api_key or ""
        self._deadline_s = 0.9 * config.pool.timeout_s if deadline_s is None else deadline_s
        self._backoff_s = backoff_s
        self._budget: Budget = JudgeBudget(config) if budget is None else budget
        self._identity = judge_identity(config, rubric)
        self._schema = answer_schema(rubric)
        self._max_tokens = answer_tokens(rubric)
        # Retries are counted here, not hidden in the client.
        self._client = endpoint_client(config.base_url, self._key, 0, config.request_timeout_s)

    def __repr__(self) -> str:
        return f"EndpointJudge({self._place})"

    async def score(self, prompt: Prompt, reply: str) -> Score:
        """E_judge of one reply, with verdict and quoted evidence per criterion.

        Never raises for what the endpoint does: the score is then invalid and its error starts
        with `timeout`, `rate_limited`, `server_error`, `malformed`, `refused` (by the model),
        `connection`, or `rejected` (another HTTP 4xx). The last and `refused` are not retried. Where
        the budget allows no further request it starts with `spend_limit` or `budget_lost`.
        """
        start = time.monotonic()
        messages = judge_messages(self._rubric, prompt, reply)
        key = question_key(self._identity, messages)
        try:
            known = await self._budget.cached(key)
            if known is not None:
                return replace(known, latency_s=time.monotonic() - start)
            score = await self._score(messages, reply)
            if score.valid:
                await self._budget.keep(key, score)
        except BudgetError as error:
            return Score.invalid("judge", str(error), time.monotonic() - start)
        return score

    async def _score(self, messages: Sequence[dict[str, str]], reply: str) -> Score:
        """The score, without the time for which it waited for its turns in `latency_s`."""
        start = time.monotonic()
        attempt = 0
        while True:
            asked = time.monotonic()
            permit = await self._budget.admit(need_of(messages, self._max_tokens, self._schema))
            # Waiting for a turn is no fault of the endpoint: the deadline moves with it.
            start += time.monotonic() - asked
            deadline = start + self._deadline_s
            try:
                value, detail = await self._ask(messages, reply, permit, deadline)
            except EndpointError as failure:
                wait = self._wait(failure, attempt)
                out_of_time = time.monotonic() + wait >= deadline
                if not failure.retry or attempt >= self._config.max_retries or out_of_time:
                    error = f"{failure} (attempt {attempt + 1})"
                    if failure.retry and attempt < self._config.max_retries:
                        error += f"; {wait:.1f} s to wait pass the limit of {self._deadline_s:g} s"
                    return Score.invalid("judge", error, time.monotonic() - start)
            else:
                return Score("judge", value, detail, time.monotonic() - start)
            await asyncio.sleep(wait)
            attempt += 1

    async def check(self) -> None:
        """Asks for one short answer, to find a wrong URL, key or model before a run starts.

        Raises `JudgeUnavailableError`.
        """
        messages = [{"role": "user", "content": "Answer with the word yes."}]
        deadline = time.monotonic() + min(self._deadline_s, self._config.request_timeout_s)
        try:
            permit = await self._budget.admit(need_of(messages, 1, {}), queue=False)
            await self._request(permit, deadline, messages=messages, max_tokens=1)
        except BudgetError as error:
            raise JudgeUnavailableError(str(error)) from None
        except EndpointError as failure:
            raise JudgeUnavailableError(
                f"the judge endpoint does not answer: {self._place}: {failure}. Check "
                f"judge.base_url, judge.model and the key in ${self._config.api_key_env}."
            ) from None

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _ask(
        self, messages: Sequence[dict[str, str]], reply: str, permit: int, deadline: float
    ) -> tuple[float, Any]:
        answer = await self._request(
            permit,
            deadline,
            messages=messages,
            max_tokens=self._max_tokens,
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "verdicts",
                    "strict": True,
                    "schema": self._schema,
                },
            },
        )
        text = text_of(answer, self._key)
        if answer.choices[0].finish_reason == "length":
            raise EndpointError("malformed", "the answer was cut off at max_tokens")
        return self._read(text, reply)

    def _read(self, content: str, reply: str) -> tuple[float, Any]:
        try:
            answer = _ANSWER.validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"]) or "answer"
            raise EndpointError("malformed", f"{where}: {first['msg']}") from None
        # Evidence of a verdict that the statement does not hold proves nothing; it is dropped.
        reasons = {name: v.evidence for name, v in answer.items() if v.verdict}
        for name, evidence in reasons.items():
            if not is_quote(evidence, reply):
                raise EndpointError(
                    "malformed", f"{name}.evidence: no quote of the reply: {evidence[:80]!r}"
                )
        reasons = {name: storable(evidence) for name, evidence in reasons.items()}
        try:
            return self._rubric.points({n: v.verdict for n, v in answer.items()}, reasons)
        except ValueError as error:
            raise EndpointError("malformed", str(error)) from None

    async def _request(self, permit: int, deadline: float, **arguments: Any) -> ChatCompletion:
        """One request, reported to the budget however it ends. Raises `EndpointError`."""
        limit = min(self._config.request_timeout_s, max(0.0, deadline - time.monotonic()))
        used: Usage | None = None
        try:
            answer = await complete(
                self._client,
                self._key,
                limit,
                model=self._config.model,
                temperature=0.0,
                timeout=limit or None,
                **arguments,
            )
            used = usage_of(answer)
            return answer
        except EndpointError as failure:
            if failure.cause in UNBILLED:
                used = Usage(0, 0)
            raise
        finally:
            await self._budget.settle(permit, used)

    def _wait(self, failure: EndpointError, attempt: int) -> float:
        longest = min(LONGEST_BACKOFF_S, self._backoff_s * 2**attempt)
        return (failure.wait_s or 0.0) + random.uniform(0.0, longest)

    @property
    def _place(self) -> str:
        return f"{self._config.base_url} (model {self._config.model})"
