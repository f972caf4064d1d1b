"""What one rank computes at a time: everything once, alike things together, within the budget."""

from hypothesis import given, settings
from hypothesis import strategies as st

from repo_ray.learner.batching import FILLER, micro_batches
from repo_ray.learner.engine import Rank
from repo_ray.models.actor_critic import PromptReply

SAMPLES = st.lists(
    st.builds(
        PromptReply,
        st.lists(st.integers(0, 1), min_size=1, max_size=40).map(tuple),
        st.lists(st.integers(0, 1), min_size=1, max_size=9).map(tuple),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(SAMPLES, st.integers(1, 4), st.integers(1, 100))
def test_every_sample_is_computed_once_in_as_many_micro_batches_on_each_rank(
    samples, world, budget
):
    given_ = [*samples, FILLER]
    ranks = [
        list(micro_batches(given_, range(len(samples)), Rank(r, world), budget))
        for r in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    computed = [i for batches in ranks for batch in batches for i in batch]
    assert sorted(i for i in computed if i < len(samples)) == list(range(len(samples)))
    assert all(batch for batches in ranks for batch in batches)


def test_replies_to_one_prompt_count_its_tokens_once():
    def reply(first, last):
        return PromptReply((first,) * 30, (last,) * 10)

    samples = [reply(1, 2), reply(5, 2), reply(1, 3), reply(5, 3), reply(1, 4), FILLER]
    # 30 + 3 * 10 and 30 + 2 * 10 tokens: apart, a prompt and a reply would be 40 each time.
    assert list(micro_batches(samples, range(5), Rank(), 60)) == [[0, 2, 4], [1, 3]]
