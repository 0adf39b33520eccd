"""`make gpu-check`: what a CUDA device computes, held against the CPU and set beside PyTorch on the same device.

    python gpu_check.py [--binaries DIR]

Needs Python with PyTorch for CUDA, transformers, pyarrow and Pillow, the CUDA toolkit, and a device; takes minutes. Writes
its table into docs/performance.md. A machine with a device and no Rust takes DIR, which has what one with Rust built:
`cgil`, and `cuda` and `versus`, its test and its benchmark of these names; COMMIT says of what. Where there is no device it says so, and tries
itself on the CPU, with less of everything.
"""

import argparse
import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

try:
    import numpy as np
    import rival
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from transformers import CLIPConfig, CLIPModel
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: this takes a Python that has PyTorch, transformers, tokenizers, pyarrow and Pillow, as "
             "runs/bench-torch/venv/bin/python has after `make bench-torch`")

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "runs" / "gpu-check"
DEMO = ROOT / "data" / "demo"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- written by make gpu-check -->", "<!-- end of gpu-check -->"
COLOURS = ["red", "green", "blue", "black", "white"]
THINGS = ["star", "circle", "square", "heart", "moon", "house", "arrow", "cross"]
NAMES = [f"{first} {thing} {second}" for first in COLOURS for thing in THINGS for second in COLOURS]
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
CORES = len(os.sched_getaffinity(0))

LARGE = dict(  # ViT-L/14
    text=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
    vision=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14),
    dim=768)
BASE = dict(text={}, vision={}, dim=512)  # ViT-B/32
TITLES = {"vit-l-14": "ViT-L/14", "vit-b-32": "ViT-B/32", "vit-h-14": "ViT-H/14 at 378 pixels"}
HUGE = dict(  # ViT-H/14's image encoder at 378 pixels
    text=dict(num_hidden_layers=1),
    vision=dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14,
                image_size=378, hidden_act="gelu"),
    dim=1024)


def output(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed with {done.returncode}")
    return done.stdout


class Programs:
    def __init__(self, given: pathlib.Path | None) -> None:
        if given:
            self.cgil, self.test, self.versus = (given.resolve() / name for name in ("cgil", "cuda", "versus"))
            return
        targets = ["--bin", "cgil", "--bench", "versus", *(["--features", "cuda", "--test", "cuda"] if CUDA else [])]
        built = subprocess.run(["cargo", "build", "--release", *targets, "--message-format", "json"], cwd=ROOT, check=True,
                               stdout=subprocess.PIPE, text=True).stdout
        found = dict(re.findall(r'"name":"(\w+)".*"executable":"([^"]+)"', built))
        self.cgil, self.versus = (pathlib.Path(found[name]) for name in ("cgil", "versus"))
        self.test = pathlib.Path(found.get("cuda", ""))  # on a device alone


def checkpoint(name: str, text: dict, vision: dict, dim: int) -> pathlib.Path:
    """A CLIP with random weights and the demo's tokenizer."""
    side = vision.get("image_size", 224)
    place = PLACE / name
    if not place.exists():
        torch.manual_seed(0)
        small = CLIPConfig.from_pretrained(DEMO / "clip").text_config
        text = text | {"vocab_size": small.vocab_size, "bos_token_id": small.bos_token_id, "eos_token_id": small.eos_token_id}
        with torch.device(DEVICE):
            clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim))
        clip.save_pretrained(place)
        for file in ("tokenizer.json", "preprocessor_config.json"):
            content = (DEMO / "clip" / file).read_text()
            (place / file).write_text(content.replace(": 64", f": {side}") if file.startswith("pre") else content)
    return place


def draw(part: int, count: int) -> None:
    """Some JPEGs of 248×230."""
    rng = np.random.default_rng(part)
    for i in range(count):
        folder = PLACE / "pictures" / ("train" if i % 8 else "test") / f"class{part % 16:02}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 14, 3), dtype=np.uint8))
        coarse.resize((248, 230), Image.BICUBIC).save(folder / f"{part}-{i:05}.jpg", quality=88)


class Peak(threading.Thread):
    """The most memory that was in use on the device since the last look, in GB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.looks = 0.0, CUDA
        self.start()

    def run(self) -> None:
        while self.looks:
            free, total = torch.cuda.mem_get_info()
            self.most = max(self.most, (total - free) / 1e9)
            time.sleep(0.2)

    def stop(self) -> None:
        """A thread that looks while the interpreter ends aborts it."""
        self.looks = False
        self.join()

    def take(self) -> str:
        most, self.most = self.most, 0.0
        return f"{most:.1f}" if CUDA else "–"


def seconds(work, times: int, rounds: int = 1) -> float:
    """Of one call of `work`, the mean of `times` after two, in the fastest of some rounds."""
    wait = torch.cuda.synchronize if CUDA else lambda: None
    work(), work(), wait()

    def mean() -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        wait()
        return (time.perf_counter() - start) / times

    return min(mean() for _ in range(rounds))


def encoder(model: pathlib.Path, dtype: torch.dtype, compiled: bool):
    clip = CLIPModel.from_pretrained(model, attn_implementation="sdpa").eval().to(DEVICE, dtype)
    embed = lambda pixels: clip.visual_projection(clip.vision_model(pixels).pooler_output)
    return torch.compile(embed) if compiled else embed


@torch.inference_mode()
def encode(model: pathlib.Path, images: int, dtype: torch.dtype, compiled: bool = False) -> float:
    """Per image, from pixels on the device, of as many as the other side has: the longer, the hotter."""
    torch.backends.cuda.matmul.allow_tf32 = True
    embed, batch = encoder(model, dtype, compiled), 256 if CUDA else 2
    pixels = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=dtype)
    return seconds(lambda: embed(pixels), -(-images // batch)) / batch


@torch.inference_mode()
def encode_files(model: pathlib.Path) -> float:
    """Per image, from JPEGs by as many workers as there are cores."""
    embed, dtype = encoder(model, torch.bfloat16, False), torch.bfloat16
    pictures = rival.Pictures(PLACE / "pictures", 224)
    embed(torch.zeros(256 if CUDA else 2, 3, 224, 224, device=DEVICE, dtype=dtype))
    start = time.perf_counter()
    loader = torch.utils.data.DataLoader(pictures, batch_size=256, num_workers=CORES, pin_memory=CUDA)
    done = sum(len(embed(pixels.to(DEVICE, non_blocking=True).to(dtype)).float().cpu()) for pixels in loader)
    return (time.perf_counter() - start) / done


def step(model: pathlib.Path, packed: bool) -> float:
    """Per prompt step of 200 classes: 77 positions in float32, or up to the longest text in bfloat16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    prompts = rival.Prompts(str(model), NAMES).to(DEVICE)
    dtype = torch.bfloat16 if packed else torch.float32
    if packed:
        longest = int(prompts.ends.max()) + 1
        prompts.tail = prompts.tail[:, : longest - 3]
        positions = prompts.clip.text_model.embeddings.position_embedding
        positions.weight = torch.nn.Parameter(positions.weight[:longest], requires_grad=False)
    prompts.to(dtype)
    for name in ("zero_shot", "start", "tail", "scale"):
        setattr(prompts, name, getattr(prompts, name).detach().to(DEVICE, dtype))
    prompts.ends = prompts.ends.to(DEVICE)
    embeddings = F.normalize(torch.randn(rival.ROWS, prompts.zero_shot.shape[1], device=DEVICE), dim=-1).to(dtype)
    labels, adam = (torch.arange(rival.ROWS) % len(NAMES)).to(DEVICE), prompts.optimiser()
    return seconds(lambda: prompts.step(adam, len(NAMES), embeddings, labels), *((8, 3) if CUDA else (1,)))


def vae() -> float:
    """Per class and epoch of one step, one class after another."""
    torch.set_default_device(DEVICE)
    rows = torch.randn(20, 768)
    each = seconds(lambda: rival.fit(rows, 100), 2) / 100
    torch.set_default_device("cpu")
    return each


def demo(cgil: pathlib.Path, device: str) -> dict[str, float]:
    """The measures of the demo's stages on a device."""
    run = PLACE / f"demo-{device}"
    shutil.rmtree(run, ignore_errors=True)
    output(cgil, "extract", "--model", DEMO / "clip", "--data", DEMO / "pictures", "--run", run, "--device", device, "-q")
    output(cgil, "fit-vae", "--run", run, "--tasks", 5, "--device", device, "-q")
    output(cgil, "prompt-tune", "--run", run, "--device", device, "-q")
    sql = "SELECT metric, value FROM metrics WHERE on_task IS NULL ORDER BY after_task"
    lines = output(cgil, "query", "--run", run, sql, "--format", "csv").split()[1:]
    found = {metric: float(value) for metric, value in (line.split(",") for line in lines)}  # the last of each
    return {name: found[name] for name in ("faa", "ci_transfer", "mean_open_accuracy", "h")}


class Report:
    """Rows as they come; what fails is a row that says so, and the others go on."""

    def __init__(self) -> None:
        self.rows = [["work", "unit", "cgil", "PyTorch", "PyTorch at its best", "times as fast", "memory, GB"]]
        self.peak = Peak()
        self.failed = 0

    def row(self, work: str, unit: str, mine, *theirs) -> None:
        show = lambda x: f"{1 / x:.0f}" if unit.endswith("/s") else f"{1e3 * x:.3g}"
        try:
            gc.collect()
            if CUDA:
                torch.cuda.empty_cache()
            self.peak.take()
            mine, memory = mine(), self.peak.take()
            others = [measure() for measure in theirs]
            shown = [show(x) for x in others] + ["–"] * (2 - len(others))
            times = f"{min(others) / mine:.2f}" if others else "–"
            self.rows.append([work, unit, show(mine), *shown, times, memory])
        except Exception:
            traceback.print_exc()
            self.rows.append([work, unit, "failed", "–", "–", "–", "–"])
            self.failed += 1
        print(" | ".join(self.rows[-1]), flush=True)

    def table(self) -> str:
        head, *body = self.rows
        return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def measure(programs: Programs, report: Report, large: pathlib.Path, base: pathlib.Path) -> None:
    names = PLACE / "names.txt"
    names.write_text("\n".join(NAMES))
    ours = lambda *arguments: lambda: float(output(programs.versus, *arguments))
    number = "bfloat16" if CUDA else "float32"

    def pixels(model: pathlib.Path, number: str, images: int, *compiled: bool) -> None:
        """The encoder's row; beside PyTorch plain, compiled, or neither."""
        images = images if CUDA else 1
        theirs = torch.bfloat16 if number == "bfloat16" else torch.float32
        report.row(f"extract: {TITLES[model.name]}, {number}, from memory", "images/s", ours("pixels", model, images, DEVICE, number),
                   *(lambda compiled=compiled: encode(model, images, theirs, compiled) for compiled in compiled))

    pixels(large, number, 12 * 512, *[False, True][: 2 if CUDA else 1])
    if CUDA:
        pixels(large, "tf32", 4 * 512, False)
    pixels(base, number, 12 * 512, False)
    if CUDA:
        pixels(PLACE / "vit-h-14", number, 512)

    def files(model: pathlib.Path) -> float:
        count, run = len(list((PLACE / "pictures").rglob("*.jpg"))), PLACE / f"run-{model.name}"
        shutil.rmtree(run, ignore_errors=True)
        start = time.perf_counter()
        output(programs.cgil, "extract", "--model", model, "--data", PLACE / "pictures", "--run", run, "--device", DEVICE, "-q")
        return (time.perf_counter() - start) / count

    report.row("extract: ViT-B/32, JPEGs of 248×230, the whole command", "images/s", lambda: files(base), lambda: encode_files(base))
    report.row("extract: ViT-L/14, the same", "images/s", lambda: files(large))
    steps = {10: 40, 200: 40, 1000: 10, 2000: 10} if CUDA else {10: 1}
    for classes, count in steps.items():
        rivals = [lambda: step(large, False), lambda: step(large, True)] if classes == len(NAMES) else []
        report.row(f"prompt-tune: ViT-L/14's text encoder, {classes} classes", "ms per step",
                   ours("step", large, names, classes, count, DEVICE), *rivals)
    report.row("fit-vae: 768 values, 200 classes of 20 rows", "ms per class and epoch",
               ours("vae", 768, 200, 20, 500 if CUDA else 1, DEVICE), vae)


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("--binaries", type=pathlib.Path)
    programs = Programs(parser.parse_args().binaries)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    PLACE.mkdir(parents=True, exist_ok=True)
    if not CUDA:
        print("no CUDA device: this tries the CPU, and writes nothing", flush=True)
    with ProcessPoolExecutor(CORES) as pool:
        drawn = [] if (PLACE / "pictures").exists() else [pool.submit(draw, part, 1200 if CUDA else 4) for part in range(15)]
        print(output(programs.test, "--nocapture") if CUDA else "", flush=True)
        large, base = checkpoint("vit-l-14", **LARGE), checkpoint("vit-b-32", **BASE)
        if CUDA:
            checkpoint("vit-h-14", **HUGE)
        [part.result() for part in drawn]
    report = Report()
    measure(programs, report, large, base)
    report.peak.stop()
    measures = {device: demo(programs.cgil, device) for device in ["cpu", *(["cuda"] if CUDA else [])]}
    shown = "; ".join(f"on the {device.replace('cuda', 'device')} " + ", ".join(f"{name} {value:.1f}" for name, value in found.items())
                      for device, found in measures.items())
    print(f"the demo: {shown}")
    if CUDA and not report.failed:
        card = torch.cuda.get_device_name()
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
        about = (f"One {card}, {CORES} cores, PyTorch {torch.__version__}, commit {os.environ.get('COMMIT') or commit.strip()}.")
        page = PAGE.read_text()
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END):]
        shown = textwrap.fill(f"The demo: {shown}.", 100)
        PAGE.write_text(f"{before}\n{about}\n\n{report.table()}\n\n{shown}\n{after}")
    print(f"\n{report.table()}\n\n{time.perf_counter() - start:.0f} s")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
