"""`make big`: time and memory over the number of embeddings, drawn into docs/big.svg.

    python big.py [ROWS:CLASSES[:VALUES] …]     in the virtual environment of `make bench-torch`

Synthetic embeddings of 32 values, in no order of classes, written in place and removed again: 3 GB of disk for 20 million.
In one task, which is the hardest for memory: nearest class means, linear discriminants, and the generators of a tenth of
the classes, VAEs of 32 hidden units for one epoch. 20,000 test rows are scored. Times are of the processor, which do not
depend on who else uses the machine.
"""

import pathlib
import shutil
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from growth import ROOT, spent

PLACE = ROOT / "runs" / "big"
SETTINGS = ["200000:1000", "2000000:1000", "20000000:1000", "200000:20000", "2000000:20000", "20000000:20000"]
TASKS = ["--tasks", 1]
# By classes and stage: rows, µs per row, MB.
Figures = dict[tuple[int, str], list[tuple[int, float, float]]]
STAGES = {
    "generate": None,
    "ncm": ["baseline", "ncm", *TASKS],
    "lda": ["baseline", "lda", *TASKS],
    "fit-vae": ["fit-vae", *TASKS, "--partition", "0/10", "--epochs", 1, "--hidden", 32, "--latent", 8],
}


def synthetic() -> pathlib.Path:
    """The program that writes the embeddings, the newest of its builds."""
    built = [path for path in (ROOT / "target/release/deps").glob("synthetic-*") if path.suffix == ""]
    return max(built, key=lambda path: path.stat().st_mtime)


def main() -> None:
    settings = [[*map(int, setting.split(":")), 32][:3] for setting in sys.argv[1:] or SETTINGS]
    figures: Figures = {}
    for rows, classes, values in settings:
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        for stage, words in STAGES.items():
            if words is None:
                seconds, megabytes = spent(synthetic(), PLACE, rows, classes, values)
            else:
                seconds, megabytes = spent(ROOT / "target/release/cgil", *words, "--run", PLACE)
            figures.setdefault((classes, stage), []).append((rows, 1e6 * seconds / rows, megabytes))
            print(f"| {rows:,} | {classes:,} | {stage} | {seconds:.1f} | {1e6 * seconds / rows:.2f} | {megabytes:.0f} |", flush=True)
        on_disk = sum(path.stat().st_size for path in PLACE.rglob("*") if path.is_file())
        print(f"{on_disk / 1e9:.2f} GB on disk", flush=True)
    shutil.rmtree(PLACE)
    draw(figures)


def draw(figures: Figures) -> None:
    plt.rcParams.update({"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "cgil", "axes.grid": True,
                         "grid.alpha": 0.3})
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (classes, stage), points in figures.items():
        if stage == "generate":
            continue
        xs, times, memories = zip(*points)
        few = classes == min(classes for classes, _ in figures)
        style = {"marker": {"ncm": "o", "lda": "s", "fit-vae": "^"}[stage], "linestyle": "-" if few else "--",
                 "color": {"ncm": "C0", "lda": "C1", "fit-vae": "C2"}[stage], "label": f"{stage}, {classes:,} classes"}
        panels[0].plot(xs, times, **style)
        panels[1].plot(xs, memories, **style)
    panels[0].set(title="processor time per embedding", xlabel="embeddings", ylabel="µs", xscale="log", yscale="log")
    panels[1].set(title="peak memory", xlabel="embeddings", ylabel="MB", xscale="log", ylim=(0, None))
    panels[1].legend(fontsize="small")
    figure.savefig(ROOT / "docs" / "big.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
