"""Makes generators.safetensors and generators.json: what scikit-learn fits to three sets of rows, and AdamW's steps.

    python tests/golden/make/generators.py        with numpy 2.4, safetensors 0.8, scikit-learn 1.9, torch 2.15

Of each set: rows (N, D), raw; the weights (5), means (5, D) and deviations (5, D) of the best of 20 mixtures of five diagonal
Gaussians; in the JSON file the mean log-likelihood of a row under it, and under a single Gaussian, in nat.
"""

import json
import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.mixture import GaussianMixture

HERE = pathlib.Path(__file__).resolve().parent.parent


def clouds(rng: np.random.Generator, sizes: list[int], dim: int, apart: float) -> np.ndarray:
    """Clouds around centres of standard deviation `apart`, each with its own deviations, shuffled."""
    parts = [
        rng.normal(0, apart, dim) + rng.uniform(0.3, 1.5, dim) * rng.normal(size=(size, dim)) for size in sizes
    ]
    return rng.permutation(np.concatenate(parts))


def sets() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    # dimensions whose units differ by a factor of up to a thousand, and correlated, as no diagonal Gaussian is
    units, factors = 10.0 ** rng.uniform(-2, 1, 48), 0.3 * rng.normal(size=(6, 48))
    correlated = clouds(rng, [50, 30, 20, 12, 8], 48, 1.0) + rng.normal(size=(120, 6)) @ factors
    return {
        "apart": clouds(rng, [60, 60, 60, 60, 60], 8, 4.0),
        "overlapping": clouds(rng, [180, 90, 60, 50, 20], 16, 1.0),
        "correlated": units * (3 + correlated),
    }


def adamw() -> dict[str, list]:
    """Three steps of AdamW with PyTorch's own weight decay."""
    rng = np.random.default_rng(8)
    values = torch.nn.Parameter(torch.from_numpy(rng.normal(size=20).astype(np.float32)))
    before, gradients = values.tolist(), rng.normal(size=(3, 20)).astype(np.float32)
    optimiser = torch.optim.AdamW([values], lr=0.1)
    for gradient in gradients:
        values.grad = torch.from_numpy(gradient)
        optimiser.step()
    return {"before": before, "gradients": gradients.tolist(), "after": values.tolist()}


def main() -> None:
    tensors, facts = {}, {"adamw": adamw()}
    for name, rows in sets().items():
        rows = rows.astype(np.float32)
        # in units in which k-means weighs every dimension alike
        mean, unit = rows.mean(0, dtype=float), rows.std(0, dtype=float)
        standard = (rows - mean) / unit
        fitted = {
            kind: GaussianMixture(k, covariance_type="diag", n_init=20, max_iter=500, random_state=0).fit(standard)
            for kind, k in [("gaussian", 1), ("mog", 5)]
        }
        mixture = fitted["mog"]
        found = {"weights": mixture.weights_, "means": mean + unit * mixture.means_, "stds": unit * np.sqrt(mixture.covariances_)}
        tensors |= {f"{name}.rows": rows} | {f"{name}.{what}": x.astype(np.float32) for what, x in found.items()}
        facts[name] = {kind: float(model.score(standard) - np.log(unit).sum()) for kind, model in fitted.items()}
        print(name, rows.shape, facts[name])
    save_file(tensors, HERE / "generators.safetensors")
    (HERE / "generators.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
