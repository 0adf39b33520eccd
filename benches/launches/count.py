"""`make count-launches`: how many kernels a CUDA device would be given, counted without one.

    python count.py MODEL

Builds the benchmark `versus` into target/cuda with the toolkit of CUDA 13, against a stand-in for the driver that
computes nothing (driver.c), and counts the launches of a prompt step of 200 classes and of a batch of images of the
CLIP in MODEL.
"""

import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = ROOT / "runs" / "launches"
MOVES = ["copy from the host", "copy to the host", "copy on the device", "set memory"]
SONAMES = {"cuda": 1, "nvrtc": 13, "curand": 10, "cublas": 13, "cublasLt": 13}
CLASSES = 200
BATCH = 256


def stand_ins() -> None:
    """libcuda and the others, which are the first one under other names."""
    for name, version in SONAMES.items():
        library = PLACE / f"lib{name}.so.{version}"
        what = ["-x", "c", HERE / "driver.c"] if name == "cuda" else ["-Wl,--no-as-needed", PLACE / "libcuda.so"]
        command = ["cc", "-O1", "-w", "-shared", "-fPIC", "-o", library, f"-Wl,-soname,{library.name}", *what]
        subprocess.run(command, check=True)
        link = PLACE / f"lib{name}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)


def built() -> str:
    environment = {"CARGO_TARGET_DIR": str(ROOT / "target" / "cuda")} | os.environ
    environment["LIBRARY_PATH"] = f"{PLACE}:{os.environ.get('LIBRARY_PATH', '')}"
    command = ["cargo", "build", "--release", "--features", "cuda", "--bench", "versus", "--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("it does not build: CUDA_HOME names the toolkit of CUDA 13, CUDA_COMPUTE_CAP=90 what it builds for")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "versus")


def launches(versus: str, *arguments: object) -> dict[str, int]:
    counts = PLACE / "counts"
    environment = os.environ | {"LD_LIBRARY_PATH": str(PLACE), "LAUNCHES": str(counts)}
    subprocess.run([versus, *map(str, arguments)], env=environment, stdout=subprocess.DEVNULL, check=True)
    lines = [line.split("\t") for line in counts.read_text().splitlines()]
    return {name: int(count) for count, name in lines}


def table(title: str, one: dict[str, int], two: dict[str, int], times: int) -> None:
    """What `two` has more than `one`, which is `times` what is counted."""
    more = {name: (count - one.get(name, 0)) / times for name, count in two.items()}
    kernels = {name: count for name, count in more.items() if count and name not in MOVES}
    print(f"{title}: {sum(kernels.values()):g} kernels")
    for name, count in sorted(kernels.items(), key=lambda kernel: -kernel[1]):
        print(f"{count:7g} {name}")
    print("  and", ", ".join(f"{more[name]:g} × {name}" for name in MOVES if more.get(name)))


def main() -> None:
    model = sys.argv[1]
    PLACE.mkdir(parents=True, exist_ok=True)
    stand_ins()
    versus, names = built(), PLACE / "names.txt"
    names.write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    steps = [launches(versus, "step", model, names, CLASSES, n, "cuda") for n in (1, 2)]
    table(f"prompt step, {CLASSES} classes", *steps, 4)  # n warm up, and n are timed three times
    batches = [launches(versus, "pixels", model, n * BATCH, "cuda", "bfloat16") for n in (2, 4)]
    table(f"batch of {BATCH} images", *batches, 2)  # one more for each encoder


if __name__ == "__main__":
    main()
