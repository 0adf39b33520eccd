"""Makes optimisers.json: what torch's optimisers make of six values in five steps.

    python tests/golden/make/optimisers.py        with torch 2.15

The values before, the gradients of each step, and, per optimiser and weight decay, the values after each step.
"""

import json
import pathlib

import torch

HERE = pathlib.Path(__file__).resolve().parent.parent
LR, STEPS, VALUES = 0.05, 5, 6


def make(optimiser: str, values: list[torch.nn.Parameter], decay: float) -> torch.optim.Optimizer:
    if optimiser == "sgd":
        return torch.optim.SGD(values, lr=LR, momentum=0.9, weight_decay=decay)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimiser](values, lr=LR, weight_decay=decay)


def steps(optimiser: str, decay: float, before: torch.Tensor, gradients: torch.Tensor) -> list[list[float]]:
    values = torch.nn.Parameter(before.clone())
    rule, after = make(optimiser, [values], decay), []
    for gradient in gradients:
        values.grad = gradient.clone()
        rule.step()
        after.append(values.tolist())
    return after


def main() -> None:
    torch.manual_seed(3)
    before, gradients = torch.randn(VALUES), torch.randn(STEPS, VALUES)
    runs = [
        {"optimiser": optimiser, "weight_decay": decay, "after": steps(optimiser, decay, before, gradients)}
        for optimiser in ["sgd", "adam", "adamw"]
        for decay in [0.0, 0.3]
    ]
    facts = {"lr": LR, "before": before.tolist(), "gradients": gradients.tolist(), "runs": runs}
    (HERE / "optimisers.json").write_text(json.dumps(facts, indent=1) + "\n")


main()
