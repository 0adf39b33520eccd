"""`make bench-cuda`: what a CUDA device computes, held against the CPU and set beside PyTorch on the same device.

    python device.py [DEVICE]     DEVICE is cuda, or cpu to try this program where there is no device

Prints a table. Needs Python with PyTorch, transformers, pyarrow and Pillow, the CUDA toolkit, and a device; takes minutes.
The tests of tests/cuda.rs run first.
"""

import os
import pathlib
import re
import subprocess
import sys
import time

import rival
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "runs" / "bench-cuda"
DEMO = ROOT / "data" / "demo" / "clip"
COLOURS = ["red", "green", "blue", "black", "white"]
THINGS = ["star", "circle", "square", "heart", "moon", "house", "arrow", "cross"]
NAMES = [f"{first} {thing} {second}" for first in COLOURS for thing in THINGS for second in COLOURS]


def output(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed with {done.returncode}")
    return done.stdout


def checkpoint(name: str, text: dict, vision: dict, dim: int) -> pathlib.Path:
    """A CLIP with random weights and the demo's tokenizer."""
    place = PLACE / name
    if not place.exists():
        torch.manual_seed(0)
        small = CLIPConfig.from_pretrained(DEMO).text_config
        text |= {"vocab_size": small.vocab_size, "bos_token_id": small.bos_token_id, "eos_token_id": small.eos_token_id}
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)).save_pretrained(place)
        for file in ("tokenizer.json", "preprocessor_config.json"):
            content = (DEMO / file).read_text()
            (place / file).write_text(content.replace(": 64", ": 224") if file.startswith("pre") else content)
    return place


def seconds(work, device: str, times: int) -> float:
    """Of one call of `work`, the mean of `times` after two."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    work(), work(), wait()
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - start) / times


@torch.inference_mode()
def encode(model: pathlib.Path, device: str, dtype: torch.dtype, compiled: bool) -> float:
    """Per image, from pixels on the device."""
    clip = CLIPModel.from_pretrained(model, attn_implementation="sdpa").eval().to(device, dtype)
    embed = lambda pixels: clip.visual_projection(clip.vision_model(pixels).pooler_output)
    embed = torch.compile(embed) if compiled else embed
    batch = 256 if device == "cuda" else 2
    pixels = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype)
    return seconds(lambda: embed(pixels), device, 5) / batch


def step(model: pathlib.Path, device: str, packed: bool) -> float:
    """Per prompt step: 77 positions in float32, or up to the longest text in bfloat16."""
    prompts = rival.Prompts(str(model), NAMES).to(device)
    dtype = torch.bfloat16 if packed else torch.float32
    if packed:
        longest = int(prompts.ends.max()) + 1
        prompts.tail = prompts.tail[:, : longest - 3]
        positions = prompts.clip.text_model.embeddings.position_embedding
        positions.weight = torch.nn.Parameter(positions.weight[:longest], requires_grad=False)
    prompts.to(dtype)
    for name in ("zero_shot", "start", "tail", "scale"):
        setattr(prompts, name, getattr(prompts, name).detach().to(device, dtype))
    prompts.ends = prompts.ends.to(device)
    embeddings = F.normalize(torch.randn(rival.ROWS, prompts.zero_shot.shape[1], device=device), dim=-1).to(dtype)
    labels, adam = (torch.arange(rival.ROWS) % len(NAMES)).to(device), prompts.optimiser()
    return seconds(lambda: prompts.step(adam, len(NAMES), embeddings, labels), device, 8)


def vae(device: str) -> float:
    """Per class and epoch of one step, one class after another."""
    torch.set_default_device(device)
    rows = torch.randn(20, 768)
    each = seconds(lambda: rival.fit(rows, 100), device, 2) / 100
    torch.set_default_device("cpu")
    return each


def main(device: str = "cuda") -> None:
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    features = ["--features", "cuda"] if device == "cuda" else []
    if device == "cuda":
        print(output("cargo", "test", "--release", *features, "--test", "cuda", "--", "--nocapture"))
    built = subprocess.run(["cargo", "bench", *features, "--bench", "versus", "--no-run"], cwd=ROOT, check=True,
                           stderr=subprocess.PIPE, text=True).stderr
    versus = ROOT / re.findall(r"Executable .*\((.*)\)", built)[-1]
    ours = lambda *arguments: float(output(versus, *arguments))

    text = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
    large, base = checkpoint("vit-l-14", text, vision, 768), checkpoint("vit-b-32", {}, {}, 512)
    names = PLACE / "names.txt"
    names.write_text("\n".join(NAMES))

    on_cuda = device == "cuda"
    dtype, batches = ("bfloat16", 12) if on_cuda else ("float32", 1)
    rows = [["work", "unit", "cgil", "PyTorch", "PyTorch at its best", "times as fast"]]

    def row(work: str, unit: str, mine: float, *theirs: float) -> None:
        per_second = unit.endswith("/s")
        show = lambda x: f"{1 / x:.0f}" if per_second else f"{1e3 * x:.3g}"
        shown = [show(mine), show(theirs[0]), show(theirs[1]) if theirs[1:] else "–", f"{min(theirs) / mine:.2f}"]
        rows.append([work, unit, *shown])
        print(" | ".join(rows[-1]), flush=True)

    for name, model in ("ViT-L/14", large), ("ViT-B/32", base):
        torch.backends.cuda.matmul.allow_tf32 = True
        number = getattr(torch, dtype)
        row(f"extract: {name}, {dtype}, from memory", "images/s", ours("pixels", model, batches, device, dtype),
            *(encode(model, device, number, compiled) for compiled in ([False, True] if on_cuda else [False])))
    torch.backends.cuda.matmul.allow_tf32 = False
    row("prompt-tune: ViT-L/14's text encoder, 200 classes", "ms per step",
        ours("step", large, names, len(NAMES), 40 if on_cuda else 2, device), step(large, device, False), step(large, device, True))
    row("fit-vae: 768 values, 200 classes of 20 rows", "ms per class and epoch",
        ours("vae", 768, 200, 20, 60 if on_cuda else 2, device), vae(device))
    rows.insert(1, ["---"] * len(rows[0]))
    print("\n" + "\n".join("| " + " | ".join(line) + " |" for line in rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
