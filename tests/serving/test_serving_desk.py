import pytest

from repo_ray.negotiation.sop import Stage
from repo_ray.serving.desk import Desk


def first_item(desk):
    return desk.prompt().context["items"][0]


def one_ticket_desk():
    return next(d for d in map(Desk, range(100)) if len(d.prompt().context["items"]) == 1)


def test_the_opening_follows_the_procedure():
    desk = one_ticket_desk()
    stages = []
    for text in ("hello?", "yes, that is me", "and?", "we are full anyway"):
        desk.hear(text)
        stages.append(desk.stage)
        desk.answer("...")
    assert stages == [
        Stage.IDENTIFY,
        Stage.PRESENT_EVIDENCE,
        Stage.ASK,
        Stage.HANDLE_OBJECTION,
    ]


def test_a_quote_at_target_is_confirmed_and_closes_the_ticket():
    desk = one_ticket_desk()
    target = first_item(desk)["target_price"]
    desk.hear(f"fine, {target} net")
    prompt = desk.prompt()
    assert prompt.context["quotes"] == {"T1": target}
    assert prompt.context["stage"] == "confirm"
    desk.answer("Agreed.")
    assert desk.prompt().context["agreed"] == ["T1"]
    desk.hear("anything else?")
    assert desk.stage is Stage.CLOSE


def test_a_quote_between_target_and_mandate_is_taken_when_repeated():
    desk = one_ticket_desk()
    mandate = first_item(desk)["mandate"]
    desk.hear(f"I can do {mandate}")
    assert desk.stage is Stage.HANDLE_OBJECTION
    desk.answer("Could you go lower?")
    desk.hear(f"{mandate}, not less")
    assert desk.stage is Stage.CONFIRM


def test_numbers_that_are_no_prices_are_no_quotes():
    desk = one_ticket_desk()
    desk.hear("we have 12 rooms left and opened in 1998")
    assert desk.prompt().context["quotes"] == {}


def test_taking_an_answer_back_restores_what_it_settled():
    desk = one_ticket_desk()
    desk.hear(f"{first_item(desk)['target_price']} is ok")
    before = desk.prompt()
    desk.answer("Agreed.")
    desk.take_back()
    assert desk.prompt() == before


def test_the_stage_can_be_set_and_unknown_ones_are_refused():
    desk = Desk(0)
    desk.set_stage("escalate")
    assert desk.prompt().context["stage"] == "escalate"
    assert "Stage: escalate" in desk.facts()
    with pytest.raises(ValueError, match="nonsense"):
        desk.set_stage("nonsense")
