"""`make bench-torch`: every stage beside plain PyTorch, in one run, and docs/performance.md brought up to date.

Uses nothing but Python's own library; PyTorch runs in a virtual environment below runs/, which is made on the first
call (several GB). Each kind of work is done once by either side to warm up, then in turns; medians count.
"""

import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "runs" / "bench-torch"
CGIL = ROOT / "target" / "release" / "cgil"
DEMO = ROOT / "data" / "demo"
EMBEDDINGS = "sources/base/embeddings"
PAGE = ROOT / "docs" / "performance.md"
ROUNDS = 5
ENCODER_ROUNDS = 3
IMAGES = 64  # that the encoder is timed with at a time
TIMINGS = 4  # in a round: as many as OpenVINO has of two batch sizes and numbers of streams
RIVALS = {"PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}  # of the image encoder
BEGIN, END = "<!-- written by make bench-torch -->", "<!-- end -->"
NAMES = ["red star", "blue circle", "green triangle", "yellow square", "black cross", "white heart", "orange moon",
         "purple arrow", "brown house", "pink flower"]


def output(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, cwd=ROOT, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed with {done.returncode}")
    return done.stdout


def python() -> pathlib.Path:
    """The Python of the virtual environment with PyTorch."""
    venv = PLACE / "venv"
    if not (venv / "ready").exists():
        print("installing PyTorch below runs/bench-torch, once", flush=True)
        output(sys.executable, "-m", "venv", venv)
        output(venv / "bin" / "pip", "install", "-q", "-r", ROOT / "benches" / "torch" / "requirements.txt")
        (venv / "ready").touch()
    return venv / "bin" / "python"


def versus() -> str:
    """The built benchmark program."""
    built = output("cargo", "bench", "--bench", "versus", "--no-run", stderr=subprocess.STDOUT)
    return str(ROOT / re.findall(r"Executable .*\((.*)\)", built)[-1])


def ours_whole(run: pathlib.Path) -> float:
    """Seconds of fit-vae and prompt-tune, as commands, from embeddings that are there and nothing else."""
    output("find", run, "-mindepth", 1, "-maxdepth", 1, "!", "-name", "sources", "-exec", "rm", "-rf", "{}", "+")
    start = time.perf_counter()
    output(CGIL, "fit-vae", "--run", run, "--tasks", 5, "--epochs", 100, stderr=subprocess.DEVNULL)
    output(CGIL, "prompt-tune", "--run", run, "--epochs", 10, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def encoders(versus: str, python: pathlib.Path, model: pathlib.Path) -> list[list[str]]:
    """The image encoder alone in either number type, beside the libraries that run it on a CPU, in turns; the least counts."""
    rows = [["number type", "cgil", *RIVALS, "times as fast as the fastest"]]
    for dtype in "float32", "bfloat16":
        rivals = {name: library for name, library in RIVALS.items() if (dtype, library) != ("bfloat16", "onnxruntime")}
        times = {name: [] for name in ["cgil", *rivals]}
        for _ in range(ENCODER_ROUNDS):
            times["cgil"] += [float(output(versus, "pixels", model, IMAGES, "cpu", dtype)) for _ in range(TIMINGS)]
            for name, library in rivals.items():
                script = ROOT / "benches" / "torch" / "encoders.py"
                times[name].append(float(output(python, script, library, model, IMAGES, dtype, stderr=subprocess.DEVNULL).split()[-1]))
        least = {name: 1e3 * min(seconds) for name, seconds in times.items()}
        shown = [f"{least[name]:.1f}" if name in least else "–" for name in ["cgil", *RIVALS]]
        rows.append([dtype, *shown, f"{min(least[name] for name in rivals) / least['cgil']:.2f}"])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def breakdown() -> str:
    """Where the time of the demo's three stages goes."""
    run = PLACE / "demo"
    output("rm", "-rf", run)
    stages = [("extract", "--model", DEMO / "clip", "--data", DEMO / "pictures"), ("fit-vae", "--tasks", 5), ("prompt-tune",)]
    text = ""
    for stage, *options in stages:
        printed = output(CGIL, stage, "--run", run, *options, "--profile", stderr=subprocess.DEVNULL)
        text += f"\n`{stage}`, in {printed[printed.index('seconds,'):].replace(chr(10), ':' + chr(10) * 2 + '```' + chr(10), 1)}```\n"
    return text


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    os.environ |= {"OMP_NUM_THREADS": str(cores), "RAYON_NUM_THREADS": str(cores), "TRANSFORMERS_VERBOSITY": "error",
                   "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    theirs, ours = [python(), ROOT / "benches" / "torch" / "rival.py"], [versus()]
    if not (PLACE / "inputs").exists():
        output(*theirs, "inputs", PLACE / "inputs.new", DEMO / "clip", 254)
        (PLACE / "inputs.new").rename(PLACE / "inputs")
    model, pictures, names = (PLACE / "inputs" / part for part in ("vit-b-32", "pictures", "names.txt"))
    names.write_text("\n".join(NAMES))
    run = PLACE / "run"
    output(CGIL, "extract", "--model", DEMO / "clip", "--data", DEMO / "pictures", "--run", run, stderr=subprocess.DEVNULL)

    same = lambda *arguments: [lambda side=side: float(output(*side, *arguments).split()[0]) for side in (ours, theirs)]
    both = lambda *arguments: [same(*arguments, "cpu")[0], same(*arguments)[1]]  # of ours the device is said
    works = [
        ("extract: ViT-B/32, 254 JPEGs of about 300×200", "ms per image", 1e3, same("encode", model, pictures)),
        ("fit-vae: 768 values, 4 classes of 120 rows", "ms per class and epoch", 1e3, both("vae", 768, 4, 120, 50)),
        ("prompt-tune: ViT-B/32, 10 classes", "ms per step", 1e3, both("step", model, names, 10, 5)),
        ("fit-vae and prompt-tune: the demo, 100 and 10 epochs", "s", 1,
         [lambda: ours_whole(run), lambda: float(output(*theirs, "run", DEMO / "clip", run / EMBEDDINGS, 5, 100, 10).split()[0])]),
    ]
    rows = [["work", "unit", "cgil", "PyTorch", "times as fast"]]
    for name, unit, scale, sides in works:
        times = [[], []]
        for turn in range(ROUNDS + 1):
            for side, seconds in zip(sides, times):
                seconds.append(side() * scale)
        mine, rival = (statistics.median(seconds[1:]) for seconds in times)  # the first turn warms up
        rows.append([name, unit, f"{mine:.3g}", f"{rival:.3g}", f"{rival / mine:.2f}"])
        print(f"{name}: {mine:.3g} {unit}, PyTorch {rival:.3g}: {rival / mine:.2f} times as fast", flush=True)

    encoder = table(encoders(ours[0], theirs[0], model))
    torch = output(theirs[0], "-c", "import torch; print(torch.__version__)").strip()
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = output("git", "describe", "--always", "--dirty").strip()
    about = (f"{cores} cores of {cpu.group(1) if cpu else platform.machine()}, float32, PyTorch {torch}, commit {commit}; "
             f"medians of {ROUNDS}, both sides in turns.")
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END):]
    alone = ("The image encoder alone, ViT-B/32, pixels in memory, in ms per image: the least of "
             f"{ENCODER_ROUNDS} rounds, in turns. In each, rivals are timed with two batch sizes and, of OpenVINO, with one "
             f"stream and one for each core, cgil {TIMINGS} times.")
    about, alone = (textwrap.fill(text, 100, break_on_hyphens=False) for text in (about, alone))
    PAGE.write_text(f"{before}\n{about}\n\n{table(rows)}\n\n{alone}\n\n{encoder}\n\n"
                    f"### Where the time goes\n\nThe demo's stages, with `--profile`:\n{breakdown()}\n{after}")
    print(f"\n{table(rows)}\n\nwritten to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
