from pathlib import Path

import yaml

from benchmarks.quickstart_seeds import ARMS, CONFIGS, report, seeded


def result(arm: str, seed: int, single: float, held_out: float) -> dict:
    kinds = {"held_out": {"share": held_out, "prompts": 2}, "trained": {"share": 1.0, "prompts": 10}}
    return {
        "arm": arm, "seed": seed, "accuracy": {"single_object": single}, "accuracy_prompts": {"single_object": 12},
        "accuracy_mean": single, "accuracy_by_kind": {"single_object": kinds},
    }  # fmt: skip


def test_only_seeds_and_folders_change(tmp_path: Path) -> None:
    for name in ARMS.values():
        shipped = yaml.safe_load((CONFIGS / name).read_text("utf-8"))
        changed = seeded(yaml.safe_load((CONFIGS / name).read_text("utf-8")), 0, tmp_path)
        assert changed["trainer"] | {"default_root_dir": None, "callbacks": None} == shipped["trainer"] | {
            "default_root_dir": None, "callbacks": None
        }  # fmt: skip
        again = seeded(yaml.safe_load((CONFIGS / name).read_text("utf-8")), 3, tmp_path)
        seeds = [again["seed_everything"], again["model"]["init_args"]["seed"], again["data"]["init_args"]["seed"]]
        assert seeds == [shipped["seed_everything"] + 3, 3, 3]
        assert again["data"]["init_args"]["held_out"] == shipped["data"]["init_args"]["held_out"]


def test_the_table_pairs_seeds_and_says_what_got_worse() -> None:
    runs = [result("evolution", 0, 0.9, 0.5), result("static", 0, 1.0, 1.0), result("evolution", 1, 0.8, 0.0)]
    assert "seeds 0)" in report(runs), "a seed of one arm is no pair"
    runs.append(result("static", 1, 1.0, 1.0))
    said = report(runs)
    assert "| single_object | 0.85 (0.90, 0.80) | 1.00 (1.00, 1.00) | -0.15, " in said
    assert "| single_object, held-out kinds | 0.25 (0.50, 0.00) |" in said
    assert "Worse with evolution by more than the pooled intervals: nothing." in said
    assert report([]) == "no seed has both arms yet"
