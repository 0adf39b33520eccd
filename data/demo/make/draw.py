"""Draw the demo's pictures: a small world of coloured, patterned things with captions.

    python draw.py demo ..                  # the 20 demo classes -> ../pictures/*.parquet
    python draw.py sheet demo sheet.png     # a contact sheet to look at: demo | training

A thing is a colour, a pattern and a shape: "a red striped fish". CLIP (train.py) learns from
clean flat drawings of all combinations but 20. Those 20 are the demo's classes, drawn by another
hand: wobbly, inked, on cluttered paper, and with paints that lean towards the next colour of the
colour wheel. A model that knows only the clean drawings gets many of them wrong in a systematic
way, which is what prompt learning is there to repair.

Everything follows from the seed.
"""
import argparse
import colorsys
import io
import json
import pathlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter

SEED = 20240715
HUES = dict(red=0, orange=28, yellow=52, lime=84, green=130, teal=176, blue=220, purple=275, pink=325)  # degrees
PATTERNS = ["plain", "striped", "spotted", "checked", "zigzag"]
SHAPES = ["star", "heart", "fish", "house", "boat", "mushroom", "cup", "umbrella", "tree", "car", "butterfly", "flower"]
# The demo's classes, four a task. CLIP never sees these combinations.
CLASSES = [
    "red striped fish", "green spotted umbrella", "blue checked house", "yellow zigzag star",
    "orange striped fish", "teal spotted umbrella", "purple checked house", "pink plain flower",
    "yellow spotted mushroom", "blue striped boat", "red checked heart", "purple plain butterfly",
    "orange spotted mushroom", "purple striped boat", "pink checked heart", "green zigzag cup",
    "red spotted mushroom", "pink plain butterfly", "teal zigzag cup", "orange zigzag star",
]
TEMPLATES = ["a photo of a {}", "a photo of a {}.", "a photo of the {}", "a picture of a {}", "a drawing of a {}",
             "a picture of the {}.", "this is a {}", "there is a {} here", "{}", "{}.", "a {}", "the {}."]

Points = np.ndarray  # (N, 2), x to the right and y downwards; a thing fills about [-1, 1] x [-1, 1]
INK, WOOD, CREAM, LEAF, GLASS = (52, 46, 58), (134, 92, 62), (247, 238, 220), (104, 150, 92), (206, 226, 236)


@dataclass
class Style:
    """How a hand draws. Ranges are (low, high) of a uniform draw."""
    lean: tuple[float, float]       # by how much of the way a paint leans to the next colour of the wheel
    period: tuple[float, float]     # of the patterns, in units of half the thing's size
    wobble: float                   # amplitude of the warp of all outlines
    ink: float                      # width of the outline; 0 is none
    clutter: int                    # at most so many scraps of paper lie about
    blur: tuple[float, float]       # radius in 64ths of the picture
    grain: float                    # strength of the paper's texture
    cover: float                    # probability that a leaf hides a part


CLEAN = Style(lean=(-0.22, 0.22), period=(0.42, 0.68), wobble=0.02, ink=0.0, clutter=0, blur=(0.0, 0.5), grain=2.0, cover=0.0)
SKETCH = Style(lean=(0.5, 0.66), period=(0.32, 0.44), wobble=0.07, ink=0.06, clutter=7, blur=(0.3, 0.7), grain=3.5, cover=0.3)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    t = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    px, py = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + px * np.cos(turn) - py * np.sin(turn), y + px * np.sin(turn) + py * np.cos(turn)], 1)


def polygon(*corners: tuple[float, float]) -> Points:
    """The corners joined by straight edges, with points along them so that an edge can wobble."""
    c = np.array(corners, float)
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None]
    return np.concatenate([a + (b - a) * steps for a, b in zip(c, np.roll(c, -1, 0))])


def parts(shape: str) -> list[tuple[tuple | None, Points]]:
    """A shape as (colour, outline) from back to front; colour None is the body, painted in the thing's colour and pattern."""
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    if shape == "star":
        r = np.where(np.arange(10) % 2, 0.48, 1.05)
        a = np.arange(10) * np.pi / 5 - np.pi / 2
        return [(None, polygon(*zip(r * np.cos(a), r * np.sin(a))))]
    if shape == "heart":
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return [(None, np.stack([np.sin(t) ** 3, -0.1 - y / 16], 1))]
    if shape == "fish":
        return [(None, polygon((0.4, 0), (1.05, -0.6), (0.88, 0), (1.05, 0.6))), (None, ellipse(-0.2, 0, 0.82, 0.56)),
                (CREAM, ellipse(-0.62, -0.12, 0.15, 0.15)), (INK, ellipse(-0.65, -0.12, 0.07, 0.07))]
    if shape == "house":
        return [(WOOD, polygon((0.4, -0.9), (0.62, -0.9), (0.62, -0.3), (0.4, -0.3))),
                (None, polygon((-0.78, -0.2), (0.78, -0.2), (0.78, 0.95), (-0.78, 0.95))),
                (WOOD, polygon((-1, -0.15), (0, -1), (1, -0.15))),
                (CREAM, polygon((-0.2, 0.4), (0.2, 0.4), (0.2, 0.95), (-0.2, 0.95)))]
    if shape == "boat":
        return [(INK, polygon((-0.04, -1), (0.04, -1), (0.04, 0.5), (-0.04, 0.5))),
                (None, polygon((0.08, -0.98), (0.92, 0.36), (0.08, 0.36))),
                (None, polygon((-0.08, -0.85), (-0.08, 0.36), (-0.78, 0.36))),
                (WOOD, polygon((-1, 0.48), (1, 0.48), (0.68, 0.95), (-0.68, 0.95)))]
    if shape == "mushroom":
        cap = np.linspace(np.pi, 2 * np.pi, 40)
        return [(CREAM, polygon((-0.22, 0), (0.22, 0), (0.32, 0.95), (-0.32, 0.95))),
                (None, np.concatenate([np.stack([np.cos(cap), 0.2 + 1.15 * np.sin(cap)], 1), polygon((1, 0.2), (-1, 0.2))[:8]]))]
    if shape == "cup":
        return [(INK, ellipse(0.68, 0.05, 0.4, 0.42)), (CREAM, ellipse(0.68, 0.05, 0.24, 0.26)),
                (None, polygon((-0.85, -0.7), (0.7, -0.7), (0.52, 0.85), (-0.67, 0.85))),
                (CREAM, ellipse(-0.075, -0.7, 0.77, 0.14))]
    if shape == "umbrella":
        top = np.linspace(np.pi, 2 * np.pi, 40)
        scallops = np.linspace(1, -1, 49)
        edge = np.stack([scallops, 0.15 - 0.16 * np.abs(np.sin((scallops + 1) * np.pi * 2))], 1)
        return [(INK, polygon((-0.05, -1.05), (0.05, -1.05), (0.05, 0.75), (-0.05, 0.75))),
                (INK, polygon((0.05, 0.72), (0.05, 0.9), (0.3, 0.9), (0.3, 0.7), (0.4, 0.7), (0.4, 1), (-0.05, 1), (-0.05, 0.72))),
                (None, np.concatenate([np.stack([np.cos(top), 0.15 + 1.08 * np.sin(top)], 1), edge]))]
    if shape == "tree":
        return [(WOOD, polygon((-0.15, 0.5), (0.15, 0.5), (0.15, 1), (-0.15, 1)))] + [
            (None, polygon((-w, y), (0, y - 0.8), (w, y))) for w, y in [(0.85, 0.68), (0.7, 0.22), (0.52, -0.22)]]
    if shape == "car":
        body = polygon((-1, 0.05), (-0.65, -0.05), (-0.38, -0.6), (0.42, -0.6), (0.7, -0.05), (1, 0.1), (1, 0.55), (-1, 0.55))
        glass = [(GLASS, polygon((-0.48, -0.08), (-0.28, -0.46), (-0.02, -0.46), (-0.02, -0.08))),
                 (GLASS, polygon((0.08, -0.08), (0.08, -0.46), (0.34, -0.46), (0.52, -0.08)))]
        wheels = [(c, ellipse(x, 0.55, r, r)) for x in (-0.52, 0.52) for c, r in ((INK, 0.25), (CREAM, 0.1))]
        return [(None, body), *glass, *wheels]
    if shape == "butterfly":
        wings = [(None, ellipse(s * 0.5, y, rx, ry, s * a)) for y, rx, ry, a in ((0.45, 0.45, 0.36, 0.6), (-0.32, 0.6, 0.48, -0.7)) for s in (-1, 1)]
        feelers = [(INK, polygon((0, -0.5), (s * 0.3, -1), (s * 0.36, -0.95), (0, -0.4))) for s in (-1, 1)]
        return [*wings, *feelers, (INK, ellipse(0, 0.05, 0.1, 0.62))]
    if shape == "flower":
        petals = [(None, ellipse(0.5 * np.cos(a), -0.25 + 0.5 * np.sin(a), 0.36, 0.3, a)) for a in np.arange(6) * np.pi / 3]
        return [(LEAF, polygon((-0.05, 0), (0.05, 0), (0.05, 1), (-0.05, 1))), (LEAF, ellipse(0.27, 0.75, 0.26, 0.1, -0.5)),
                *petals, (WOOD, ellipse(0, -0.25, 0.24, 0.24))]
    raise ValueError(shape)


def paint(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))


def second_colour(pattern: str, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """Where a pattern shows its second colour, at coordinates (u, v) of the thing."""
    u, v = u / period, v / period
    if pattern == "striped":
        return u % 1 < 0.5
    if pattern == "spotted":
        u = u + 0.5 * (np.floor(v) % 2)
        return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1
    if pattern == "checked":
        return (u % 1 < 0.5) ^ (v % 1 < 0.5)
    if pattern == "zigzag":
        return (v + 0.8 * np.abs(u * 0.7 % 1 - 0.5)) % 1 < 0.5
    return np.zeros(u.shape, bool)


def draw(name: str, style: Style, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A picture of "COLOUR PATTERN SHAPE" in the given style."""
    colour, pattern, shape = name.split()
    uniform = rng.uniform
    w, h = 2 * size[0], 2 * size[1]  # drawn at twice the size, for smooth edges
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)

    # Background: a pastel that changes from top to bottom, paper grain, scraps of paper.
    top, bottom = (np.array(paint(uniform(0, 360), uniform(0.03, 0.22), uniform(0.86, 1.0)), np.float32) for _ in "ab")
    back = top + (bottom - top) * (y / h)[..., None]
    grain = Image.fromarray(rng.normal(128, 42, (max(2, h // 6), max(2, w // 6))).clip(0, 255).astype("uint8")).resize((w, h), Image.BICUBIC)
    back += style.grain * (np.asarray(grain, np.float32)[..., None] - 128) / 42
    picture = Image.fromarray(back.clip(0, 255).astype("uint8"))
    canvas = ImageDraw.Draw(picture)
    for _ in range(rng.integers(style.clutter + 1)):
        scrap = rng.uniform(-1, 1, (rng.integers(3, 6), 2)) * uniform(0.04, 0.09) * w + rng.uniform(0, 1, 2) * (w, h)
        canvas.polygon([tuple(p) for p in scrap], fill=paint(uniform(0, 360), uniform(0.2, 0.5), uniform(0.75, 0.95)))

    # Where the thing lies: size, place, a small turn, maybe mirrored, and the warp of its outlines.
    radius = min(w, h) * uniform(0.31, 0.42)
    room = min(w, h) / 2 - radius
    cx, cy = w / 2 + uniform(-0.8, 0.8) * room, h / 2 + uniform(-0.8, 0.8) * room
    turn, mirror = uniform(-0.3, 0.3), rng.choice([-1, 1])
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    waves, phases = rng.normal(0, 3, (2, 2)), uniform(0, 6.3, 2)

    def place(points: Points) -> list[tuple[float, float]]:
        points = points + style.wobble * np.sin(points @ waves + phases)
        return [tuple(p) for p in (points * (mirror, 1)) @ rotate.T * radius + (cx, cy)]

    # The paint of the body: base colour and pattern, in the thing's own coordinates.
    names = list(HUES)
    hue = HUES[colour]
    gap = (HUES[names[(names.index(colour) + 1) % len(names)]] - hue) % 360
    before = (hue - HUES[names[names.index(colour) - 1]]) % 360
    lean = uniform(*style.lean)
    hue, saturation, value = hue + lean * (gap if lean > 0 else before), uniform(0.72, 0.95), uniform(0.8, 0.97)
    saturation *= 0.75 if colour == "pink" else 1
    base = paint(hue, saturation, value)
    other = CREAM if uniform() < 0.7 else paint(hue, saturation, value * 0.55)
    slant = turn + rng.choice([0, np.pi / 2]) + uniform(-0.25, 0.25)
    u = ((x - cx) * np.cos(slant) + (y - cy) * np.sin(slant)) / radius + uniform(0, 1)
    v = (-(x - cx) * np.sin(slant) + (y - cy) * np.cos(slant)) / radius + uniform(0, 1)
    shown = second_colour(pattern, u, v, uniform(*style.period))
    body = Image.fromarray(np.where(shown[..., None], np.array(other, np.uint8), np.array(base, np.uint8)))

    for fill, outline in parts(shape):
        points = place(outline)
        if fill is None:
            mask = Image.new("L", (w, h))
            ImageDraw.Draw(mask).polygon(points, fill=255)
            picture.paste(body, mask=mask)
        else:
            canvas.polygon(points, fill=fill)
        if style.ink:
            canvas.line([*points, *points[:2]], fill=INK, width=max(1, round(style.ink * radius)), joint="curve")
    if uniform() < style.cover:
        angle = uniform(0, 2 * np.pi)
        at = np.array([cx + 0.95 * radius * np.cos(angle), cy + 0.95 * radius * np.sin(angle)]) / radius
        leaf = ellipse(*at, 0.45, 0.17, uniform(0, 3.1)) * radius
        canvas.polygon([tuple(p) for p in leaf], fill=LEAF, outline=INK)

    picture = picture.resize(size, Image.BOX)
    return picture.filter(ImageFilter.GaussianBlur(uniform(*style.blur) * min(size) / 64))


def training_names() -> list[str]:
    """All combinations but the demo's classes."""
    every = (f"{c} {p} {s}" for c in HUES for p in PATTERNS for s in SHAPES)
    return [name for name in every if name not in CLASSES]


def caption(name: str, rng: np.random.Generator) -> str:
    """A caption of a training picture; one in five leaves out the colour or the pattern."""
    words = name.split()
    if rng.uniform() < 0.2:
        del words[rng.integers(2)]
    return rng.choice(TEMPLATES).format(" ".join(words))


def demo_table(split: str, per_class: int, rng: np.random.Generator) -> pa.Table:
    """The demo's pictures of one split, in random order, as Hugging Face's `datasets` stores them."""
    labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), per_class))
    images = []
    for i, label in enumerate(labels):
        side, long = int(rng.integers(72, 91)), rng.uniform(1.0, 1.17)
        size = (side, int(side * long)) if rng.uniform() < 0.5 else (int(side * long), side)
        picture, file = draw(CLASSES[label], SKETCH, rng, size), io.BytesIO()
        kind = "png" if i % 100 == 99 else "jpeg"
        picture.save(file, kind, quality=88)
        images.append(dict(bytes=file.getvalue(), path=f"{split}-{i:04d}.{kind}"))
    features = dict(image={"_type": "Image"}, label={"names": CLASSES, "_type": "ClassLabel"})
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
                       metadata={"huggingface": json.dumps({"info": {"features": features}})})
    return pa.table({"image": images, "label": labels}, schema=schema)


def sheet(kind: str, rng: np.random.Generator) -> Image.Image:
    """Pictures side by side: eight of every demo class, or of 20 training combinations."""
    names = CLASSES if kind == "demo" else [str(n) for n in rng.choice(training_names(), 20, replace=False)]
    paper = Image.new("RGB", (2 * 8 * 84, 10 * 84 + 10 * 14), "white")
    for i, name in enumerate(names):
        left, top = i % 2 * 8 * 84, i // 2 * 98
        ImageDraw.Draw(paper).text((left + 2, top + 1), name, fill="black")
        for k in range(8):
            paper.paste(draw(name, SKETCH if kind == "demo" else CLEAN, rng, (80, 80)), (left + k * 84, top + 14))
    return paper


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="command", required=True)
    d = sub.add_parser("demo")
    d.add_argument("out", type=pathlib.Path)
    s = sub.add_parser("sheet")
    s.add_argument("kind", choices=["demo", "training"])
    s.add_argument("out")
    a = p.parse_args()
    rng = np.random.default_rng(SEED)
    if a.command == "sheet":
        sheet(a.kind, rng).save(a.out)
        return
    (a.out / "pictures").mkdir(parents=True, exist_ok=True)
    for split, per_class in (("train", 50), ("test", 25)):
        table = demo_table(split, per_class, rng)
        path = a.out / "pictures" / f"{split}-00000-of-00001.parquet"
        pq.write_table(table, path, row_group_size=256, compression="snappy", use_dictionary=False)
        print(f"{path.name}: {table.num_rows} pictures, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
