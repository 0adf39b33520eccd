"""`make check-decoders`: pictures of every mode, size and format through `cgil extract`, beside what transformers makes
of Pillow's pixels with the same checkpoint.

What Pillow opens must have features of a cosine of at least 0.9999, half of them of 0.999999, and what it refuses must
be in the quarantine. EXCEPTIONS are meant, and docs/design.md says why.
"""

import fnmatch
import io
import json
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel

import files

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "runs" / "decoders"
CGIL = ROOT / "target" / "release" / "cgil"
CHECKPOINT = ROOT / "data" / "demo" / "clip"
LOWEST, MEDIAN = 0.9999, 0.999999
EXCEPTIONS = {
    "tiff/LAB-*": "not read",
    "tiff/lzma-*": "not read",
    "tiff/group3-*": "not read",
    "other/*.pfm": "not read",
    "other/arbitrary.pam": "read, which Pillow does not",
    "bmp/runs-*-jumps.bmp": "what runs jump over is black, with Pillow the first colour",
}
SHOWN = 15


def pixels(image: Image.Image, settings: dict) -> torch.Tensor:
    """What the original CLIP makes of a picture: resized and cropped by Pillow, normalised (1, 3, S, S)."""
    side, (w, h) = settings["size"]["shortest_edge"], image.size
    size = (side, side * h // w) if w < h else (side * w // h, side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in size)
    levels = np.asarray(image.crop((left, top, left + side, top + side))).astype("float32") / 255
    return torch.from_numpy((levels - settings["image_mean"]) / settings["image_std"]).permute(2, 0, 1)[None].float()


def pillows(data: bytes) -> Image.Image | None:
    """The picture as Pillow has it; none where it refuses it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except Exception:  # whatever it is that it raises
        return None


def ask(sql: str) -> list[dict]:
    command = [CGIL, "query", "--run", PLACE / "run", "--format", "json", sql]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore")
    shutil.rmtree(PLACE, ignore_errors=True)
    settings = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    model = CLIPModel.from_pretrained(CHECKPOINT).eval()
    expected: dict[str, np.ndarray | None] = {}
    for name, data in files.all_files():
        path = PLACE / "pictures" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        image = pillows(data)
        expected[f"train/{name}"] = None
        if image is not None:
            with torch.no_grad():
                pooled = model.vision_model(pixel_values=pixels(image, settings)).pooler_output
                expected[f"train/{name}"] = model.visual_projection(pooled)[0].numpy()
    test = PLACE / "pictures" / "test" / "jpeg"  # some picture to test on
    test.mkdir(parents=True)
    shutil.copy(PLACE / "pictures" / "train" / "jpeg" / "turned.jpg", test)
    command = [CGIL, "extract", "--model", CHECKPOINT, "--data", PLACE / "pictures", "--run", PLACE / "run"]
    subprocess.run(command, check=True)
    found = {row["sample_id"]: np.array(row["embedding"]) for row in ask("SELECT sample_id, embedding FROM embeddings")}
    refused = {row["sample_id"]: row["error"] for row in ask("SELECT sample_id, error FROM quarantine")}

    cosines, wrong = [], []
    for name, features in expected.items():
        meant = next((why for pattern, why in EXCEPTIONS.items() if fnmatch.fnmatch(name, f"train/{pattern}")), None)
        if features is None or name not in found:
            if (features is None) != (name in refused) and not meant:
                wrong.append(f"{name}: {'is read, which Pillow refuses' if features is None else refused.get(name)}")
            continue
        cosine = found[name] @ features / np.linalg.norm(found[name]) / np.linalg.norm(features)
        if meant is None:
            cosines.append((cosine, name))
    cosines.sort()
    print(f"{len(expected)} files, {sum(features is None for features in expected.values())} of them refused by Pillow "
          f"{Image.__version__}; {len(EXCEPTIONS)} exceptions\n")
    print("| lowest cosines | file |\n|---|---|")
    print("\n".join(f"| {cosine:.8f} | {name} |" for cosine, name in cosines[:SHOWN]))
    median = cosines[len(cosines) // 2][0]
    print(f"\nmedian {median:.8f}")
    wrong += [f"{name}: cosine {cosine:.6f}" for cosine, name in cosines if cosine < LOWEST]
    if median < MEDIAN:
        wrong.append(f"the median is {median:.8f}")
    sys.exit("\n" + "\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
