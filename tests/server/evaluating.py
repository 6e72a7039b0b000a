"""Runs lm-evaluation-harness on two small tasks of ours: python evaluating.py URL TOKENIZER FOLDER.

It prints the scores as JSON: accuracy by log-likelihood, and exact matches of generated answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TURN = "<|header_start|>user<|header_end|>\n\n{}<|eot|><|header_start|>assistant<|header_end|>\n\n"
SUMS = [(17, 25), (3, 4), (12, 7), (30, 9)]
CAPITALS = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid"}


def choices() -> list[dict[str, Any]]:
    """Return questions with the beginning of their answer and continuations, the right one at `answer`."""
    cities = list(CAPITALS.values())
    rows = [
        {
            "context": TURN.format(f"What is {a} + {b}?") + f"{a} + {b} =",
            "choices": [f" {a + b + off}." for off in (7, 0, -11)],
            "answer": 1,
        }
        for a, b in SUMS
    ]
    return rows + [
        {
            "context": TURN.format(f"What is the capital of {land}?") + f"The capital of {land} is",
            "choices": [f" {city}." for city in cities],
            "answer": cities.index(capital),
        }
        for land, capital in CAPITALS.items()
    ]


def questions() -> list[dict[str, Any]]:
    """Return questions with their answers."""
    return [{"context": TURN.format(f"What is {a} + {b}?"), "target": f"{a} + {b} = {a + b}"} for a, b in SUMS]


def task(folder: Path, name: str, rows: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    """Return a task over rows that are written to a file."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "doc_to_text": "{{context}}",
        "target_delimiter": "",
        **config,
    }


def main() -> None:
    """Evaluate and print."""
    import lm_eval  # pyright: ignore[reportMissingImports] - of the group evaluation

    url, tokenizer, folder = sys.argv[1:]
    tasks: list[Any] = [
        task(
            Path(folder),
            "nano_choices",
            choices(),
            output_type="multiple_choice",
            doc_to_choice="{{choices}}",
            doc_to_target="{{answer}}",
            metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        ),
        task(
            Path(folder),
            "nano_sums",
            questions(),
            output_type="generate_until",
            doc_to_target="{{target}}",
            generation_kwargs={"until": [".", "<|eot|>"], "max_gen_toks": 32, "temperature": 0},
            metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        ),
    ]
    arguments = {
        "model": "nano",
        "base_url": f"{url}/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": tokenizer,
        "num_concurrent": 2,
        "max_length": 2048,
    }
    evaluated: Any = lm_eval.simple_evaluate("local-completions", arguments, tasks=tasks, bootstrap_iters=0)
    results = evaluated["results"]
    scores = {
        "log_likelihood": results["nano_choices"]["acc,none"],
        "generation": results["nano_sums"]["exact_match,none"],
    }
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
