"""A task of lm-eval: its prompts, its stop texts and its own metric, from a local YAML file."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from virtual_result import config

from llenergymeasure.exceptions import ConfigError, PreFlightError
from llenergymeasure.workload.answers import is_right
from llenergymeasure.workload.prompts import load_prompts

needs = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval")
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "Question: {{{{q}}}}\\nAnswer:"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false}}
filter_list:
  - name: number
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)"}}
      - {{function: take_first}}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""


def task(folder: Path, *, kind: str = "generate_until", metric: str = "exact_match") -> str:
    data = folder / "sums.jsonl"
    data.write_text("\n".join(json.dumps({"q": f"1+{n}?", "a": str(n + 1)}) for n in range(1, 4)))
    path = folder / "sums.yaml"
    path.write_text(TASK.format(data=data, kind=kind, metric=metric))
    return f"lm-eval:{path}"


@needs
@pytest.mark.filterwarnings("ignore")
def test_its_prompts_are_judged_by_its_filters_and_metric(tmp_path: Path) -> None:
    found = load_prompts(config(dataset={"name": task(tmp_path)}, n=3, output_length="natural"))
    by_text = {prompt.text: prompt.reference for prompt in found.prompts}
    assert set(by_text) == {f"Question: 1+{n}?\nAnswer:" for n in (1, 2, 3)}
    assert found.facts.references == 3
    reference = by_text["Question: 1+2?\nAnswer:"]
    assert reference is not None
    assert is_right(" it is 3, I think", reference)
    assert is_right("3\nQuestion: 9?\nAnswer: 18", reference)
    assert not is_right("4", reference)
    assert not is_right("\n3", reference)
    assert not is_right("", reference)


@needs
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_task_that_generates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task"):
        load_prompts(config(dataset={"name": "lm-eval:no_such_task_at_all"}))
    with pytest.raises(ConfigError, match="loglikelihood"):
        load_prompts(config(dataset={"name": task(tmp_path, kind="loglikelihood")}, n=3))


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_package_the_extra_is_named() -> None:
    with pytest.raises(PreFlightError) as caught:
        load_prompts(config(dataset={"name": "lm-eval:gsm8k"}))
    assert "[lm-eval]" in str(caught.value.hint)
