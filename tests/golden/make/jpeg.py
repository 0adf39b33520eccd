"""JPEGs, Pillow's pixels of them and PyTorch's embeddings: writes jpeg_*.jpg and jpeg.safetensors beside this directory.

    pip install numpy pillow safetensors torch transformers
    python tests/golden/make/jpeg.py

Four are as high as the encoder's pictures, so that nothing is resized and their pixels are the decoder's; the fifth is resized.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from transformers import CLIPModel

OUT = Path(__file__).parents[1]
SIDE = 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(w, h):
    """Gradients, waves, and edges in colours of equal brightness, which subsampled colour blurs."""
    y, x = np.mgrid[0:h, 0:w]
    waves = np.stack([220 * x / w + 20, 230 - 180 * y / h, 120 + 90 * np.sin(x / 5) * np.cos(y / 7)], -1)
    image = Image.fromarray(waves.clip(0, 255).astype("uint8"))
    draw = ImageDraw.Draw(image)
    draw.ellipse([w // 8, h // 6, w // 2, 2 * h // 3], fill=(230, 40, 30))
    draw.rectangle([w // 2, h // 3, 4 * w // 5, 3 * h // 4], fill=(20, 120, 240))
    draw.line([0, h, w, 0], fill=(250, 250, 20), width=3)
    return image


def pixels(path):
    """Shortest side to SIDE, centre crop, 8 bits (3, SIDE, SIDE)."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    w, h = image.size
    image = image.resize((SIDE, SIDE * h // w) if w < h else (SIDE * w // h, SIDE), Image.Resampling.BICUBIC)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE))).transpose(2, 0, 1)


def main():
    small, large = picture(91, SIDE), picture(211, 150)
    files = {
        "jpeg_444.jpg": (small, {"subsampling": "4:4:4"}),
        "jpeg_420.jpg": (small, {"subsampling": "4:2:0"}),
        "jpeg_grey.jpg": (small.convert("L"), {}),
        "jpeg_progressive.jpg": (small, {"subsampling": "4:2:0", "progressive": True}),
        "jpeg_resized.jpg": (large, {"subsampling": "4:2:0"}),
    }
    for name, (image, options) in files.items():
        image.save(OUT / name, "JPEG", quality=90, **options)
    levels = np.stack([pixels(OUT / name) for name in files])  # (5, 3, SIDE, SIDE)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    values = (torch.from_numpy(levels).float() / 255 - mean) / std
    model = CLIPModel.from_pretrained(OUT / "checkpoint").eval()
    with torch.no_grad():
        features = model.visual_projection(model.vision_model(pixel_values=values).pooler_output)  # (5, 48)
    save_file({"levels": levels.copy(), "image_features": features.numpy()}, OUT / "jpeg.safetensors")


main()
