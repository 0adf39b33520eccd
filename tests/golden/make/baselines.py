"""Write golden vectors of the baselines: embeddings, and what numpy and scikit-learn make of them.

    python baselines.py

writes baselines.safetensors beside its own directory. Needs numpy, scipy, scikit-learn (made with 1.9) and safetensors.

Text features are means of classes with noise, of any length, in the place of a CLIP's.

Sets: `plain` has more rows than dimensions; `uneven` has classes of 3 to 40 rows, a constant dimension and one that is
the sum of two others, so that the covariance has no inverse; `few` has fewer rows than dimensions.
"""
import pathlib

import numpy as np
from scipy.special import log_softmax
from safetensors.numpy import save_file
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

CLASSES, TEST, FEATURES = 10, 20, 160
LAMBDAS = 10.0 ** np.arange(-8, 9)
WEIGHTS = {"25": 0.25, "50": 0.5, "75": 0.75}
LOGIT_SCALE = 20.0


def embeddings(rng, dim, rows, spread):
    """Classes around means of their own, with an offset and factors that they share. rows: training rows of each class."""
    offset, factors = 0.5 * rng.normal(size=dim), 0.5 * rng.normal(size=(6, dim))
    means = offset + spread * rng.normal(size=(CLASSES, dim))

    def draw(counts):
        y = np.repeat(np.arange(CLASSES), counts)
        noise = rng.normal(size=(len(y), 6)) @ factors + rng.normal(size=(len(y), dim)) * np.linspace(0.6, 1.6, dim)
        return (means[y] + noise).astype("f4"), y

    return *draw(rows), *draw([TEST] * CLASSES)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def unit_means(x, y):
    return unit(np.stack([unit(x[y == c]).mean(0) for c in range(CLASSES)]))


def nearest_mean(x, y, test):
    return unit(test) @ unit_means(x, y).T


def hybrid(x, y, test, text, weight):
    """Cosines to text features, which count `weight`, and to means."""
    return weight * unit(test) @ unit(text).T + (1 - weight) * nearest_mean(x, y, test)


def together(log_proba, test, text, weight):
    """Log-probabilities by cosines to text features and by statistics, which count `weight`."""
    logits = LOGIT_SCALE * unit(test) @ unit(text).T
    return (1 - weight) * log_softmax(logits, axis=1) + weight * log_proba


class Pooled:
    """Gives scikit-learn's LDA the same covariance for every class."""

    def __init__(self, covariance):
        self.covariance_ = covariance

    def fit(self, _):
        return self


def shrunk(x, y):
    """LDA whose covariance, that of all rows around their class's mean, is shrunk by OAS."""
    residuals = np.concatenate([x[y == c] - x[y == c].mean(0) for c in range(CLASSES)])
    covariance = OAS(assume_centered=True).fit(residuals).covariance_
    return LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Pooled(covariance))


def ridge(h, y, test, lam):
    return test @ np.linalg.solve(h.T @ h + lam * np.eye(h.shape[1]), h.T @ np.eye(CLASSES)[y])


def held_out_errors(h, y):
    """Of every ridge, with the last fifth of each class's rows held out."""
    last = np.concatenate([np.arange(n) >= n - max(n // 5, 1) for n in np.bincount(y)])
    truth = np.eye(CLASSES)[y[last]]
    return np.array([np.mean((ridge(h[~last], y[~last], h[last], lam) - truth) ** 2) for lam in LAMBDAS])


def main():
    rng = np.random.default_rng(7)
    sets = {
        "plain": embeddings(rng, 32, [25] * CLASSES, 0.7),
        "uneven": embeddings(rng, 40, [40, 3, 12, 30, 5, 22, 9, 35, 4, 15], 0.75),
        "few": embeddings(rng, 64, [4] * CLASSES, 0.65),
    }
    for x in sets["uneven"][::2]:
        x[:, 5] = 1.25
        x[:, 7] = np.round(x[:, 7] * 64) / 64  # so that the sum is exact
        x[:, 8] = np.round(x[:, 8] * 64) / 64
        x[:, 9] = x[:, 7] + x[:, 8]
    out = {}
    for name, (x, y, test, truth) in sets.items():
        projection = rng.normal(size=(x.shape[1], FEATURES)).astype("f4")
        x64, test64 = x.astype("f8"), test.astype("f8")
        h, h_test = np.maximum(unit(x64) @ projection, 0), np.maximum(unit(test64) @ projection, 0)
        lda = LinearDiscriminantAnalysis().fit(x64, y)
        scores = {
            "nearest_mean": nearest_mean(x64, y, test64),
            "discriminant": lda.predict_log_proba(test64),
            "discriminant_shrunk": shrunk(x64, y).fit(x64, y).predict_log_proba(test64),
            "projection_10": ridge(h, y, h_test, 10.0),
            "projection_100": ridge(h, y, h_test, 100.0),
        }
        texts = np.random.default_rng(8)
        text = np.stack([x64[y == c].mean(0) for c in range(CLASSES)])
        text = ((text + 0.4 * texts.normal(size=text.shape)) * texts.uniform(1, 9, (CLASSES, 1))).astype("f4")
        for percent, weight in WEIGHTS.items():
            scores[f"hybrid_{percent}"] = hybrid(x64, y, test64, text.astype("f8"), weight)
            scores[f"together_{percent}"] = together(scores["discriminant_shrunk"], test64, text.astype("f8"), weight)
        if name == "plain":
            lsqr = LinearDiscriminantAnalysis(solver="lsqr").fit(x64, y)
            assert (lsqr.predict(test64) == lda.predict(test64)).all()
        for method, values in scores.items():
            print(f"{name:7} {method:20} {100 * np.mean(values.argmax(1) == truth):5.1f} %")
            out[f"{name}.{method}"] = values.astype("f4")
        errors = held_out_errors(h, y)
        print(f"{name:7} ridge held out      {LAMBDAS[errors.argmin()]:g}")
        out[f"{name}.held_out_errors"] = errors.astype("f4")
        out |= {f"{name}.train": x, f"{name}.train_classes": y, f"{name}.test": test, f"{name}.test_classes": truth,
                f"{name}.projection": projection, f"{name}.text": text}
    out = {key: np.ascontiguousarray(value) for key, value in out.items()}
    save_file(out, pathlib.Path(__file__).parent.parent / "baselines.safetensors")


if __name__ == "__main__":
    main()
