"""What the canary is probed with; the check itself runs with every job (`tests/jobs`)."""

from repo_ray.models.actor_critic import PromptReply
from repo_ray.pipeline.canary import COMPARED_TOKENS, PROBE_TOKENS, as_probe


def test_a_probe_is_the_end_of_a_prompt_of_which_the_latter_tokens_are_compared():
    probe = as_probe(range(1000))
    assert [*probe.prompt_token_ids, *probe.token_ids] == list(range(1000 - PROBE_TOKENS, 1000))
    assert len(probe.token_ids) == COMPARED_TOKENS


def test_a_short_prompt_keeps_a_token_to_go_on_from():
    assert as_probe([5, 6, 7]) == PromptReply([5], [6, 7])
    assert as_probe([5]) == PromptReply([5], [])
