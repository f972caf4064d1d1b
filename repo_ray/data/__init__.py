"""Reading and validating chat data, of any domain, in the schemas of `repo_ray.records`.

`schema` says what each kind of data set holds, `rows` brings Parquet and JSONL to plain rows,
`validation` finds faults, `reader` returns typed records. A fault is never passed over.
"""

from repo_ray.data.examples import Demonstration, DialogueTurn, Preference, Verdict
from repo_ray.data.reader import (
    read_dialogues,
    read_hidden,
    read_preferences,
    read_prompts,
    read_sft,
    read_verdicts,
)
from repo_ray.data.schema import Kind
from repo_ray.data.validation import DataError, Fault, validate

__all__ = [
    "DataError",
    "Demonstration",
    "DialogueTurn",
    "Fault",
    "Kind",
    "Preference",
    "Verdict",
    "read_dialogues",
    "read_hidden",
    "read_preferences",
    "read_prompts",
    "read_sft",
    "read_verdicts",
    "validate",
]
