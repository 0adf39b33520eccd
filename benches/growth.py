"""`make growth`: how time and memory of the stages grow, drawn into docs/growth.svg.

    python growth.py        in the virtual environment of `make bench-torch`

extract on 1,000 to 100,000 of the demo's pictures; prompt-tune on 10 to 1,000 classes with the demo's text encoder, one
epoch, with batches of 128 and of 1,024.
"""

import io
import os
import pathlib
import shutil
import subprocess
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLACE = ROOT / "runs" / "growth"
DEMO = ROOT / "data" / "demo"
IMAGES = [1_000, 10_000, 100_000]
CLASSES = [10, 100, 1_000]
BATCHES = [128, 1_024]


# A child's peak memory counts that of its parent before it, so the parent has to be small.
CHILD = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, status)
"""


def measure(*command: object) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of a cgil command."""
    seconds, _, megabytes = measured(ROOT / "target/release/cgil", *command)
    return seconds, megabytes


def spent(*command: object) -> tuple[float, float]:
    """Processor seconds and peak memory in MB of a program."""
    return measured(*command)[1:]


def measured(*command: object) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak memory in MB of a program."""
    program = [sys.executable, "-S", "-c", CHILD, *map(str, command)]
    words = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert words[-1] == "0", command
    return tuple(map(float, words[:3]))


def pictures(n: int) -> pathlib.Path:
    """A folder with n pictures: links to those of the demo, again and again."""
    seeds, folder = PLACE / "pictures", PLACE / f"pictures-{n}"
    if not seeds.exists():
        seeds.mkdir(parents=True)
        table = pq.read_table(DEMO / "pictures", columns=["image"])
        for i, image in enumerate(table["image"].to_pylist()):
            (seeds / f"{i:05}.jpg").write_bytes(io.BytesIO(image["bytes"]).getvalue())
    files = sorted(seeds.iterdir())
    for i in range(n):
        place = folder / ("test" if i % 10 == 0 else "train") / "thing"
        place.mkdir(parents=True, exist_ok=True)
        os.link(files[i % len(files)], place / f"{i:06}.jpg")
    return folder


def embeddings(classes: int) -> pathlib.Path:
    """A table of random embeddings: 4 to train on and 1 to test per class."""
    n = 5 * classes
    values = np.random.default_rng(0).normal(size=n * 64).astype("float32")
    label = np.arange(n) // 5
    table = pa.table({"split": ["test" if i % 5 == 4 else "train" for i in range(n)], "label": pa.array(label, pa.int64()),
                      "class_name": [f"red star {i}" for i in label],
                      "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values), 64)})
    path = PLACE / f"classes-{classes}.parquet"
    pq.write_table(table, path)
    return path


def main() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    extracted = []
    for n in IMAGES:
        extracted.append(measure("extract", "--model", DEMO / "clip", "--data", pictures(n), "--run", PLACE / f"extract-{n}"))
        print(f"extract, {n} images: {extracted[-1][0]:.1f} s, {1e3 * extracted[-1][0] / n:.2f} ms per image, "
              f"{extracted[-1][1]:.0f} MB", flush=True)
    tuned = {batch: [] for batch in BATCHES}
    for classes in CLASSES:
        run = PLACE / f"tune-{classes}"
        measure("import", embeddings(classes), "--run", run)
        measure("fit-vae", "--run", run, "--tasks", 1, "--epochs", 1, "--hidden", 64, "--latent", 16)
        for batch in BATCHES:
            for made in ("prompts", "statistics", "results"):  # all of it anew, for each size of batch
                shutil.rmtree(run / made, ignore_errors=True)
            tuned[batch].append(measure("prompt-tune", "--run", run, "--model", DEMO / "clip", "--epochs", 1, "--batch-size", batch))
            print(f"prompt-tune, {classes} classes, batches of {batch}: {tuned[batch][-1][0]:.2f} s, {tuned[batch][-1][1]:.0f} MB",
                  flush=True)

    plt.rcParams.update({"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "cgil", "axes.grid": True,
                         "grid.alpha": 0.3})
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    panels = [
        (axes[0, 0], "extract: time per image", "images", "ms", IMAGES,
         {"": [1e3 * s / n for (s, _), n in zip(extracted, IMAGES)]}),
        (axes[0, 1], "extract: peak memory", "images", "MB", IMAGES, {"": [mb for _, mb in extracted]}),
        (axes[1, 0], "prompt-tune: time of an epoch", "classes", "s", CLASSES,
         {f"batches of {batch}": [s for s, _ in tuned[batch]] for batch in BATCHES}),
        (axes[1, 1], "prompt-tune: peak memory", "classes", "MB", CLASSES,
         {f"batches of {batch}": [mb for _, mb in tuned[batch]] for batch in BATCHES}),
    ]
    for panel, title, x_label, unit, xs, lines in panels:
        for (label, ys), marker in zip(lines.items(), "os"):
            panel.plot(xs, ys, marker=marker, label=label)
        panel.set(title=title, xlabel=x_label, ylabel=unit, xscale="log")
        if unit == "s":
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
        if len(lines) > 1:
            panel.legend()
    figure.savefig(ROOT / "docs" / "growth.svg", metadata={"Date": None})
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
