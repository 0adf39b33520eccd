"""Random checkpoints in the shapes that people have, beside open_clip and transformers: the table of docs/models.md.

    pip install -r benches/torch/requirements.txt open_clip_torch torchvision sentencepiece protobuf
    python benches/torch/models.py [NAME…]

Every checkpoint is written as its library writes it, `cgil extract` and `cgil prompt-tune` run with it as with any other, and
what they put into the tables is held against the library's own features, images through its own preprocessing; but
transformers' CLIPs through the original CLIP's, which is OpenCLIP's: transformers rounds the margins of the crop down.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as parquet
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPImageProcessor, PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
CGIL = os.environ.get("CGIL", ROOT / "target/release/cgil")
PICTURES = sorted(GOLDEN.glob("image_*_RGB.png")) + sorted(GOLDEN.glob("jpeg_4*.jpg"))
NAMES = ["forest", "red fox", "tabby cat", "a small house by the river"]
TEMPLATE = "a photo of a {}"


def open_clip_size(name, narrower=1, **more):
    """What open_clip's package says of a model, with widths divided."""
    sizes = open_clip.get_model_config(name)
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    vision |= {"width": vision["width"] // narrower, "head_width": vision.get("head_width", 64) // narrower} | more.get("vision", {})
    text |= {"width": text["width"] // narrower} | more.get("text", {})
    return {**sizes, "embed_dim": sizes["embed_dim"] // narrower, "vision_cfg": vision, "text_cfg": text}


def clip_size(act, text, vision, projection):
    names = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    more = {"hidden_act": act}
    return CLIPConfig(
        text_config=dict(zip(names, text)) | more | {"eos_token_id": 49407, "bos_token_id": 49406},
        vision_config=dict(zip(names, vision)) | more | {"patch_size": vision[4], "image_size": vision[5]},
        projection_dim=projection,
    )


def siglip_size(width, layers, heads, patch, image, vocab, intermediate=None):
    same = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": intermediate or 4 * width}
    return SiglipConfig(
        text_config=same | {"vocab_size": vocab, "eos_token_id": 1, "bos_token_id": None},
        vision_config=same | {"patch_size": patch, "image_size": image},
    )


# name: what makes it, and in what it differs from the real one
SHAPES = {
    "OpenCLIP ViT-B-32 (LAION)": lambda: of_open_clip(open_clip_size("ViT-B-32")),
    "OpenCLIP ViT-B-32-quickgelu (OpenAI, MetaCLIP)": lambda: of_open_clip(open_clip_size("ViT-B-32-quickgelu")),
    "OpenCLIP ViT-B-16 (LAION, DataComp)": lambda: of_open_clip(open_clip_size("ViT-B-16")),
    "OpenCLIP ViT-L-14 (LAION), half as wide": lambda: of_open_clip(open_clip_size("ViT-L-14", 2)),
    "OpenCLIP ViT-H-14 (LAION), a quarter as wide": lambda: of_open_clip(open_clip_size("ViT-H-14", 4)),
    "OpenCLIP ViT-H-14-378-quickgelu (DFN5B), a quarter as wide, 12 layers": lambda: of_open_clip(
        open_clip_size("ViT-H-14-378-quickgelu", 4, vision={"layers": 12}),
        {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711], "interpolation": "bicubic", "resize_mode": "squash"},
    ),
    "OpenCLIP ViT-bigG-14 (LAION), an eighth as wide": lambda: of_open_clip(open_clip_size("ViT-bigG-14", 8)),
    "OpenCLIP ViT-M-16-alt, with LayerScale": lambda: of_open_clip(open_clip_size("ViT-M-16-alt")),
    "OpenCLIP, pooled at a given end of text (MetaCLIP 2), CLIP's tokenizer": lambda: of_open_clip(
        open_clip_size("ViT-B-16", 4, text={"pool_type": "eos", "eos_id": 49407})
    ),
    "transformers CLIP B/32, quick_gelu (OpenAI, MetaCLIP)": lambda: of_transformers(
        clip_size("quick_gelu", (512, 2048, 12, 8), (768, 3072, 12, 12, 32, 224), 512)
    ),
    "transformers CLIP H/14, gelu (LAION, DFN), a quarter as wide": lambda: of_transformers(
        clip_size("gelu", (256, 1024, 24, 16), (320, 1280, 32, 16, 14, 224), 256)
    ),
    "transformers SigLIP B/16": lambda: of_transformers(siglip_size(768, 12, 12, 16, 224, 320), "siglip", 3),
    "transformers SigLIP so400m/14 384, a quarter as wide": lambda: of_transformers(
        siglip_size(288, 27, 16, 14, 384, 320, 1076), "siglip", 3
    ),
    "transformers SigLIP 2 B/16 256": lambda: of_transformers(siglip_size(768, 12, 12, 16, 256, 461), "siglip2", 2),
}


def perturb(model):
    """Random norms, biases and LayerScales, which begin as ones and noughts."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and not name.startswith("logit_"):
            value = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.data = 1 + value if "gamma" in name else value
    return model.eval()


def of_open_clip(sizes, preprocess=None):
    preprocess = preprocess or {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    open_clip.factory._MODEL_CONFIGS["random"] = sizes
    torch.manual_seed(0)
    model = perturb(open_clip.create_model("random", force_preprocess_cfg=preprocess))
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)

    def save(directory):
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "open_clip_model.safetensors")
        (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": preprocess}))
        shutil.copy(GOLDEN / "checkpoint/tokenizer.json", directory)

    def features(directory, pictures, texts):
        tokens = open_clip.SimpleTokenizer()(texts, context_length=sizes["text_cfg"].get("context_length", 77))
        return model.encode_image(torch.stack([transform(picture) for picture in pictures])), model.encode_text(tokens)

    return save, features


def of_transformers(config, tokens=None, resample=3):
    torch.manual_seed(0)
    model = perturb((SiglipModel if tokens else CLIPModel)(config))
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    pixels = (
        SiglipImageProcessor(size=square, resample=resample) if tokens else CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square)
    )

    def save(directory):
        model.save_pretrained(directory)
        pixels.save_pretrained(directory)
        if not tokens:
            shutil.copy(GOLDEN / "checkpoint/tokenizer.json", directory)
            return
        from safetensors.torch import load_file

        golden = load_file(GOLDEN / "siglip.safetensors")
        files = json.loads((GOLDEN / "siglip.json").read_text())["models"][tokens]
        for name in ["tokenizer.json", "tokenizer_config.json"]:
            if name in files:
                (directory / name).write_text(json.dumps(files[name]))
        if f"{tokens}.spiece.model" in golden:
            (directory / "spiece.model").write_bytes(golden[f"{tokens}.spiece.model"].numpy().tobytes())

    def features(directory, pictures, texts):
        if tokens:
            values = pixels([picture.convert("RGB") for picture in pictures], return_tensors="pt").pixel_values
            from transformers import Siglip2Tokenizer, SiglipTokenizer

            tokenizer = (SiglipTokenizer if tokens == "siglip" else Siglip2Tokenizer).from_pretrained(directory)
            ids = tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt").input_ids
            return model.vision_model(values).pooler_output, model.text_model(ids).pooler_output
        original = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=side), is_train=False)
        values = torch.stack([original(picture) for picture in pictures])
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), pad_token="<|endoftext|>")
        ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
        image = model.visual_projection(model.vision_model(values).pooler_output)
        return image, model.text_projection(model.text_model(ids).pooler_output)

    return save, features


def cgil(*arguments):
    done = subprocess.run([str(part) for part in [CGIL, *arguments]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)


def table(pattern, run, columns):
    tables = [parquet.read_table(file).select(columns).to_pylist() for file in sorted(run.glob(pattern))]
    return [row for rows in tables for row in rows]


def least_cosine(found, expected):
    found, expected = np.asarray(found, np.float64), expected.detach().numpy().astype(np.float64)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return (unit(found) * unit(expected)).sum(1).min()


def compare(make):
    """The smallest cosines of image and of text features."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        model, data, run = place / "model", place / "data", place / "run"
        model.mkdir()
        save, features = make()
        save(model)
        for name in NAMES:
            for split in ["train", "test"]:
                (data / split / name).mkdir(parents=True)
                for picture in PICTURES:
                    shutil.copy(picture, data / split / name)
        cgil("extract", "--model", model, "--data", data, "--run", run)
        cgil("fit-vae", "--run", run, "--tasks", len(NAMES), "--epochs", 1)
        cgil("prompt-tune", "--run", run, "--epochs", 1, "--samples", 1)
        rows = table("sources/base/embeddings/**/*.parquet", run, ["sample_id", "embedding"])
        found = {Path(row["sample_id"]).name: row["embedding"] for row in rows}
        texts = table("results/*/*/task-01/text_features.parquet", run, ["class_name", "origin", "embedding"])
        unseen = {row["class_name"]: row["embedding"] for row in texts if row["origin"] == "zero_shot"}
        with torch.no_grad():
            images, text = features(model, [Image.open(path) for path in PICTURES], [TEMPLATE.format(name) for name in unseen])
        return least_cosine([found[path.name] for path in PICTURES], images), least_cosine(list(unseen.values()), text)


def main():
    chosen = sys.argv[1:]
    print("| shape, random weights | images | texts |\n| --- | --- | --- |")
    for name, make in SHAPES.items():
        if not chosen or any(part in name for part in chosen):
            print("| " + " | ".join([name, *(f"{cosine:.7f}" for cosine in compare(make))]) + " |", flush=True)


main()
