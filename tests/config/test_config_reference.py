from pathlib import Path

from repo_ray.config import Config
from repo_ray.config.reference import reference


def leaves(model, prefix=""):
    for key, field in model.model_fields.items():
        annotations = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((a for a in annotations if hasattr(a, "model_fields")), None)
        if section:
            yield from leaves(section, f"{prefix}{key}.")
        else:
            yield prefix + key, field


def test_every_setting_has_a_row_with_its_reason():
    text = reference()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    settings = list(leaves(Config))
    assert len(rows) == len(settings)
    for name, field in settings:
        assert f"| `{name.rpartition('.')[2]}` |" in text
        assert field.description, f"{name} has no description"
        assert field.description.replace("|", "\\|") in text


def test_defaults_are_those_of_the_section_and_not_of_its_type():
    # rollout.pool overrides PoolConfig's own default of 16.
    section = reference().partition("## rollout.pool")[2].partition("## ")[0]
    assert "| `max_in_flight` | int ≥ 1 | `256` |" in section


def test_the_committed_reference_is_what_the_code_says():
    path = Path(__file__).parents[2] / "jobs" / "configs" / "REFERENCE.md"
    assert path.read_text(encoding="utf-8") == reference(), "run: make reference"


def test_a_section_that_is_off_says_so_and_what_it_is_for():
    section = reference().partition("\n## dialogue\n")[2].partition("\n## ")[0]
    assert "Train on whole dialogues of the built-in task" in section
    assert "Off (null) unless set" in section
    on = reference().partition("\n## warm_start\n")[2].partition("\n## ")[0]
    assert "null starts from the base" in on
    assert "Off (null)" not in on
