"""What OpenCLIP makes of random checkpoints of small sizes: writes open_clip.json and open_clip.safetensors beside this directory.

    pip install open_clip_torch tokenizers
    python tests/golden/make/openclip.py        with open_clip_torch 3.3.0, torch 2.15

Of each model its open_clip_config.json, its weights as float16 (what is computed follows those in float32), and the features
of the golden pictures, through OpenCLIP's own preprocessing, and of some texts, with the tokenizer of the embedded CLIP.
"""

import json
from pathlib import Path

import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

OUT = Path(__file__).parents[1]
DEMO = Path(__file__).parents[3] / "data/demo/clip"
PICTURES = ["image_0_RGB.png", "image_1_RGB.png", "image_2_L.png"]
TEXTS = ["a photo of a red circle", "Blue star!", "a", "two green squares beside a small yellow moon, drawn by hand"]

VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8}
TEXT = {"context_length": 77, "vocab_size": 1414, "width": 16, "heads": 2, "layers": 2}
MODELS = {
    # as ViT-B-32 is described
    "gelu": ({"vision_cfg": VISION, "text_cfg": TEXT}, {}),
    # as ViT-H-14-quickgelu and ViT-bigG-14 are, in the form with a text tower of its own
    "quick": (
        {
            "quick_gelu": True,
            "custom_text": True,
            "vision_cfg": VISION | {"head_width": 16, "mlp_ratio": 3.1, "patch_dropout": 0.0},
            "text_cfg": TEXT | {"hf_tokenizer_name": "openai/clip-vit-large-patch14", "pad_id": 0},
        },
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"},
    ),
    # with LayerScale, as ViT-M-16-alt, and pooled at a token that is not the highest, as MetaCLIP 2
    "scaled": (
        {
            "vision_cfg": VISION | {"ls_init_value": 1e-4, "act_kwargs": {"approximate": "tanh"}},
            "text_cfg": TEXT | {"ls_init_value": 1e-4, "pool_type": "eos", "eos_id": 1413, "norm_kwargs": {"eps": 1e-6}},
        },
        {"interpolation": "bicubic", "resize_mode": "shortest"},
    ),
}


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name == "logit_scale":
            value = torch.tensor(3.0) + 0 * noise
        elif parameter.ndim == 1 and ("ln_" in name and name.endswith("weight") or "gamma" in name):
            value = 1 + 0.2 * noise
        elif parameter.ndim == 1:
            value = 0.1 * noise
        else:
            value = noise * parameter.shape[-1] ** -0.5
        parameter.data = value.half().float()


def main():
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    ids = torch.zeros(len(TEXTS), TEXT["context_length"], dtype=torch.long)
    for row, text in zip(ids, TEXTS):
        tokens = tokenizer.encode(text).ids
        row[: len(tokens)] = torch.tensor(tokens)
    facts, tensors = {"pictures": PICTURES, "texts": TEXTS, "models": {}}, {}
    for seed, (name, (sizes, preprocess)) in enumerate(MODELS.items()):
        sizes = {"embed_dim": 24} | sizes
        open_clip.factory._MODEL_CONFIGS[name] = sizes
        model = open_clip.create_model(name, force_preprocess_cfg=preprocess).eval()
        randomise(model, seed)
        transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        images = torch.stack([transform(Image.open(OUT / picture)) for picture in PICTURES])
        with torch.no_grad():
            tensors[f"{name}.image_features"] = model.encode_image(images)
            tensors[f"{name}.text_features"] = model.encode_text(ids)
        facts["models"][name] = {"model_cfg": sizes, "preprocess_cfg": preprocess}
        for weight, value in model.state_dict().items():
            tensors[f"{name}/{weight}"] = value.half().contiguous()
    (OUT / "open_clip.json").write_text(json.dumps(facts, indent=1) + "\n")
    save_file(tensors, OUT / "open_clip.safetensors")


main()
