"""Writes ../quality.safetensors: small sets of unit rows, and what numpy, scipy and scikit-learn measure of them.

    python quality.py        # numpy, scipy, scikit-learn, safetensors

The formulas are the papers', written plainly: the Fréchet distance (Heusel et al., 2017) by the square root of a covariance,
precision and recall (Kynkäänniemi et al., 2019) by all distances.
"""
import pathlib

import numpy as np
from safetensors.numpy import save_file
from scipy.spatial.distance import cdist
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier

K = 3
rng = np.random.default_rng(20240715)
tensors = {}


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cloud(n, dim, spread, shift):
    """Rows around an axis, with other deviations in every direction."""
    deviations = np.geomspace(1.0, 0.05, dim)
    return unit(spread * rng.standard_normal((n, dim)) * deviations + shift + np.eye(1, dim, 1))


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def frechet(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    middle = root(root(cov_a) @ cov_b @ root(cov_a))
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(middle)


def covered(rows, manifold):
    rows, manifold = rows.astype(np.float64), manifold.astype(np.float64)
    radii = np.sort(cdist(manifold, manifold), axis=1)[:, K]  # the first is the row itself
    return 100 * np.mean((cdist(rows, manifold) <= radii).any(axis=1))


def distance_to(rows, others):
    return cdist(rows.astype(np.float64), others.astype(np.float64)).min(axis=1).mean()


def measured(name, train, test, generated):
    tensors.update({f"{name}.train": train, f"{name}.test": test, f"{name}.generated": generated})
    both = [[frechet(rows, test), covered(rows, test), covered(test, rows)] for rows in (generated, train)]
    ratio = distance_to(generated, train) / distance_to(test, train)
    expected = [*both[0], *both[1], ratio]
    tensors[f"{name}.expected"] = np.array(expected, np.float32)
    print(name, np.round(expected, 4))


# more rows than dimensions, fewer, and both
measured("many_rows", cloud(60, 16, 0.4, 0.0), cloud(40, 16, 0.4, 0.0), cloud(60, 16, 0.3, 0.05))
measured("few_rows", cloud(20, 32, 0.4, 0.0), cloud(12, 32, 0.4, 0.0), cloud(20, 32, 0.3, 0.05))
measured("few_and_many", cloud(50, 24, 0.4, 0.0), cloud(9, 24, 0.4, 0.0), cloud(50, 24, 0.35, 0.02))
# rows of zeros and ones that repeat each other: covariances of rank 3
corners = unit(np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]) @ np.eye(4, 12, 4))
measured("repeated", corners[rng.integers(4, size=30)], corners[rng.integers(3, size=20)], corners[rng.integers(4, size=30)])

# classes that lie close to each other
centres = rng.standard_normal((4, 16))
known, rows = ([unit(0.9 * rng.standard_normal((n, 16)) + 0.5 * c) for c in centres] for n in (15, 25))
labels = lambda sets: np.repeat(np.arange(len(sets)), [len(s) for s in sets])
nearest = KNeighborsClassifier(1, algorithm="brute").fit(np.concatenate(known), labels(known))
recall = recall_score(labels(rows), nearest.predict(np.concatenate(rows)), average=None)
for i in range(4):
    tensors.update({f"classes.known.{i}": known[i], f"classes.rows.{i}": rows[i]})
tensors["classes.recall"] = (100 * recall).astype(np.float32)
print("recall", np.round(recall, 3))

save_file(tensors, pathlib.Path(__file__).parent.parent / "quality.safetensors")
